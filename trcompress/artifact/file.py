"""The compressed model as one file: plain safetensors plus a self-description that trcompress reads back.

`safetensors.torch.load_file` opens it without this library: cores are `<key>.core.<k>`, every other tensor of
the checkpoint has its own key, shape and dtype, or is stored in few bits as `storage` says. Nothing is pickled,
nothing is imported by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trcompress.artifact.packing import PACKED_KEY, Streams, pack, unpack
from trcompress.artifact.sidecar import with_sidecar, write_sidecar
from trcompress.artifact.storage import Stored, stored_in
from trcompress.errors import InputFileError, UsageError
from trcompress.model.header import METADATA_KEY, Header, parse_header
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.files import atomic_path, check_output, system_error
from trcompress.util.inputs import note_input

COMPACT_BELOW = 20_000
"""Bytes of tensors below which a header with few-bit storage is compact."""


@dataclass
class Artifact:
    """A compressed model in memory.

    Args:
        tensors: every tensor of the model by key, expanded to its own dtype; cores are `<key>.core.<k>`.
        header: the self-description.
        path: where it was read from, if it was.
        stored: those that a file holds in few bits, as it holds them. A tensor that has changed since is rounded
            again when it is written.
        packed: entropy-code what is stored.
    """

    tensors: dict[str, Tensor]
    header: Header
    path: Path | None = field(default=None)
    stored: dict[str, Stored] = field(default_factory=dict)
    packed: bool = False

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors as they are stored, before entropy coding."""
        return sum(self.stored_bytes(key) for key in self.tensors)

    def stored_bytes(self, key: str) -> int:
        """Bytes of one tensor as it is stored, before entropy coding."""
        return self.stored[key].nbytes if key in self.stored else self.tensors[key].nbytes

    @property
    def beside(self) -> frozenset[str]:
        """Keys that lay beside the model's own dict in the checkpoint (`generator.0.weight`)."""
        told = (step.settings.get("reading") for step in self.header.lineage)
        keys = [key for one in told if isinstance(one, dict) for key in one.get("beside") or ()]
        return frozenset(key for key in keys if isinstance(key, str))

    def weight_plans(self) -> dict[str, WeightPlan]:
        """The structure of every compressed weight, by its key."""
        return self.header.weight_plans()

    def cores(self, name: str) -> list[Tensor]:
        """The cores of one compressed weight, inputs first."""
        count = len(self.weight_plans()[name].structure.core_shapes)
        return [self.tensors[f"{name}.core.{k}"] for k in range(count)]


def write_artifact(path: str | Path, artifact: Artifact, *, overwrite: bool = False, sidecar: bool = False) -> Path:
    """Write an artifact: all of it, or nothing.

    Where tensors are stored in few bits and the file is small, its header is compact: without history.

    Args:
        path: the output.
        artifact: the model.
        overwrite: replace an existing file.
        sidecar: write the whole header beside it as well, to `<path>.json`, where `read_artifact` finds it.

    Raises:
        OutputFileError: the path exists (without `overwrite`), or cannot be written.
    """
    path = check_output(path, overwrite=overwrite)
    tensors, header = _as_stored(artifact)
    tensors = _own_storages(tensors)
    compact = bool(header.storage) and sum(one.nbytes for one in tensors.values()) < COMPACT_BELOW
    metadata = {"format": "pt", METADATA_KEY: header.to_json(compact=compact)}
    with atomic_path(path, overwrite=overwrite) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise system_error(error) from error
    if sidecar:
        write_sidecar(path, header)
    return path


def file_bytes(artifact: Artifact) -> int:
    """Return how large the file will be, without writing it."""
    tensors, header = _as_stored(artifact)
    size = sum(one.nbytes for one in tensors.values())
    compact = bool(header.storage) and size < COMPACT_BELOW
    entries = {
        key: {"dtype": "BF16", "shape": list(one.shape), "data_offsets": [size - one.nbytes, size]}
        for key, one in tensors.items()
    }
    about = {"__metadata__": {"format": "pt", METADATA_KEY: header.to_json(compact=compact)}}
    table = len(json.dumps(about | entries, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + (table + 7) // 8 * 8 + size


def _as_stored(artifact: Artifact) -> tuple[dict[str, Tensor], Header]:
    """The tensors that the file holds, and a header that says how."""
    stored = {key: _current(one, artifact.tensors[key]) for key, one in artifact.stored.items()}
    records = {key: (one.kind, str(one.dtype).removeprefix("torch."), one.shape) for key, one in stored.items()}
    tensors = {key: one for key, one in artifact.tensors.items() if key not in stored}
    parts = {name: part for key, one in stored.items() for name, part in one.named(key).items()}
    if clash := sorted(set(parts) & set(tensors)):
        raise UsageError(f"a tensor's name must not be that of a stored part: {', '.join(clash[:5])}; rename it")
    streams: Streams = ()
    if artifact.packed and parts:
        whole, streams = pack(parts, records)
        parts = {PACKED_KEY: whole}
    return tensors | parts, artifact.header.model_copy(update={"storage": records, "packed": streams})


def _current(stored: Stored, tensor: Tensor) -> Stored:
    """What is stored, rounded again where the values have changed."""
    same = stored.shape == tuple(tensor.shape) and torch.equal(
        stored.expand().to(tensor.dtype), tensor.detach().cpu()
    )
    return stored if same else Stored.of(tensor.detach().cpu(), stored.kind)


def read_artifact(path: str | Path) -> Artifact:
    """Read an artifact and check it against its own description.

    Raises:
        InputFileError: missing, damaged, not safetensors, not an artifact, or cores that do not fit the header.
    """
    path = Path(path)
    metadata, tensors = _read_safetensors(path)
    if METADATA_KEY not in metadata:
        raise InputFileError(
            f"{path} is a safetensors file but not a trcompress artifact; "
            f"make one with: trcompress decompose {path}"
        )
    header = with_sidecar(parse_header(metadata[METADATA_KEY]), path)
    tensors, stored = _expanded(tensors, header)
    for name, plan in header.weight_plans().items():
        _check_cores(name, plan, tensors)
    for group in header.shared:
        tensors |= {alias: tensors[group[0]] for alias in group[1:] if group[0] in tensors and alias in tensors}
    return Artifact(tensors, header, path, stored, bool(header.packed))


def _expanded(tensors: dict[str, Tensor], header: Header) -> tuple[dict[str, Tensor], dict[str, Stored]]:
    """Values of what is stored in few bits, and its parts."""
    if header.packed:
        packed = tensors.pop(PACKED_KEY, None)
        tensors = tensors | unpack(packed, header.storage, header.packed)
    stored = {key: stored_in(key, *record, tensors) for key, record in header.storage.items()}
    parts = {name for key, one in stored.items() for name in one.named(key)}
    plain = {key: one for key, one in tensors.items() if key not in parts}
    return plain | {key: one.expand() for key, one in stored.items()}, stored


def _read_safetensors(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise InputFileError(f"no such file: {path}")
    note_input(path)
    try:
        with safe_open(path, framework="pt") as stream:
            keys = stream.keys()
            return stream.metadata() or {}, {key: stream.get_tensor(key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise InputFileError(f"{path} is not a readable safetensors file ({error}); is it truncated?") from error


def _check_cores(name: str, plan: WeightPlan, tensors: Mapping[str, Tensor]) -> None:
    for k, shape in enumerate(plan.core_shapes):
        core = tensors.get(f"{name}.core.{k}")
        if core is None or tuple(core.shape) != shape:
            found = "is missing" if core is None else f"is {tuple(core.shape)}"
            raise InputFileError(f"damaged artifact: core {k} of {name} {found}; its header asks {shape}")
        if not core.is_floating_point():
            raise InputFileError(f"damaged artifact: core {k} of {name} is {core.dtype}, not floating point")


def _own_storages(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor contiguous memory of its own, as safetensors requires; copies only where shared."""
    seen: set[int] = set()
    own = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        own[key] = tensor if alone else tensor.clone()
        seen.add(storage.data_ptr())
    return own
