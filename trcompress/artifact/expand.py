"""`trcompress.expand`: an artifact back to an ordinary state dict, for the user's own model and no library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.storage import DTYPES
from trcompress.artifact.tensor_file import save_pickled, save_tensors
from trcompress.artifact.unchanged import changed_arguments, unfolded
from trcompress.checkpoint.opened import as_opened, refuse_changed
from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.util.files import atomic_path, check_output


@dataclass(frozen=True)
class Expanded:
    """What `expand` wrote.

    Args:
        path: the file.
        tensors: dense tensors by key, tied ones as one tensor.
        nesting: keys of the dicts around the state dict, as in the checkpoint that was compressed.
        notes: what differs from the checkpoint: constructor arguments that change, tensors left out.
    """

    path: Path
    tensors: dict[str, Tensor]
    nesting: tuple[str, ...]
    notes: tuple[str, ...]


def expand(artifact: str | Path | Artifact, out: str | Path, *, overwrite: bool = False) -> Expanded:
    """Write a compressed model as the ordinary checkpoint it came from, with the same keys, nesting and dtypes.

    Every compressed matrix is multiplied out in float64 and cast to the dtype that it had; folded embeddings and
    what reads them get their own width back, filled with zeros; all else, corrected biases among it, is as the
    artifact holds it. The file loads where trcompress is not installed.

    Args:
        artifact: the artifact, or its path.
        out: `.pt` or `.pth` for torch.save; `.safetensors` holds the same keys without nesting.
        overwrite: replace an existing file.

    Raises:
        InputFileError: the artifact cannot be read.
        OutputFileError: the output exists, cannot be written or read back.

    Example:
        >>> import tempfile, torch, trcompress
        >>> model = torch.nn.Sequential(torch.nn.LSTM(12, 8))
        >>> folder = tempfile.mkdtemp()
        >>> result = trcompress.compress_(model, trcompress.Plan.of("4x3:4x2", 2))
        >>> path = result.save(folder + "/model.tr.safetensors")
        >>> dense = expand(path, folder + "/dense.pt").path
        >>> torch.nn.Sequential(torch.nn.LSTM(12, 8)).load_state_dict(torch.load(dense))
        <All keys matched successfully>
    """
    given = [] if isinstance(artifact, Artifact) else [artifact]
    path = check_output(out, overwrite=overwrite, keep=given)
    opened = as_opened(Path(one) for one in given)
    if not isinstance(artifact, Artifact):
        artifact = read_artifact(artifact)
    tensors = unfolded(artifact.header, dense_tensors(artifact))
    places = _places(artifact, tensors)
    notes = list(changed_arguments(artifact.header, tensors))
    nesting = next((dicts for key, (dicts, _) in places.items() if key not in artifact.beside), ())
    flat = path.suffix == ".safetensors"
    if flat and any(dicts for dicts, _ in places.values()):
        notes.append(
            f"safetensors holds one flat dict: {'.'.join(nesting)} is not around it; name a .pt to keep it"
        )
    with atomic_path(path, overwrite=overwrite) as temporary:
        if flat:
            save_tensors(tensors, temporary, {"format": "pt"})
        else:
            save_pickled(_nested(tensors, places), temporary)
            _check(temporary, tensors, places)
        refuse_changed(opened)
    return Expanded(path, tensors, () if flat else nesting, tuple(notes))


def dense_tensors(artifact: Artifact) -> dict[str, Tensor]:
    """Return every tensor of the dense model by key; what is tied is one tensor."""
    plans, dtypes = artifact.weight_plans(), {one.name: one.dtype for one in artifact.header.weights}
    for told in artifact.reading("dense_dtypes"):
        if isinstance(told, dict):
            dtypes |= {key: dtype for key, dtype in told.items() if key in dtypes}
    cores = {f"{name}.core.{k}" for name, plan in plans.items() for k in range(len(plan.core_shapes))}
    tensors = {key: tensor.detach() for key, tensor in artifact.tensors.items() if key not in cores}
    rebuilt: dict[int, Tensor] = {}
    for name, plan in plans.items():
        parts = artifact.cores(name)
        if id(parts[0]) not in rebuilt:
            dense = plan.to_dense([core.detach().double() for core in parts])
            rebuilt[id(parts[0])] = dense.to(_dtype(name, dtypes[name])).contiguous()
        tensors[name] = rebuilt[id(parts[0])]
    return tensors


def _dtype(name: str, told: object) -> torch.dtype:
    """Look a dtype up by the name that the file gives it, in a closed table."""
    known = DTYPES.get(told) if isinstance(told, str) else None
    if known is None:
        raise InputFileError(
            f"damaged artifact: {name} was {str(told)[:80]!r}, one of {', '.join(DTYPES)} expected"
        )
    return known


def _places(artifact: Artifact, tensors: dict[str, Tensor]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Where each tensor was in the checkpoint; flat under its own key where nothing else is told."""
    places: dict[str, tuple[tuple[str, ...], str]] = {key: ((), key) for key in tensors}
    for told in artifact.reading("places"):
        for key, (dicts, name) in told.items():
            if key in places:
                places[key] = (tuple(map(str, dicts)), str(name))
    return places


def _nested(tensors: dict[str, Tensor], places: dict[str, tuple[tuple[str, ...], str]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, (dicts, name) in places.items():
        inner = content
        for one in dicts:
            inner = inner.setdefault(one, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{key} lay in a dict that another tensor's name has taken: {one!r}")
        inner[name] = tensors[key]
    return content


def _check(path: Path, tensors: dict[str, Tensor], places: dict[str, tuple[tuple[str, ...], str]]) -> None:
    """Read the file back as its reader will, and compare.

    Raises:
        OutputFileError: a tensor is not what was meant.
    """
    found = torch.load(path, map_location="cpu", weights_only=True)
    for key, (dicts, name) in places.items():
        inner = found
        for one in dicts:
            inner = inner[one]
        if not torch.equal(inner[name], tensors[key]) and not tensors[key].isnan().any():
            raise OutputFileError(f"what was written reads back differently, so it is not kept: {key}")
