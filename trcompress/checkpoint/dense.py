"""A dense checkpoint, opened: its recurrent layers, and every tensor of the model, read when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from trcompress.checkpoint.folding import fold
from trcompress.checkpoint.kinds import KindRule, parse_kinds
from trcompress.checkpoint.limits import DamageError, printable
from trcompress.checkpoint.names import parse_recurrent
from trcompress.checkpoint.npz_file import OBJECT_ARRAY
from trcompress.checkpoint.reading import FileContent, read_content
from trcompress.checkpoint.recurrent import Layer, find_layers
from trcompress.checkpoint.statedicts import ModuleHint, survey
from trcompress.checkpoint.stored import AnyTensor, UnreadableTensor
from trcompress.checkpoint.unwrap import Weights, unwrap
from trcompress.errors import InputFileError, UnsafeFileError, nearest

_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A dense checkpoint file; no tensor is in memory until it is asked for.

    Args:
        path: the file.
        format: "torch-zip", "torch-legacy", "safetensors" or "npz".
        layers: every recurrent layer, per layer and direction.
        ignored: what the file holds beside the model -> why it was left out.
        notes: wrappers stripped, weight_norm folded, the model picked among several.
        metadata: of a safetensors file, else empty.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> torch.save({"model_state": torch.nn.GRU(12, 8).state_dict(), "epoch": 3}, path)
        >>> checkpoint = read_checkpoint(path)
        >>> layer, = checkpoint.layers
        >>> layer.kind, layer.input_size, layer.hidden_size, dict(checkpoint.ignored)
        ('gru', 12, 8, {'epoch': 'the value 3'})
    """

    path: Path
    format: str
    layers: tuple[Layer, ...]
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    metadata: Mapping[str, str]
    _tensors: Mapping[str, AnyTensor] = field(repr=False)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every tensor of the model, by its key."""
        return {key: tensor.shape for key, tensor in self._tensors.items()}

    @cached_property
    def dtypes(self) -> Mapping[str, str]:
        """Dtype of every tensor of the model, as in `float32`."""
        return {key: str(tensor.dtype).removeprefix("torch.") for key, tensor in self._tensors.items()}

    @cached_property
    def shared(self) -> tuple[tuple[str, ...], ...]:
        """Groups of keys that are one tensor: tied weights."""
        groups: dict[object, list[str]] = {}
        for key, tensor in self._tensors.items():
            if tensor.numel:
                groups.setdefault(tensor.identity, []).append(key)
        return tuple(tuple(keys) for keys in groups.values() if len(keys) > 1)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file, read in pieces."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    @cached_property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.path.stat().st_size

    @cached_property
    def tensor_bytes(self) -> int:
        """Size of the model's tensors alone, tied weights counted once."""
        repeated = {key for group in self.shared for key in group[1:]}
        sizes = {key: prod(shape) * getattr(torch, self.dtypes[key]).itemsize for key, shape in self.shapes.items()}
        return sum(size for key, size in sizes.items() if key not in repeated)

    def tensor(self, key: str) -> Tensor:
        """Read one tensor, on the CPU, in its own dtype; large ones are mapped from the file, not copied.

        Raises:
            InputFileError: no such tensor, or the file has changed since it was opened.
        """
        try:
            return self._at(key).load()
        except OSError as error:
            raise InputFileError(f"cannot read {key!r} from {self.path}: {error.strerror or error}") from error

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Read every tensor of the model, one after another; see `shared` for those that are one."""
        for key in self._tensors:
            yield key, self.tensor(key)

    def file_region(self, key: str) -> tuple[Path, int, tuple[int, ...], torch.dtype] | None:
        """Where a tensor's values lie in the file, raw, contiguous and little-endian.

        Returns:
            (path, byte offset, shape, dtype); None where they are compressed, strided, swapped or computed.
        """
        return self._at(key).region

    def _at(self, key: str) -> AnyTensor:
        if key not in self._tensors:
            hint = nearest(key, list(self._tensors))
            raise InputFileError(f"{self.path} has no tensor {key!r}{hint}; it has {len(self._tensors):,}")
        return self._tensors[key]


def read_checkpoint(path: str | Path, *, kind: str | None = None, skip_objects: bool = False) -> Checkpoint:
    """Open any dense checkpoint without running anything of it, and find its recurrent layers.

    Reads `torch.save` files (zip and legacy, state dicts and whole modules), TorchScript archives, safetensors and
    `.npz`, told apart by content. State dicts are found at any depth; `module.`, `_orig_mod.` and the like are
    stripped; weight_norm is folded.

    Args:
        path: the file; never modified.
        kind: "lstm", "gru" or "rnn" where the shapes cannot tell, or `stack-glob=kind` pairs joined by commas.
        skip_objects: leave out objects of foreign classes beside the weights instead of refusing the file;
            calls stay refused.

    Raises:
        InputFileError: missing, truncated, not a checkpoint, already compressed, or without a recurrent layer.
        UnsafeFileError: its pickle holds more than weights; the blocked globals are named.
        UsageError: `kind` is unknown or names no stack.
    """
    rules = parse_kinds(kind)
    try:
        content = read_content(path, skip_objects=skip_objects)
        try:
            return _checkpoint(content, unwrap(survey(content.root)), rules)
        except DamageError as error:
            raise InputFileError(f"cannot read {path}: {error}") from error
        except InputFileError as error:
            raise type(error)(f"{path}: {error}") from error
    except InputFileError as error:
        raise type(error)(printable(str(error))) from error


def check_finite(tensor: Tensor, key: str) -> None:
    """Refuse a weight that holds NaN or Inf, in blocks that need little memory.

    Raises:
        InputFileError: names the weight and counts the values.
    """
    flat = tensor.detach().reshape(-1)
    bad = sum(_count_bad(block) for block in flat.split(_BLOCK))
    if bad:
        raise InputFileError(
            f"weights must be finite: {key!r} holds {bad:,} NaN or Inf values of {flat.numel():,}; "
            "the training diverged or the file is damaged: take an earlier checkpoint"
        )


def _count_bad(block: Tensor) -> int:
    """How many values are NaN or Inf; the extremes, found in one pass, mostly tell that none is."""
    if not block.numel() or (not block.is_complex() and all(map(torch.isfinite, block.aminmax()))):
        return 0
    return int((~torch.isfinite(block)).sum())


def _checkpoint(content: FileContent, weights: Weights, rules: tuple[KindRule, ...]) -> Checkpoint:
    _refuse_objects(weights.tensors)
    folded, parts, fold_notes = fold(weights.tensors)
    hints = dict(weights.hints) | {
        plain: weights.hints[part] for plain, part in parts.items() if part in weights.hints
    }
    layers, layer_notes = find_layers(folded, hints, rules)
    readable = {key: tensor for key, tensor in folded.items() if not isinstance(tensor, UnreadableTensor)}
    if not layers:
        raise InputFileError(_nothing_found(folded, (*weights.notes, *layer_notes)))
    ignored = dict(weights.ignored) | {
        key: tensor.reason for key, tensor in folded.items() if isinstance(tensor, UnreadableTensor)
    }
    notes = (*content.notes, *weights.notes, *fold_notes, *layer_notes, *_unknown_nonlinearities(layers, hints))
    return Checkpoint(
        content.path,
        content.format,
        layers,
        {printable(name): printable(reason) for name, reason in ignored.items()},
        tuple(map(printable, notes)),
        dict(content.metadata),
        readable,
    )


def _refuse_objects(tensors: Mapping[str, AnyTensor | UnreadableTensor]) -> None:
    """Arrays of Python objects are pickles: left alone beside recurrent weights, refused in their place."""
    recurrent = {key for key in tensors if parse_recurrent(key)}
    objects = {
        key for key, one in tensors.items() if isinstance(one, UnreadableTensor) and one.reason == OBJECT_ARRAY
    }
    if objects and (objects & recurrent or not recurrent):
        raise UnsafeFileError(
            f"refused as unsafe: {', '.join(sorted(objects)[:5])} hold Python objects, which only unpickling reads "
            "(nothing was run); where you trust the file, save plain arrays under torch key names: "
            "numpy.savez(path, **{key: tensor.numpy() for key, tensor in model.state_dict().items()})"
        )


def _unknown_nonlinearities(layers: tuple[Layer, ...], hints: Mapping[str, ModuleHint]) -> tuple[str, ...]:
    """Say where tanh is an assumption: the weights of an RNN do not tell it from relu."""
    unknown = {
        layer.stack
        for layer in layers
        if layer.kind == "rnn" and "nonlinearity" not in getattr(hints.get(layer.keys["weight_ih"]), "options", {})
    }
    return tuple(f"stack {stack!r}: tanh assumed; weights do not tell it from relu" for stack in sorted(unknown))


def _nothing_found(tensors: Mapping[str, AnyTensor | UnreadableTensor], notes: tuple[str, ...]) -> str:
    readable = {key: one for key, one in tensors.items() if not isinstance(one, UnreadableTensor)}
    largest = sorted(readable, key=lambda key: -readable[key].numel)[:3]
    shown = ", ".join(f"{key or 'one without a name'} {readable[key].shape}" for key in largest)
    plural = "" if len(readable) == 1 else "s"
    held = f"{len(readable):,} tensor{plural}, the largest: {shown}" if readable else "no tensor at all"
    reasons = [f"{key} is {one.reason}" for key, one in tensors.items() if isinstance(one, UnreadableTensor)]
    more = "; ".join((*reasons[:3], *notes[:3]))
    return (
        f"no recurrent layer: the file holds {held}{f' ({more})' if more else ''}; "
        "weights must be named as torch.nn names them, as in rnn.weight_ih_l0 or cell.weight_ih"
    )
