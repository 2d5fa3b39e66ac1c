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

from trcompress.checkpoint.finite import count_nonfinite, count_nonfinite_in_file
from trcompress.checkpoint.foreign import refuse_foreign
from trcompress.checkpoint.opened import Opened, as_opened, refuse_changed
from trcompress.checkpoint.safetensors_file import DTYPES
from trcompress.checkpoint.stored import AnyTensor
from trcompress.errors import InputFileError, nearest
from trcompress.model.layer import Layer

STORABLE = frozenset(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
"""Dtypes that an artifact can hold."""


ASSUMED = "tanh assumed"
"""Part of the note on a stack whose nonlinearity the file does not tell."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A dense checkpoint file; no tensor is in memory until it is asked for.

    Args:
        path: the file; of several, the index or the folder.
        format: see `content.FileContent`.
        layers: every recurrent layer, per layer and direction.
        ignored: what the file holds that is not the model -> why; see `set_aside` for the rule.
        unreadable: tensors of the model that have no plain values -> what they are.
        unknown: stack -> tensors in the layer's own module that its kind cannot use; see `foreign`.
        dropped: keys that the user left out.
        beside: keys that the file keeps in another dict than the model's own.
        known_better: keys that the user took out of `unknown`.
        allowed_nonfinite: keys that may hold NaN or Inf, as the user said.
        files: every file that was read: one, or an index and its parts.
        places: key -> (keys of the dicts on the way to it in the file, its key there), wrappers and all.
        notes: wrappers stripped, weight_norm folded, the model picked among several.
        metadata: of a safetensors file, else empty.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> from trcompress.checkpoint import read_checkpoint
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
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    beside: frozenset[str] = frozenset()
    known_better: tuple[str, ...] = ()
    allowed_nonfinite: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    places: Mapping[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.opened  # noqa: B018 - what the files are like now, before anything more is read

    @property
    def assumed(self) -> tuple[str, ...]:
        """Notes on what the file does not tell, and a network that is run depends on."""
        return tuple(note for note in self.notes if ASSUMED in note)

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
        """Hash of the file, read in pieces; of several files, of their hashes one after the other."""
        hashes = []
        for path in self.files:
            with path.open("rb") as stream:
                hashes.append(hashlib.file_digest(stream, "sha256").hexdigest())
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()

    def refuse_changed(self) -> None:
        """Refuse to go on with files that were written to since they were opened: tensors are read when needed.

        Raises:
            InputFileError: one was changed, replaced or removed.
        """
        refuse_changed(self.opened)

    @cached_property
    def opened(self) -> Opened:
        """What the files were like at first."""
        return as_opened(self.files)

    @cached_property
    def size_bytes(self) -> int:
        """Size of the file, or of all files."""
        return sum(path.stat().st_size for path in self.files)

    @cached_property
    def tensor_bytes(self) -> int:
        """Size of the model's tensors alone, tied weights counted once."""
        repeated = {key for group in self.shared for key in group[1:]}
        sizes = {key: prod(shape) * self._tensors[key].dtype.itemsize for key, shape in self.shapes.items()}
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
        """Return where a tensor's values lie in the file, raw, contiguous and little-endian.

        Returns:
            (path, byte offset, shape, dtype); None where they are compressed, strided, swapped or computed.
        """
        return self._at(key).region

    @cached_property
    def lost(self) -> dict[str, str]:
        """Tensors that no artifact can hold -> what they are."""
        return dict(self.unreadable) | {
            key: f"of type {dtype}, which safetensors cannot hold"
            for key, dtype in self.dtypes.items()
            if dtype not in STORABLE
        }

    @cached_property
    def nonfinite(self) -> Mapping[str, int]:
        """How many NaN or Inf values each tensor holds that has any; reads every tensor, in blocks."""
        counts = {
            key: count_nonfinite_in_file(tensor.region) if tensor.region else count_nonfinite(self.tensor(key))
            for key, tensor in self._tensors.items()
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex
        }
        return {key: count for key, count in counts.items() if count}

    def check_compressible(self, *, own_network: bool = False) -> None:
        """Make sure that compressing this gives the user's network, all of it, in numbers.

        Args:
            own_network: the user's own code says which layers are torch.nn's, not the shapes in the file.

        Raises:
            InputFileError: see `refuse_unknown`, `refuse_incomplete` and `refuse_nonfinite`.
        """
        if not own_network:
            self.refuse_unknown()
        self.refuse_incomplete()
        self.refuse_nonfinite()

    @cached_property
    def obstacles(self) -> tuple[str, ...]:
        """What `check_compressible` would say, all of it; empty where nothing stands in the way."""
        found = []
        for check in (self.refuse_unknown, self.refuse_incomplete, self.refuse_nonfinite):
            try:
                check()
            except InputFileError as error:
                found.append(str(error))
        return tuple(found)

    def refuse_nonfinite(self) -> None:
        """Stop before values that are no numbers are written.

        Raises:
            InputFileError: names the tensors and counts the values.
        """
        bad = {key: count for key, count in self.nonfinite.items() if key not in self.allowed_nonfinite}
        if bad:
            shown = ", ".join(f"{key!r} {count:,}" for key, count in list(bad.items())[:5])
            raise InputFileError(
                f"tensors must be finite: {self.path} holds NaN or Inf values ({shown}); the training diverged, so "
                "take an earlier checkpoint; where they are meant, as in a mask, "
                f"`allow_nonfinite={next(iter(bad))!r}` keeps them"
            )

    def refuse_unknown(self) -> None:
        """Stop before the network is run or rewritten where it is not the one that its shapes suggest.

        Raises:
            InputFileError: names the tensors that no torch.nn layer uses, or a layer without weight_hh.
        """
        refuse_foreign(self.path, {layer.stack: layer.kind for layer in self.layers}, self.unknown)
        for layer in self.layers:
            if "weight_hh" not in layer.keys:
                raise InputFileError(
                    f"{self.path}: {layer.keys['weight_ih']!r} has no weight_hh beside it, so it is no whole "
                    f"{layer.kind.upper()} layer; save the model's whole state_dict"
                )

    def refuse_incomplete(self) -> None:
        """Stop before an artifact would lack a tensor of the model.

        Raises:
            InputFileError: names every tensor that cannot be kept bit by bit, and why.
        """
        if lost := self.lost:
            shown = "; ".join(f"{key!r} is {why}" for key, why in list(lost.items())[:5])
            more = f"; and {len(lost) - 5} more" if len(lost) > 5 else ""
            raise InputFileError(
                f"every tensor of {self.path} must arrive in the artifact: {shown}{more}; save the model with "
                "plain dense tensors (before it was quantized or converted), or leave out on purpose: "
                f"`drop={next(iter(lost))!r}`"
            )

    def _at(self, key: str) -> AnyTensor:
        if key not in self._tensors:
            hint = nearest(key, list(self._tensors))
            raise InputFileError(f"{self.path} has no tensor {key!r}{hint}; it has {len(self._tensors):,}")
        return self._tensors[key]
