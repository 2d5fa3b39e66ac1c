"""An artifact back to live modules: `load`, or into the user's own model: `load_`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.plain_state import artifact_of_state, read_state
from trcompress.artifact.quantized import is_integers, keep_integers_
from trcompress.artifact.resize import resized, resized_names
from trcompress.artifact.storage import Stored
from trcompress.checkpoint import is_artifact
from trcompress.errors import InputFileError, nearest
from trcompress.layers import is_recurrent
from trcompress.layers.adopt import adopt_, parameter_places, tie_
from trcompress.layers.stacks import build_stack, load_stack
from trcompress.layers.swaps import swap_
from trcompress.model.layer import Layer, by_stack
from trcompress.model.weight_plan import WeightPlan

OPTIONS = ("batch_first", "dropout", "nonlinearity")

FEW = 3
"""Differences between a file and a model that a message names; of the others it tells the number."""


def load(path: str | Path | Artifact, *, quantized: bool = False, **options: Any) -> dict[str, nn.Module]:
    """Load an artifact's recurrent stacks as modules that need no other code.

    Args:
        path: the artifact.
        quantized: keep int8 and int4 as they are stored, and expand them at every call (weight-only quantization):
            less memory, more work. Such tensors are buffers: nothing trains them.
        options: override what the file says of the modules: `batch_first`, `dropout`, `nonlinearity`.

    Returns:
        Stack name -> module (`TRLSTM`, `TRGRUCell`, ... or a torch.nn module where nothing was compressed),
        on the CPU, in eval mode; the name is empty for a stack at the root. What was tied is one parameter again.

    Raises:
        InputFileError: missing, damaged, or not an artifact.
    """
    artifact = path if isinstance(path, Artifact) else read_artifact(path)
    plans = artifact.weight_plans()
    modules: dict[str, nn.Module] = {}
    places: dict[str, tuple[nn.Module, str]] = {}
    for name, layers in by_stack(artifact.header.layers).items():
        ring = quantized and _has_integers(artifact, layers)
        module = build_stack(layers, plans, ring=ring, **(layers[0].options | options))
        modules[name] = load_stack(module, layers, artifact.tensors).eval()
        places |= _places(modules[name], layers)
    tie_(places, artifact.header.shared)
    if quantized:
        keys = {place: key for key, place in places.items()}
        for module in modules.values():
            keep_integers_(module, _by_local_name(artifact, module, keys))
    return modules


def load_(
    source: str | Path | Artifact | Mapping[str, Tensor], model: nn.Module, *, quantized: bool = False
) -> nn.Module:
    """Put a compressed model into the user's own, in place: swap its recurrent layers, load every tensor.

    Args:
        source: the artifact; or the state dict of a compressed model, as it is or as a file that `torch.save` or
            safetensors wrote.
        model: a module of the class that was compressed, with dense recurrent layers or with rings already.
        quantized: keep the int8 and int4 of recurrent, linear and embedding modules; see `load`.

    Returns:
        The same model (or the new layer, where the model itself is the recurrent layer).

    Raises:
        InputFileError: the artifact's layers or tensors are not the model's; the first differences
            are named, with the nearest names. The model is then unchanged.
    """
    artifact = _opened(source, model)
    plans = artifact.weight_plans()
    changed = resized_names(artifact.header)
    swaps: dict[str, nn.Module] = {}
    built: dict[int, nn.Module] = {}
    for name, layers in by_stack(artifact.header.layers).items():
        ring = quantized and _has_integers(artifact, layers)
        if ring or name in changed or any(one.key in plans for layer in layers for one in layer.matrices):
            module = _recurrent_module(model, name)
            if id(module) not in built:
                built[id(module)] = _ring_like(module, layers, plans, ring)
            swaps[name] = built[id(module)]
    swaps |= resized(model, artifact.header, artifact.tensors)
    tensors = _of_the_model(artifact, model)
    _check_keys(model, swaps, tensors)
    model = swap_(model, swaps)
    cores = [group for group in artifact.header.shared if all(".core." in key for key in group)]
    tie_(dict(parameter_places(model)), cores)
    model.load_state_dict(dict(tensors))
    if quantized:
        keep_integers_(model, artifact.stored)
    return model


def _opened(source: str | Path | Artifact | Mapping[str, Tensor], model: nn.Module) -> Artifact:
    if isinstance(source, Artifact):
        return source
    if isinstance(source, Mapping):
        return artifact_of_state(source, model)
    if Path(source).is_file() and not is_artifact(source):
        return artifact_of_state(read_state(source), model)
    return read_artifact(source)


def _places(module: nn.Module, layers: list[Layer]) -> dict[str, tuple[nn.Module, str]]:
    """Where each parameter of a stack lies, by its key in the file."""
    names = {one.local_name(role): key for one in layers for role, key in one.keys.items()}
    places = {}
    for local, place in parameter_places(module):
        root, dot, rest = local.partition(".")
        places[names.get(root, root) + dot + rest] = place
    return places


def _recurrent_module(model: nn.Module, name: str) -> nn.Module:
    every = model.named_modules(remove_duplicate=False)
    recurrent = {path: module for path, module in every if is_recurrent(module)}
    if name not in recurrent:
        raise InputFileError(
            f"the artifact compresses the stack {name!r}, which the model does not have"
            f"{nearest(name, list(recurrent))}; its recurrent layers are: {', '.join(recurrent) or 'none'}"
        )
    return recurrent[name]


def _ring_like(module: nn.Module, layers: list[Layer], plans: dict[str, WeightPlan], ring: bool) -> nn.Module:
    """A ring module of the artifact's sizes, with the options, dtype and other parameters of the model's own."""
    known = {option: getattr(module, option) for option in OPTIONS if hasattr(module, option)}
    first = next(module.parameters())
    new = build_stack(layers, plans, ring=ring, **known)
    new = new.to_empty(device=first.device).to(first.dtype).train(module.training)
    same = [name for name, one in new._parameters.items() if one is not None]
    if all(getattr(getattr(module, name, None), "shape", None) == new._parameters[name].shape for name in same):  # type: ignore[union-attr]
        adopt_(new, module)
    return new


def _has_integers(artifact: Artifact, layers: list[Layer]) -> bool:
    keys = {key for one in layers for key in one.keys.values()}
    return any(key.partition(".core.")[0] in keys and is_integers(one) for key, one in artifact.stored.items())


def _by_local_name(
    artifact: Artifact, module: nn.Module, keys: Mapping[tuple[nn.Module, str], str]
) -> dict[str, Stored]:
    """What is stored of a module, by name in its state."""
    found = {local: keys.get(place) for local, place in parameter_places(module)}
    return {local: artifact.stored[key] for local, key in found.items() if key in artifact.stored}


def _of_the_model(artifact: Artifact, model: nn.Module) -> dict[str, Tensor]:
    """Leave out what lay beside the model's own dict in the checkpoint, where the model has no such tensor."""
    own = model.state_dict().keys()
    return {key: value for key, value in artifact.tensors.items() if key in own or key not in artifact.beside}


def _check_keys(model: nn.Module, swaps: dict[str, nn.Module], given: Mapping[str, Tensor]) -> None:
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items() if not _inside(key, swaps)}
    for name, module in swaps.items():
        wanted |= {(f"{name}." if name else "") + key: tensor.shape for key, tensor in module.state_dict().items()}
    missing, unexpected = (
        [key for key in one if key not in other] for one, other in ((wanted, given), (given, wanted))
    )
    faults = [f"missing {key}{nearest(key, unexpected)}" for key in missing]
    faults += [f"unexpected {key}{nearest(key, missing)}" for key in unexpected]
    faults += [
        f"{key} is {tuple(given[key].shape)} in the file, {tuple(shape)} in the model"
        for key, shape in wanted.items()
        if key in given and given[key].shape != shape
    ]
    if faults:
        more = f"; and {len(faults) - FEW:,} more" if len(faults) > FEW else ""
        raise InputFileError(f"the file is not of this model: {'; '.join(faults[:FEW])}{more}")


def _inside(key: str, swaps: dict[str, nn.Module]) -> bool:
    return any(not name or key.startswith(f"{name}.") for name in swaps)
