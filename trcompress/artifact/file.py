"""The compressed model as one file: plain safetensors plus a self-description that trcompress reads back.

`safetensors.torch.load_file` opens it without this library: cores are `<key>.core.<k>`, every other tensor of
the checkpoint has its own key, shape and dtype, or is stored in few bits as `storage` says. Nothing is pickled,
nothing is imported by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from trcompress.artifact.packing import PACKED_KEY, unpack
from trcompress.artifact.sidecar import with_sidecar
from trcompress.artifact.storage import Stored, stored_in
from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.safetensors_file import check_safetensors
from trcompress.errors import InputFileError
from trcompress.model.header import METADATA_KEY, Header, parse_header
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.inputs import note_input


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
        aliases = self.aliases
        return sum(self.stored_bytes(key) for key in self.tensors if key not in aliases)

    @property
    def aliases(self) -> frozenset[str]:
        """Keys that are another key's tensor under a second name: stored once, under the first."""
        return frozenset(key for group in self.header.shared for key in group[1:] if group[0] in self.tensors)

    def stored_bytes(self, key: str) -> int:
        """Bytes of one tensor as it is stored, before entropy coding."""
        return self.stored[key].nbytes if key in self.stored else self.tensors[key].nbytes

    @property
    def beside(self) -> frozenset[str]:
        """Keys that lay beside the model's own dict in the checkpoint (`generator.0.weight`)."""
        return frozenset(key for one in self.reading("beside") for key in one if isinstance(key, str))

    @property
    def allowed_nonfinite(self) -> frozenset[str]:
        """Keys that may hold NaN or Inf, as the user said when the model was compressed."""
        return frozenset(key for one in self.reading("allowed_nonfinite") for key in one if isinstance(key, str))

    def reading(self, what: str) -> list[Any]:
        """Return what every step of the history says of the reading of the checkpoint: `beside`, `places`, ..."""
        told = [step.settings.get("reading") for step in self.header.lineage]
        return [one[what] for one in told if isinstance(one, dict) and one.get(what)]

    def distinct_plans(self) -> dict[str, WeightPlan]:
        """Return the structure of every compressed weight, a tied one under its first key alone."""
        aliases = self.aliases
        return {key: plan for key, plan in self.weight_plans().items() if f"{key}.core.0" not in aliases}

    def weight_plans(self) -> dict[str, WeightPlan]:
        """Return the structure of every compressed weight, by its key."""
        return self.header.weight_plans()

    def cores(self, name: str) -> list[Tensor]:
        """Return the cores of one compressed weight, inputs first."""
        count = len(self.weight_plans()[name].structure.core_shapes)
        return [self.tensors[f"{name}.core.{k}"] for k in range(count)]


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
    for group in header.shared:
        tensors |= {alias: tensors[group[0]] for alias in group[1:] if group[0] in tensors}
    for name, plan in header.weight_plans().items():
        _check_cores(name, plan, tensors)
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
        check_safetensors(path)
        with safe_open(path, framework="pt") as stream:
            keys = stream.keys()
            return stream.metadata() or {}, {key: stream.get_tensor(key) for key in keys}
    except (SafetensorError, DamageError, OSError) as error:
        if not isinstance(error, OSError) and _is_of_torch_save(path):
            raise InputFileError(
                f"{path} is what torch.save writes, not a trcompress artifact; make one with: trcompress decompose "
                f"{path}"
            ) from error
        raise InputFileError(f"{path} is not a readable safetensors file ({error}); is it truncated?") from error


def _is_of_torch_save(path: Path) -> bool:
    """Whether a file begins as a zip or a pickle, which read as a header's length is terabytes."""
    with path.open("rb") as stream:
        head = stream.read(8)
    return head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and any(head[5:]))


def _check_cores(name: str, plan: WeightPlan, tensors: Mapping[str, Tensor]) -> None:
    for k, shape in enumerate(plan.core_shapes):
        core = tensors.get(f"{name}.core.{k}")
        if core is None or tuple(core.shape) != shape:
            found = "is missing" if core is None else f"is {tuple(core.shape)}"
            raise InputFileError(f"damaged artifact: core {k} of {name} {found}; its header asks {shape}")
        if not core.is_floating_point():
            raise InputFileError(f"damaged artifact: core {k} of {name} is {core.dtype}, not floating point")
