"""A live model to an artifact, and back: `save`, `load`, `load_`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trcompress.artifact.file import Artifact, read_artifact, write_artifact
from trcompress.artifact.resize import resized, resized_names
from trcompress.artifact.storage import Stored
from trcompress.errors import InputFileError, UsageError, nearest
from trcompress.layers import CoreWeight, is_recurrent, layers_of
from trcompress.layers.stacks import build_stack, load_stack
from trcompress.model.header import Header, PassRecord, Source, Step, Weight
from trcompress.model.layer import Layer, by_stack
from trcompress.model.weight_plan import WeightPlan

OPTIONS = ("batch_first", "dropout", "nonlinearity")


def save(
    model: nn.Module,
    path: str | Path,
    *,
    overwrite: bool = False,
    source: Source | None = None,
    lineage: tuple[Step, ...] = (),
    metrics: dict[str, Any] | None = None,
    stored: Mapping[str, Stored] | None = None,
    passes: tuple[PassRecord, ...] = (),
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
        stored: tensors that the file holds in few bits, by their names in the model's state.
        passes: what was done to the model beside rings.
        packed: entropy-code what is stored in few bits.
        sidecar: write the history of a small file beside it.

    Returns:
        The path written.

    Raises:
        UsageError: the model holds no compressed layer.
        OutputFileError: the path exists or cannot be written.

    Example:
        >>> import tempfile, trcompress
        >>> layer = trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="3")
        >>> folder = tempfile.mkdtemp()
        >>> path = trcompress.save(layer, folder + "/layer.safetensors")
        >>> list(trcompress.load(path)) == [""]
        True
    """
    artifact = to_artifact(model, source=source, lineage=lineage, metrics=metrics, stored=stored, passes=passes)
    if not (artifact.header.weights or artifact.stored or passes):
        raise UsageError("nothing to save as an artifact: the model holds no ring layer; call compress_ first")
    artifact.packed = packed
    return write_artifact(path, artifact, overwrite=overwrite, sidecar=sidecar)


def to_artifact(
    model: nn.Module,
    *,
    source: Source | None = None,
    lineage: tuple[Step, ...] = (),
    metrics: dict[str, Any] | None = None,
    stored: Mapping[str, Stored] | None = None,
    passes: tuple[PassRecord, ...] = (),
) -> Artifact:
    """Describe a live model as an artifact in memory.

    Args:
        model: any module.
        source: the dense checkpoint it came from.
        lineage: the commands that led here.
        metrics: measured figures to carry along.
        stored: tensors that the file holds in few bits, by their names in the state.
        passes: what was done to it beside rings.
    """
    state = model.state_dict()
    header = Header(
        layers=tuple(describe_layers(model)),
        weights=tuple(_describe_weight(name, module) for name, module in _core_weights(model)),
        source=source,
        shared=tuple(_tied(state)),
        lineage=lineage,
        metrics=metrics or {},
        passes=passes,
    )
    return Artifact(dict(state), header, stored=dict(stored or {}))


def load(path: str | Path | Artifact, **options: Any) -> dict[str, nn.Module]:
    """Load an artifact's recurrent stacks as modules that need no other code.

    Args:
        path: the artifact.
        options: override what the file says of the modules: `batch_first`, `dropout`, `nonlinearity`.

    Returns:
        Stack name -> module (`TRLSTM`, `TRGRUCell`, ... or a torch.nn module where nothing was compressed),
        on the CPU, in eval mode; the name is empty for a stack at the root.

    Raises:
        InputFileError: missing, damaged, or not an artifact.
    """
    artifact = path if isinstance(path, Artifact) else read_artifact(path)
    plans = artifact.weight_plans()
    modules = {}
    for name, layers in by_stack(artifact.header.layers).items():
        module = build_stack(layers, plans, **(layers[0].options | options))
        modules[name] = load_stack(module, layers, artifact.tensors).eval()
    return modules


def load_(path: str | Path | Artifact, model: nn.Module) -> nn.Module:
    """Put an artifact into the user's own model, in place: swap its recurrent layers, load every tensor.

    Args:
        path: the artifact.
        model: a module of the class that was compressed, with dense recurrent layers or with rings already.

    Returns:
        The same model (or the new layer, where the model itself is the recurrent layer).

    Raises:
        InputFileError: the artifact's layers or tensors are not the model's; all differences are named, with
            the nearest names. The model is then unchanged.
    """
    artifact = path if isinstance(path, Artifact) else read_artifact(path)
    plans = artifact.weight_plans()
    changed = resized_names(artifact.header)
    swaps: dict[str, nn.Module] = {
        name: _ring_like(_recurrent_module(model, name), layers, plans)
        for name, layers in by_stack(artifact.header.layers).items()
        if name in changed or any(matrix.key in plans for layer in layers for matrix in layer.matrices)
    }
    swaps |= resized(model, artifact.header, artifact.tensors)
    tensors = _of_the_model(artifact, model)
    _check_keys(model, swaps, tensors)
    for name, module in swaps.items():
        model = replace_module(model, name, module)
    model.load_state_dict(tensors)
    return model


def replace_module(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Set a submodule by its dotted name; at the root, return the new module."""
    if not name:
        return module
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
    return model


def describe_layers(model: nn.Module) -> Iterator[Layer]:
    """Describe every recurrent layer of a live model, compressed or not."""
    for name, module in model.named_modules():
        if is_recurrent(module):
            yield from layers_of(module, name)


def _describe_weight(name: str, module: CoreWeight) -> Weight:
    dtype = str(module.core[0].dtype).removeprefix("torch.")
    return Weight.of(module.plan, name=name, init="unknown", dtype=dtype)


def _core_weights(model: nn.Module) -> Iterator[tuple[str, CoreWeight]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, CoreWeight))


def _tied(state: dict[str, Tensor]) -> Iterator[tuple[str, ...]]:
    groups: dict[tuple[int, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for key, tensor in state.items():
        if tensor.numel():
            groups.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), []).append(key)
    return (tuple(group) for group in groups.values() if len(group) > 1)


def _recurrent_module(model: nn.Module, name: str) -> nn.Module:
    recurrent = {path: module for path, module in model.named_modules() if is_recurrent(module)}
    if name not in recurrent:
        raise InputFileError(
            f"the artifact compresses the stack {name!r}, which the model does not have"
            f"{nearest(name, list(recurrent))}; its recurrent layers are: {', '.join(recurrent) or 'none'}"
        )
    return recurrent[name]


def _ring_like(module: nn.Module, layers: list[Any], plans: dict[str, WeightPlan]) -> nn.Module:
    """An empty ring module of the artifact's sizes with the options, dtype and device of the model's own."""
    known = {option: getattr(module, option) for option in OPTIONS if hasattr(module, option)}
    first = next(module.parameters())
    ring = build_stack(layers, plans, **known)
    return ring.to_empty(device=first.device).to(first.dtype).train(module.training)


def _of_the_model(artifact: Artifact, model: nn.Module) -> dict[str, Tensor]:
    """Leave out what lay beside the model's own dict in the checkpoint, where the model has no such tensor."""
    own = model.state_dict().keys()
    return {key: value for key, value in artifact.tensors.items() if key in own or key not in artifact.beside}


def _check_keys(model: nn.Module, swaps: dict[str, nn.Module], given: Mapping[str, Tensor]) -> None:
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items() if not _inside(key, swaps)}
    for name, module in swaps.items():
        wanted |= {(f"{name}." if name else "") + key: tensor.shape for key, tensor in module.state_dict().items()}
    faults = [f"missing {key}{nearest(key, list(given))}" for key in wanted if key not in given]
    faults += [f"unexpected {key}{nearest(key, list(wanted))}" for key in given if key not in wanted]
    faults += [
        f"{key} is {tuple(given[key].shape)} in the file, {tuple(shape)} in the model"
        for key, shape in wanted.items()
        if key in given and given[key].shape != shape
    ]
    if faults:
        raise InputFileError("the artifact is not of this model:\n  " + "\n  ".join(faults[:20]))


def _inside(key: str, swaps: dict[str, nn.Module]) -> bool:
    return any(not name or key.startswith(f"{name}.") for name in swaps)
