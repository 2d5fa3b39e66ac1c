"""Where the parameters and bytes of a model sit, before and after: by tensor, and by part of the network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from torch import Tensor

from trcompress.artifact.file import Artifact
from trcompress.model.weight_plan import WeightPlan

ROLE_PARTS = {
    "weight_ih": "input-to-hidden",
    "weight_hh": "hidden-to-hidden",
    "weight_hr": "projections",
    "bias_ih": "recurrent biases",
    "bias_hh": "recurrent biases",
}
MAX_PARTS = 8
"""A picture of more than this many parts says nothing; the smallest go together."""
REST = "other parts"


@dataclass(frozen=True)
class TensorReport:
    """One tensor of the dense model, and what is kept of it.

    Args:
        name: its key in the checkpoint.
        part: the part of the network it belongs to.
        before: values in the checkpoint.
        after: values in the artifact.
        bytes_before: bytes in the checkpoint.
        bytes_after: bytes in the artifact.
    """

    name: str
    part: str
    before: int
    after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True)
class PartReport:
    """One part of the network: all its tensors together."""

    name: str
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int


def tensor_reports(
    artifact: Artifact, plans: Mapping[str, WeightPlan], dense_bytes: Mapping[str, int] | None = None
) -> tuple[TensorReport, ...]:
    """List every tensor of the dense model, the compressed ones first.

    Args:
        artifact: the compressed model.
        plans: its compressed weights.
        dense_bytes: bytes of every compressed weight in the checkpoint; None: as the header remembers them.
    """
    cores = {
        name: [f"{name}.core.{k}" for k in range(len(one.structure.core_shapes))] for name, one in plans.items()
    }
    aliases = artifact.aliases
    inside = {key for keys in cores.values() for key in keys}
    kept = {key: one for key, one in artifact.tensors.items() if key not in inside and key not in aliases}
    before = dense_bytes or _remembered_bytes(artifact, plans, kept)
    parts, original = _parts_of(artifact), artifact.header.original
    compressed = (
        TensorReport(
            name,
            parts.get(name, REST),
            prod(original.get(name, (plan.matrix.parameters,))),
            plan.parameters,
            before[name],
            sum(artifact.stored_bytes(key) for key in cores[name]),
        )
        for name, plan in plans.items()
    )
    unchanged = (
        TensorReport(
            key,
            parts.get(key) or _module(key),
            values := prod(original.get(key, tuple(one.shape))),
            one.numel(),
            values * one.element_size(),
            artifact.stored_bytes(key),
        )
        for key, one in kept.items()
    )
    return (*compressed, *unchanged)


def part_reports(tensors: Iterable[TensorReport]) -> tuple[PartReport, ...]:
    """Add tensors up by part, the largest before first.

    Example:
        >>> part_reports([TensorReport("fc.weight", "fc", 6, 6, 24, 24), TensorReport("fc.bias", "fc", 2, 2, 8, 8)])
        (PartReport(name='fc', parameters_before=8, parameters_after=8, bytes_before=32, bytes_after=32),)
    """
    groups: dict[str, list[TensorReport]] = {}
    for one in tensors:
        groups.setdefault(one.part, []).append(one)
    ranked = sorted(groups, key=lambda part: -sum(one.bytes_before for one in groups[part]))
    shown = [part for part in ranked if part != REST][: MAX_PARTS if len(ranked) <= MAX_PARTS else MAX_PARTS - 1]
    rest = [one for part in ranked if part not in shown for one in groups[part]]
    return tuple(
        PartReport(
            part,
            sum(one.before for one in members),
            sum(one.after for one in members),
            sum(one.bytes_before for one in members),
            sum(one.bytes_after for one in members),
        )
        for part, members in [*((part, groups[part]) for part in shown), (REST, rest)]
        if members
    )


def _parts_of(artifact: Artifact) -> dict[str, str]:
    """The part of every tensor that belongs to a recurrent layer, by its key."""
    return {key: ROLE_PARTS.get(role, role) for layer in artifact.header.layers for role, key in layer.keys.items()}


def _module(key: str) -> str:
    return key.rpartition(".")[0] or key


def _remembered_bytes(
    artifact: Artifact, plans: Mapping[str, WeightPlan], kept: Mapping[str, Tensor]
) -> dict[str, int]:
    """Bytes of the dense weights: what the source held beyond the tensors kept, else the cores' own type's."""
    values = sum(plan.matrix.parameters for plan in plans.values())
    source = artifact.header.source
    missing = source.tensor_bytes - sum(one.nbytes for one in kept.values()) if source else 0
    if missing in (2 * values, 4 * values, 8 * values):
        return {name: missing // values * plan.matrix.parameters for name, plan in plans.items()}
    original = artifact.header.original
    return {
        name: artifact.tensors[f"{name}.core.0"].element_size()
        * prod(original.get(name, (plan.matrix.parameters,)))
        for name, plan in plans.items()
    }
