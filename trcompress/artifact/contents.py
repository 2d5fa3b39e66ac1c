"""What an artifact holds, without its dense checkpoint: every tensor, its form, its storage and its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.parts import tensor_reports
from trcompress.model.grammar import format_shape
from trcompress.model.layer import Layer
from trcompress.model.weight_plan import WeightPlan


@dataclass(frozen=True)
class TensorContents:
    """One tensor of the model, or the weight that cores stand for.

    Args:
        name: its key in the dense state dict.
        part: of the network.
        shape: of the dense tensor as it would be expanded now.
        form: "dense", or the format with modes and ranks.
        values: kept.
        storage: types that its values lie in, and the bytes in each before entropy coding.
    """

    name: str
    part: str
    shape: tuple[int, ...]
    form: str
    values: int
    storage: Mapping[str, int]

    @property
    def nbytes(self) -> int:
        """Before entropy coding."""
        return sum(self.storage.values())


@dataclass(frozen=True)
class Contents:
    """All that an artifact holds.

    Args:
        path: of the file.
        file_bytes: of it.
        tensor_bytes: of all tensors, before entropy coding; tied ones once.
        packed: whether integers are entropy-coded, and by which codecs.
        version: of the header.
        history: whether the file, or the one beside it, tells how it came about.
        layers: (name, kind, sizes) of every recurrent layer and direction.
        tensors: everything, the compressed weights first.
        storage: bytes by type, over all tensors.
        baseline: the dense checkpoint it came from: file, sha256, bytes of its tensors; None where it is not told.
        model_bytes_ratio: bytes of that checkpoint's tensors over those of this file; None where it is not told.
        lineage: the commands that led here, or verbs where there was none.
        passes: how often each pass was recorded.
    """

    path: str
    file_bytes: int
    tensor_bytes: int
    packed: tuple[str, ...]
    version: int
    history: bool
    layers: tuple[tuple[str, str, str], ...]
    tensors: tuple[TensorContents, ...]
    storage: Mapping[str, int]
    baseline: Mapping[str, Any] | None
    model_bytes_ratio: float | None
    lineage: tuple[str, ...]
    passes: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"tensors": [asdict(one) | {"bytes": one.nbytes} for one in self.tensors]}


def artifact_contents(path: str | Path) -> Contents:
    """List what an artifact holds.

    Raises:
        InputFileError: missing, damaged, or not an artifact.
    """
    artifact = read_artifact(path)
    header, file_bytes = artifact.header, Path(path).stat().st_size
    tensors = tuple(_tensors(artifact))
    source, passes = header.source, [one.kind for one in header.passes]
    return Contents(
        path=str(path),
        file_bytes=file_bytes,
        tensor_bytes=artifact.tensor_bytes,
        packed=tuple(dict.fromkeys(codec for codec, _ in header.packed)),
        version=header.version,
        history=bool(header.lineage or source),
        layers=tuple((one.name, one.kind, _sizes(one)) for one in header.layers),
        tensors=tensors,
        storage=_added(one.storage for one in tensors),
        baseline=None
        if source is None
        else {"file": source.file, "sha256": source.sha256, "tensor_bytes": source.tensor_bytes},
        model_bytes_ratio=source.tensor_bytes / file_bytes if source else None,
        lineage=tuple(step.command or step.verb for step in header.lineage),
        passes={kind: passes.count(kind) for kind in dict.fromkeys(passes)},
    )


def _tensors(artifact: Artifact) -> list[TensorContents]:
    plans = artifact.distinct_plans()
    found = []
    for one in tensor_reports(artifact, plans):
        plan = plans.get(one.name)
        keys = [one.name] if plan is None else [f"{one.name}.core.{k}" for k in range(len(plan.core_shapes))]
        shape = tuple(artifact.tensors[one.name].shape) if plan is None else (plan.matrix.rows, plan.matrix.columns)
        form, values = "dense" if plan is None else _form(plan), prod(shape) if plan is None else plan.parameters
        storage = _added({_stored_type(artifact, key): artifact.stored_bytes(key)} for key in keys)
        found.append(TensorContents(one.name, one.part, shape, form, values, storage))
    return found


def _stored_type(artifact: Artifact, key: str) -> str:
    """Name the type that a tensor is stored in: a key of `STORAGE`, or its own."""
    stored = artifact.stored.get(key)
    return stored.kind if stored else str(artifact.tensors[key].dtype).removeprefix("torch.")


def _form(plan: WeightPlan) -> str:
    structure = plan.structure
    rings = f"{plan.copies} x " if plan.copies > 1 else ""
    ranks = ",".join(map(str, structure.ranks))
    return f"{rings}{structure.kind} {format_shape(structure.in_modes, structure.out_modes)} ranks {ranks}"


def _sizes(layer: Layer) -> str:
    projected = f" (projected to {layer.proj_size:,})" if layer.proj_size else ""
    return f"{layer.input_size:,} -> {layer.hidden_size:,}{projected}"


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
