"""From what a user types (`shape`, `ranks`, `layer`) to the structure of every weight. No torch here.

A plan is a tuple of rules, each a glob over weights with modes and ranks. Resolving it against the weights
of a network gives one `WeightPlan` per matched weight; everything that counts parameters counts them there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from trcompress.errors import ShapeError, UsageError
from trcompress.formats import BlockTerm, Format, TensorRing, TensorTrain
from trcompress.model.grammar import Ranks, Shape, format_shape, parse_ranks, parse_shape
from trcompress.model.matrix import Matrix, glob_matches

GATE_MODES = ("fused", "per-gate")


@dataclass(frozen=True)
class WeightPlan:
    """The structure that replaces one weight.

    Args:
        matrix: the weight: its name and sizes.
        structure: the format with its modes and ranks; gates are folded into the first output mode, unless
            `per_gate`, where it is the structure of each gate's own ring.
        per_gate: one ring per gate instead of one for all.
    """

    matrix: Matrix
    structure: Format
    per_gate: bool = False

    @property
    def name(self) -> str:
        """The weight's key, as in `rnn.weight_ih_l0`."""
        return self.matrix.key

    @property
    def copies(self) -> int:
        """How many structures of this kind stand for the weight: the gates if `per_gate`, else 1."""
        return self.matrix.gates if self.per_gate else 1

    @property
    def parameters(self) -> int:
        """Values kept for this weight."""
        return self.copies * self.structure.parameters

    @property
    def compression_ratio(self) -> float:
        """Eq. 7: dense values over kept values, of this matrix alone; padding is not counted as dense."""
        return self.matrix.parameters / self.parameters

    @property
    def padded_input(self) -> int:
        """Product of the input modes: the input size, or more where it was padded with zeros."""
        return prod(self.structure.in_modes)

    @property
    def padded_hidden(self) -> int:
        """Rows that each gate takes in the structure: the hidden size, or more where it was padded."""
        return prod(self.structure.out_modes) // (1 if self.per_gate else self.matrix.gates)

    @property
    def rule(self) -> Rule:
        """The rule that names this weight alone and resolves to this structure (a ring)."""
        modes, gates = self.structure.out_modes, self.matrix.gates
        folded = not self.per_gate and modes[0] % gates == 0
        out_modes = (modes[0] // gates, *modes[1:]) if folded else modes
        ranks = self.structure.ranks[:-1] if isinstance(self.structure, TensorRing) else ()
        return Rule(
            self.structure.in_modes,
            out_modes,
            ranks,
            layer=self.name,
            gates=GATE_MODES[self.per_gate],
            format=self.structure.kind,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What differs from a plain reshape, in words."""
        pads = (
            ("inputs", self.matrix.columns, self.padded_input),
            ("hidden units per gate", self.matrix.gate_rows, self.padded_hidden),
        )
        return tuple(
            f"{what} zero-padded from {size:,} to {padded:,}" for what, size, padded in pads if size != padded
        )


@dataclass(frozen=True)
class Rule:
    """One line of a plan: which weights, and the structure they get.

    Args:
        in_modes: input modes, whose product is the input size (or more: the layer zero-pads).
        out_modes: output modes of one gate (their product the hidden size), or of all gates stacked.
        ranks: one number for all; two for (inner, R0); or all of R0 .. R(n+m-1), the closing one optional.
            Empty: the full ranks, at which the structure is exact.
        layer: glob over weight keys (`rnn.weight_ih_l0`), stacks (`rnn`) or layers (`rnn.l0_reverse`);
            None matches every weight that the shape fits exactly, or with padding where none fits exactly.
        gates: "fused" folds the gates into the first output mode; "per-gate" gives each gate a ring.
        format: a key of `trcompress.formats.FORMATS`.
        blocks: number of Tucker terms of the block-term format.
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    ranks: tuple[int, ...]
    layer: str | None = None
    gates: str = "fused"
    format: str = TensorRing.kind
    blocks: int = 2

    @classmethod
    def parse(cls, shape: Shape, ranks: Ranks, *, layer: str | None = None, gates: str = "fused") -> Rule:
        """Read a rule from the command line's text, or from numbers.

        Raises:
            ShapeError: the text is not of the form `4x2:4x4` or `5,10`.
            UsageError: `gates` is neither "fused" nor "per-gate".

        Example:
            >>> Rule.parse("8x8:4x4", "3,5").in_modes
            (8, 8)
        """
        if gates not in GATE_MODES:
            raise UsageError(f"gates must be one of {', '.join(GATE_MODES)}: got {gates!r}")
        in_modes, out_modes = parse_shape(shape)
        return cls(in_modes, out_modes, parse_ranks(ranks), layer, gates)

    @property
    def shape(self) -> str:
        """The modes as the command line spells them."""
        return format_shape(self.in_modes, self.out_modes)

    def misfit(self, matrix: Matrix) -> str | None:
        """Say why the modes cannot hold this weight, or return None where they can."""
        inputs, outputs = prod(self.in_modes), prod(self.out_modes)
        if inputs < matrix.columns:
            modes = "x".join(map(str, self.in_modes))
            return (
                f"the input modes must multiply to at least the input size: {modes} = {inputs:,} < "
                f"{matrix.columns:,}; raise a mode (a product above the size is zero-padded)"
            )
        hidden = matrix.gate_rows
        if hidden <= outputs < 2 * hidden or (outputs == matrix.rows and self.gates == "fused"):
            return None
        stacked = f" or {matrix.rows:,} (all {matrix.gates} gates)" if self.gates == "fused" else ""
        return (
            f"the output modes must multiply to the hidden size {hidden:,}{stacked}, "
            f"or less than twice it to zero-pad: got {'x'.join(map(str, self.out_modes))} = {outputs:,}"
        )

    def fits_exactly(self, matrix: Matrix) -> bool:
        """Whether the modes hold this weight without padding."""
        outputs = {matrix.gate_rows, matrix.gate_rows if self.gates == "per-gate" else matrix.rows}
        return prod(self.in_modes) == matrix.columns and prod(self.out_modes) in outputs

    def resolve(self, matrix: Matrix) -> WeightPlan:
        """Give the weight its structure.

        Raises:
            ShapeError: the modes cannot hold the weight, or the ranks do not close the ring.
        """
        if problem := self.misfit(matrix):
            raise ShapeError(f"{matrix.key}: {problem}")
        per_gate = self.gates == "per-gate" and matrix.gates > 1
        stacked = per_gate or prod(self.out_modes) == matrix.rows
        folded = self.out_modes if stacked else (matrix.gates * self.out_modes[0], *self.out_modes[1:])
        return WeightPlan(matrix, self._structure(folded), per_gate)

    def _structure(self, out_modes: tuple[int, ...]) -> Format:
        if self.format == TensorRing.kind:
            return TensorRing(self.in_modes, out_modes, ring_ranks(self.ranks, self.in_modes, out_modes))
        if len(self.ranks) != 1:
            raise ShapeError(f"a {self.format} takes one rank for all its modes: got {self.ranks}")
        rank = self.ranks[0]
        if self.format == TensorTrain.kind:
            inner = [rank] * (len(self.in_modes) - 1)
            return TensorTrain(self.in_modes, out_modes, (1, *inner, 1))
        return BlockTerm(self.in_modes, out_modes, rank, self.blocks)


@dataclass(frozen=True)
class Plan:
    """Rules in order; the first rule whose glob matches a weight takes it.

    Example:
        >>> plan = Plan.of("4x2x5x8x6x5x3x2:4x4x2x4x2", "5,10")
        >>> weight, = plan.resolve([Matrix.input_to_hidden("weight_ih_l0", "lstm", 57600, 256)])
        >>> weight.parameters, round(weight.compression_ratio, 2)
        (1725, 34192.7)
    """

    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, shape: Shape, ranks: Ranks, *, layer: str | None = None, gates: str = "fused") -> Plan:
        """Build a plan of one rule, from the command line's text or from numbers; see `Rule.parse`."""
        return cls((Rule.parse(shape, ranks, layer=layer, gates=gates),))

    def resolve(self, matrices: Sequence[Matrix]) -> tuple[WeightPlan, ...]:
        """Match the rules against the weights of a network.

        Raises:
            UsageError: a rule's glob matches no weight.
            ShapeError: a rule's modes cannot hold a weight that its glob names, or fit no weight at all.
        """
        taken: dict[str, WeightPlan] = {}
        for rule in self.rules:
            free = [matrix for matrix in matrices if matrix.key not in taken]
            taken |= {matrix.key: rule.resolve(matrix) for matrix in _choose(rule, free, matrices)}
        return tuple(taken[matrix.key] for matrix in matrices if matrix.key in taken)

    def skipped(self, matrices: Sequence[Matrix]) -> tuple[tuple[Matrix, str], ...]:
        """List the weights that stay dense, each with the reason."""
        chosen = {weight.name for weight in self.resolve(matrices)}
        return tuple((matrix, self._reason(matrix)) for matrix in matrices if matrix.key not in chosen)

    def _reason(self, matrix: Matrix) -> str:
        open_rules = [rule for rule in self.rules if rule.layer is None]
        if not open_rules:
            return "no `layer` names it"
        return open_rules[0].misfit(matrix) or (
            f"{open_rules[0].shape} would fit only with padding, and fits another layer exactly; "
            f"name this one with `layer` to pad it"
        )


def _choose(rule: Rule, free: Sequence[Matrix], every: Sequence[Matrix]) -> list[Matrix]:
    if rule.layer is not None:
        named = [matrix for matrix in free if glob_matches(rule.layer, matrix)]
        if not named:
            known = ", ".join(matrix.key for matrix in every) or "none"
            raise UsageError(f"`layer` must match a recurrent weight: {rule.layer!r} matches none of: {known}")
        return named
    exact = [matrix for matrix in free if rule.fits_exactly(matrix)]
    padded = [matrix for matrix in free if not rule.misfit(matrix) and prod(rule.in_modes) < 2 * matrix.columns]
    if not exact and not padded:
        raise ShapeError(_fits_nothing(rule, free))
    return exact or padded


def _fits_nothing(rule: Rule, matrices: Iterable[Matrix]) -> str:
    wasteful = f"the input modes of {rule.shape} multiply to twice the input size or more; drop or shrink a mode"
    reasons = [f"{matrix.key} ({matrix.describe()}): {rule.misfit(matrix) or wasteful}" for matrix in matrices]
    return f"`shape={rule.shape}` fits no layer:\n  " + "\n  ".join(reasons or ["no layer is left for it"])


def ring_ranks(given: Sequence[int], in_modes: Sequence[int], out_modes: Sequence[int]) -> tuple[int, ...]:
    """Spell out R0 .. R(n+m) from the short forms of the rank grammar.

    Args:
        given: () for the full ranks, (r,) for all, (inner, R0), or n+m (or n+m+1) numbers.
        in_modes: input modes.
        out_modes: output modes, gates folded in.

    Raises:
        ShapeError: another number of ranks, or a last one that differs from the first.

    Example:
        >>> ring_ranks((5, 10), (4, 2), (8, 3))
        (10, 5, 5, 5, 10)
    """
    modes = (*in_modes, *out_modes)
    d = len(modes)
    if not given:
        return tuple(min(prod(modes[:k]), prod(modes[k:])) for k in range(d + 1))
    if len(given) == 1:
        return (given[0],) * (d + 1)
    if len(given) in (d, d + 1):
        if len(given) == d + 1 and given[0] != given[-1]:
            raise ShapeError(
                f"ranks must close the ring: got R0={given[0]} and R{d}={given[-1]}; "
                f"set both ends to the same value, or give only R0..R{d - 1}"
            )
        return (*given, given[0]) if len(given) == d else tuple(given)
    if len(given) == 2:
        return (given[1], *[given[0]] * (d - 1), given[1])
    raise ShapeError(
        f"ranks must be one number (all), two (inner,R0) or {d} (R0..R{d - 1}) for {d} modes: "
        f"got {len(given)} numbers {','.join(map(str, given))}"
    )
