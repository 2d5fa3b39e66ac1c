"""What `compress_` came to: every weight with its ring, its error and what it cost; what stayed dense, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, overload

from torch import nn

from trcompress.artifact.report import Report, make_report
from trcompress.artifact.save import save, to_artifact
from trcompress.decomposition.weight import CompressedWeight
from trcompress.layers import CoreWeight
from trcompress.model.grammar import format_shape
from trcompress.model.header import Step
from trcompress.util.text import aligned
from trcompress.version import __version__

MOST_ROWS = 4
"""Weights that a printed result lists; with its head, what stayed dense and notes it stays under ten lines."""
COLUMNS = ("weight", "ring", "values before", "after", "error", "bound", "share", "outputs")


@dataclass(frozen=True)
class Replacement:
    """One module that `compress_` swapped.

    Args:
        name: in the model; the first where it is registered twice.
        before: the dense module; it shares all parameters that were not replaced with `after`.
        after: the ring layer.
        weights: what was found for each weight.
    """

    name: str
    before: nn.Module
    after: nn.Module
    weights: tuple[CompressedWeight, ...]


@dataclass(frozen=True)
class MatrixResult:
    """One weight.

    Args:
        key: its name in the dense state dict.
        also: other names of the same weight, tied to it.
        form: the format, modes and ranks in words.
        before: values of the dense weight.
        after: values kept.
        error: ||W - W_hat|| / ||W|| of the cores as the layer holds them.
        bound: no structure of these ranks has a smaller error.
        share: of all values kept for compressed weights.
        distance_plain: of the model's outputs with this weight alone decomposed without data; None without data.
        distance: of the model's outputs with this weight alone as it is now; None without data.
    """

    key: str
    also: tuple[str, ...]
    form: str
    before: int
    after: int
    error: float
    bound: float
    share: float
    distance_plain: float | None = None
    distance: float | None = None


@dataclass(frozen=True, repr=False, eq=False)
class Compressed(Sequence[Replacement]):
    """The result of `compress_`: a sequence of replacements, and figures of the whole.

    Args:
        model: the compressed model; the new layer, where the model itself was the recurrent layer.
        replacements: every module that was swapped.
        left: (name, reason) of recurrent modules and weights that stayed dense.
        tied: key of a weight -> its other names.
        facts: what calibration measured; empty without data.
        notes: what was decided, in words.
        step: how it was done, for the lineage.
    """

    model: nn.Module
    replacements: tuple[Replacement, ...]
    left: tuple[tuple[str, str], ...] = ()
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    step: Step = field(default_factory=lambda: Step(verb="compress_", command="", version=__version__))

    @overload
    def __getitem__(self, index: int) -> Replacement: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Replacement, ...]: ...
    def __getitem__(self, index: int | slice) -> Replacement | tuple[Replacement, ...]:
        return self.replacements[index]

    def __len__(self) -> int:
        return len(self.replacements)

    @property
    def weights(self) -> dict[str, CompressedWeight]:
        """What was found, by key; a tied weight under each of its names."""
        return {one.plan.name: one for replacement in self.replacements for one in replacement.weights}

    @property
    def rows(self) -> tuple[MatrixResult, ...]:
        """Figures of every distinct weight."""
        repeated = {name for names in self.tied.values() for name in names}
        once = [one for key, one in self.weights.items() if key not in repeated]
        kept = sum(one.plan.parameters for one in once)
        return tuple(self._row(one, kept) for one in once)

    @property
    def compression_ratio(self) -> float:
        """Eq. 7 over all compressed weights together."""
        return sum(row.before for row in self.rows) / sum(row.after for row in self.rows)

    @property
    def model_ratio(self) -> float:
        """Parameters of the whole model, before over after."""
        after = sum(parameter.numel() for parameter in self.model.parameters())
        return (after + sum(row.before - row.after for row in self.rows)) / after

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the new parameters, each once: what an optimizer made earlier has to be given.

        Example:
            >>> import torch, trcompress
            >>> model = torch.nn.Sequential(torch.nn.LSTM(12, 8))
            >>> optimizer = torch.optim.Adam(model.parameters())
            >>> result = trcompress.compress_(model, trcompress.Plan.of("4x3:4x2", 2))
            >>> optimizer.add_param_group({"params": list(result.parameters())})
        """
        seen: set[int] = set()
        for replacement in self.replacements:
            for one in replacement.weights:
                weight = replacement.after.get_submodule(self._local(replacement, one))
                for core in weight.core if isinstance(weight, CoreWeight) else ():
                    if id(core) not in seen:
                        seen.add(id(core))
                        yield core

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as an artifact, with errors and bounds; see `trcompress.save`."""
        return save(self.model, path, overwrite=overwrite, found=self.weights, lineage=(self.step,))

    def report(self) -> Report:
        """Report on the model as it is now; see `trcompress.report`."""
        return make_report(to_artifact(self.model, found=self.weights, lineage=(self.step,)))

    def __repr__(self) -> str:
        rows = [("", *COLUMNS[1:]), *([row.key, *_cells(row)] for row in self.rows[:MOST_ROWS])]
        lines = [self._headline(), *aligned(rows)]
        if len(self.rows) > MOST_ROWS:
            lines.append(f"  and {len(self.rows) - MOST_ROWS} more")
        return "\n".join([*lines, *self._remarks()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in (row.key, *_cells(row))) + "</tr>"
            for row in self.rows
        )
        remarks = "".join(f"<p>{escape(f'{name} stays dense: {reason}')}</p>" for name, reason in self.left)
        remarks += "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<p>{escape(self._headline())}</p><table><tr>{head}</tr>{body}</table>{remarks}"

    def _headline(self) -> str:
        whole = (
            f"{len(self.rows)} recurrent weight{'s' if len(self.rows) != 1 else ''} compressed "
            f"{self.compression_ratio:,.2f}x (Eq. 7), the whole model {self.model_ratio:,.2f}x"
        )
        return whole + (f"\n  {self._distances()}" if self.facts else "")

    def _distances(self) -> str:
        """How far the outputs moved with everything in place, step by step."""
        steps = {
            "difference_plain": "without data",
            "difference_chosen": "calibrated",
            "difference_refined": "refined",
        }
        moved = ", ".join(f"{self.facts[key]:.4g} {name}" for key, name in steps.items() if key in self.facts)
        return f"{self.facts['measure']}, held out: {moved}"

    def _remarks(self) -> list[str]:
        """At most two lines: what stayed dense, and what else there is to say."""
        lines = []
        if self.left:
            name, reason = self.left[0]
            more = f"; and {len(self.left) - 1} more" if len(self.left) > 1 else ""
            lines.append(f"  dense: {name}: {reason}{more}")
        if self.notes:
            lines.append(
                f"  {self.notes[0]}" + (f"; and {len(self.notes) - 1} more" if len(self.notes) > 1 else "")
            )
        return [line if len(line) < 160 else f"{line[:157]}..." for line in lines]

    def _row(self, one: CompressedWeight, kept: int) -> MatrixResult:
        plan = one.plan
        ranks = ",".join(map(str, getattr(plan.structure, "ranks", ())))
        rings = f"{plan.copies} of " if plan.copies > 1 else ""
        return MatrixResult(
            key=plan.name,
            also=self.tied.get(plan.name, ()),
            form=f"{rings}{format_shape(plan.structure.in_modes, plan.structure.out_modes)} ranks {ranks}",
            before=plan.matrix.parameters,
            after=plan.parameters,
            error=one.error,
            bound=one.bound,
            share=plan.parameters / kept,
            distance_plain=self.facts.get("matrices", {}).get(plan.name, {}).get("difference_plain"),
            distance=self.facts.get("matrices", {}).get(plan.name, {}).get("difference"),
        )

    @staticmethod
    def _local(replacement: Replacement, one: CompressedWeight) -> str:
        stack = one.plan.matrix.stack
        return one.plan.name.removeprefix(f"{stack}.") if stack else one.plan.name


def _cells(row: MatrixResult) -> list[str]:
    return [
        row.form if len(row.form) < 60 else f"{row.form[:57]}...",
        f"{row.before:,}",
        f"{row.after:,}",
        f"{row.error:.4f}",
        f"{row.bound:.4f}",
        f"{row.share:.0%}",
        "" if row.distance is None else f"{row.distance_plain:.4g} -> {row.distance:.4g}",
    ]
