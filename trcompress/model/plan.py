"""From what a user gives (`shape`, `ranks`, `layer`) to the structure of every weight. No torch here.

A plan is a tuple of rules, each a glob over weights with modes and ranks. Resolving it against the weights
of a network gives one `WeightPlan` per matched weight; everything that counts parameters counts them there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

from trcompress.errors import ShapeError, UsageError, one_of
from trcompress.formats import FORMATS, TensorRing, is_ring
from trcompress.formats.tensor_ring import carried_ranks
from trcompress.model.grammar import Ranks, Shape, format_shape, parse_ranks, parse_shape
from trcompress.model.matrix import Matrix, glob_matches
from trcompress.model.weight_plan import WeightPlan

GATE_MODES = ("fused", "per-gate")


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
        exact: refuse ranks above what a bond can carry, instead of lowering them with a note.
    """

    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    ranks: tuple[int, ...]
    layer: str | None = None
    gates: str = "fused"
    format: str = TensorRing.kind
    blocks: int = 2
    exact: bool = False

    @classmethod
    def parse(
        cls,
        shape: Shape,
        ranks: Ranks,
        *,
        layer: str | None = None,
        gates: str = "fused",
        format: str = TensorRing.kind,
        blocks: int = 2,
        exact: bool = False,
    ) -> Rule:
        """Read a rule from text or from numbers.

        Args:
            shape: "4x2x5:4x4", or ((4, 2, 5), (4, 4)).
            ranks: "5,10", 5, or (5, 10).
            layer: see `Rule`, as the others.
            gates: "fused" or "per-gate".
            format: a key of `trcompress.formats.FORMATS`.
            blocks: number of Tucker terms of the block-term format.
            exact: see `Rule`.

        Raises:
            ShapeError: modes or ranks that do not read as such.
            UsageError: an unknown value of `gates` or `format`.

        Example:
            >>> Rule.parse("8x8:4x4", "3,5") == Rule.parse(((8, 8), (4, 4)), (3, 5))
            True
        """
        one_of("gates", gates, GATE_MODES)
        one_of("format", format, FORMATS)
        in_modes, out_modes = parse_shape(shape)
        return cls(in_modes, out_modes, parse_ranks(ranks), layer, gates, format, blocks, exact)

    @classmethod
    def of(cls, weight: WeightPlan) -> Rule:
        """Write the rule that names this weight alone and resolves to its structure."""
        structure, gates = weight.structure, weight.matrix.gates
        first, *rest = structure.out_modes
        folded = not weight.per_gate and first % gates == 0
        out_modes = (first // gates, *rest) if folded else structure.out_modes
        return cls(
            structure.in_modes,
            out_modes,
            structure.ranks,
            layer=weight.name,
            gates=GATE_MODES[weight.per_gate],
            format=structure.kind,
            blocks=structure.blocks,
        )

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
        """Return True where the modes hold this weight without padding."""
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
        structure = FORMATS[self.format].from_ranks(self.in_modes, folded, self.ranks, self.blocks)
        return WeightPlan(matrix, structure, per_gate)

    def carried(self, weight: WeightPlan) -> WeightPlan:
        """Lower the ranks of a ring to what its bonds can carry; the weight notes it.

        Raises:
            ShapeError: they are above it, and the rule is `exact`.
        """
        structure = weight.structure
        if not is_ring(structure):
            return weight
        ranks = carried_ranks(structure.ranks, structure.in_modes, structure.out_modes)
        if ranks == structure.ranks:
            return weight
        if self.exact:
            raise ShapeError(
                f"{weight.name}: ranks must be what the bonds can carry: {','.join(map(str, structure.ranks))} are "
                f"above {','.join(map(str, ranks))}; give these, or leave out `exact`"
            )
        return replace(weight, structure=replace(structure, ranks=ranks), asked_ranks=structure.ranks)


@dataclass(frozen=True)
class ResolvedPlan:
    """A plan matched against the weights of a network: made once, carried out as it is.

    Args:
        weights: the structure of every weight that a rule takes.
        skipped: the weights that stay dense, each with the reason.
    """

    weights: tuple[WeightPlan, ...]
    skipped: tuple[tuple[Matrix, str], ...] = ()

    def resolve(self, matrices: Sequence[Matrix]) -> tuple[WeightPlan, ...]:
        """Return the weights as they were resolved.

        Raises:
            UsageError: one of them is not among the matrices.
        """
        known = set(matrices)
        if strange := [weight.name for weight in self.weights if weight.matrix not in known]:
            raise UsageError(f"the plan was resolved for another network: this one has no {', '.join(strange)}")
        return self.weights


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
    def of(
        cls, shape: Shape, ranks: Ranks, *, layer: str | None = None, gates: str = "fused", exact: bool = False
    ) -> Plan:
        """Build a plan of one rule from text or from numbers; see `Rule.parse`."""
        return cls((Rule.parse(shape, ranks, layer=layer, gates=gates, exact=exact),))

    def resolve(self, matrices: Sequence[Matrix], *, as_given: bool = False) -> tuple[WeightPlan, ...]:
        """Match the rules against the weights of a network.

        Args:
            matrices: the weights.
            as_given: keep ranks above what a bond can carry, for layers that are trained at these ranks.

        Raises:
            UsageError: a rule's glob matches no weight.
            ShapeError: a rule's modes cannot hold a weight that its glob names, or fit no weight at all; ranks are
                above what a bond can carry, and the rule is `exact`.
        """
        return self.against(matrices, as_given=as_given).weights

    def against(self, matrices: Sequence[Matrix], *, as_given: bool = False) -> ResolvedPlan:
        """Match the rules against the weights of a network, and say why the others stay dense; see `resolve`."""
        taken: dict[str, WeightPlan] = {}
        for rule in self.rules:
            free = [matrix for matrix in matrices if matrix.key not in taken]
            found = [rule.resolve(matrix) for matrix in _choose(rule, free, matrices)]
            taken |= {one.name: one if as_given else rule.carried(one) for one in found}
        return ResolvedPlan(
            tuple(taken[matrix.key] for matrix in matrices if matrix.key in taken),
            tuple((matrix, self._reason(matrix)) for matrix in matrices if matrix.key not in taken),
        )

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
