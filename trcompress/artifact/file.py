"""The compressed model as one file: plain safetensors plus a self-description that trcompress reads back.

`safetensors.torch.load_file` opens it without this library: cores are `<key>.core.<k>`, every other tensor of
the checkpoint has its own key, shape and dtype. Nothing is pickled, nothing is imported by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trcompress.errors import InputFileError
from trcompress.model.header import METADATA_KEY, Header, parse_header
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.files import atomic_path, check_output, system_error
from trcompress.util.inputs import note_input


@dataclass
class Artifact:
    """A compressed model in memory.

    Args:
        tensors: every tensor of the file by key; cores are `<key>.core.<k>`.
        header: the self-description.
        path: where it was read from, if it was.
    """

    tensors: dict[str, Tensor]
    header: Header
    path: Path | None = field(default=None)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

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


def write_artifact(path: str | Path, artifact: Artifact, *, overwrite: bool = False) -> Path:
    """Write an artifact: all of it, or nothing.

    Raises:
        OutputFileError: the path exists (without `overwrite`), or cannot be written.
    """
    path = check_output(path, overwrite=overwrite)
    tensors = _own_storages(artifact.tensors)
    with atomic_path(path, overwrite=overwrite) as temporary:
        try:
            save_file(tensors, temporary, metadata={"format": "pt", METADATA_KEY: artifact.header.to_json()})
        except SafetensorError as error:
            raise system_error(error) from error
    return path


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
    header = parse_header(metadata[METADATA_KEY])
    for name, plan in header.weight_plans().items():
        _check_cores(name, plan, tensors)
    for group in header.shared:
        tensors |= {alias: tensors[group[0]] for alias in group[1:] if group[0] in tensors and alias in tensors}
    return Artifact(tensors, header, path)


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
