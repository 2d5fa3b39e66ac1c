"""A live model to an artifact: `save`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trcompress.artifact.describe import artifact_layers, tied_keys
from trcompress.artifact.file import Artifact
from trcompress.artifact.quantized import QuantizedTensor
from trcompress.artifact.storage import Stored
from trcompress.artifact.write import write_artifact
from trcompress.decomposition.weight import CompressedWeight
from trcompress.errors import UsageError
from trcompress.layers import CoreWeight
from trcompress.model.header import Header, PassRecord, SourceFile, Step, Weight
from trcompress.version import __version__


def save(
    model: nn.Module,
    path: str | Path,
    *,
    overwrite: bool = False,
    source: SourceFile | None = None,
    lineage: tuple[Step, ...] = (),
    metrics: dict[str, Any] | None = None,
    found: Mapping[str, CompressedWeight] | None = None,
    allow_nonfinite: Sequence[str] = (),
    stored: Mapping[str, Stored] | None = None,
    passes: tuple[PassRecord, ...] = (),
    original: Mapping[str, tuple[int, ...]] | None = None,
    packed: bool = False,
    sidecar: bool = False,
) -> Path:
    """Write a model whose recurrent layers are (partly) rings as one artifact.

    Args:
        model: any module; `load_` puts the file back into a model of the same class.
        path: the output, usually ending in `.safetensors`.
        overwrite: replace an existing file.
        source: the dense checkpoint it came from.
        lineage: the commands that led here.
        metrics: measured figures to carry along.
        found: how the cores of a weight were found, by its key: error, bound and notes; `compress_` tells.
        allow_nonfinite: keys of tensors that are meant to hold NaN or Inf, as masks do.
        stored: tensors that the file holds in few bits, by their names in the model's state.
        passes: what was done to the model beside rings.
        original: shapes that tensors had before they were resized, by name.
        packed: entropy-code what is stored in few bits.
        sidecar: write the history of a small file beside it.

    Returns:
        The path written.

    Raises:
        UsageError: the model holds no compressed layer, and nothing tells of its making.
        InputFileError: a parameter holds NaN or Inf.
        OutputFileError: the path exists or cannot be written.

    Example:
        >>> import tempfile, trcompress
        >>> layer = trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="3")
        >>> folder = tempfile.mkdtemp()
        >>> path = trcompress.save(layer, folder + "/layer.safetensors")
        >>> list(trcompress.load(path)) == [""]
        True
    """
    made = bool(lineage)
    if allow_nonfinite:
        told = {"reading": {"allowed_nonfinite": list(allow_nonfinite)}}
        lineage = (*lineage, Step(verb="save", command="", version=__version__, settings=told))
    artifact = to_artifact(
        model,
        source=source,
        lineage=lineage,
        metrics=metrics,
        found=found,
        stored=stored,
        passes=passes,
        original=original,
    )
    if not (artifact.header.weights or artifact.stored or passes or made):
        raise UsageError(
            "nothing to save as an artifact: the model holds no ring layer; call compress_ first, or, where it "
            "had a size of the file as its goal, `save` of what it returned; save_pretrained takes that too"
        )
    artifact.packed = packed
    return write_artifact(path, artifact, overwrite=overwrite, sidecar=sidecar)


def to_artifact(
    model: nn.Module,
    *,
    source: SourceFile | None = None,
    lineage: tuple[Step, ...] = (),
    metrics: dict[str, Any] | None = None,
    found: Mapping[str, CompressedWeight] | None = None,
    stored: Mapping[str, Stored] | None = None,
    passes: tuple[PassRecord, ...] = (),
    original: Mapping[str, tuple[int, ...]] | None = None,
) -> Artifact:
    """Describe a live model as an artifact in memory; its tensors are the model's own.

    Args:
        model: any module.
        source: the dense checkpoint it came from.
        lineage: the commands that led here.
        metrics: measured figures to carry along.
        found: how the cores of a weight were found, by its key.
        stored: tensors that the file holds in few bits, by their names in the state.
        passes: what was done to it beside rings.
        original: shapes that tensors had before they were resized, by name.
    """
    state, kept = _state(model)
    header = Header(
        layers=tuple(artifact_layers(model)),
        weights=tuple(_describe_core_weight(name, module, found or {}) for name, module in _core_weights(model)),
        source=source,
        shared=tuple(tied_keys(state)),
        lineage=lineage,
        metrics=metrics or {},
        passes=passes,
        original={name: tuple(shape) for name, shape in (original or {}).items()},
    )
    return Artifact(dict(state), header, stored=kept | dict(stored or {}))


def _state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Stored]]:
    """A model's tensors by name, and those that it keeps as integers."""
    state, stored = dict(model.state_dict()), {}
    values: dict[int, Tensor] = {}
    for name, one in model.named_modules(remove_duplicate=False):
        if isinstance(one, QuantizedTensor):
            stored[name] = one.stored()
            state = {key: value for key, value in state.items() if not key.startswith(f"{name}.")}
            state[name] = values.setdefault(id(one), one.to_dense())
    return state, stored


def _core_weights(model: nn.Module) -> Iterator[tuple[str, CoreWeight]]:
    every = model.named_modules(remove_duplicate=False)
    return ((name, module) for name, module in every if isinstance(module, CoreWeight))


def _describe_core_weight(name: str, module: CoreWeight, found: Mapping[str, CompressedWeight]) -> Weight:
    dtype = str(module.core[0].dtype).removeprefix("torch.")
    one = found.get(name)
    if one is None:
        return Weight.of(module.plan, name=name, init="unknown", dtype=dtype)
    told = {"init": one.init, "error": one.error, "bound": one.bound, "notes": one.notes}
    return Weight.of(module.plan, name=name, dtype=dtype, candidates=one.candidates, **told)
