"""From a path to what the file holds: the format by its content, then that format's reader."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trcompress.checkpoint.archive import Archive
from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.npz_file import is_npz, read_npz
from trcompress.checkpoint.pickles import PickleReader
from trcompress.checkpoint.safetensors_file import looks_like_safetensors, read_metadata, read_safetensors
from trcompress.checkpoint.safety import refuse_calls, refuse_unsafe
from trcompress.checkpoint.torch_legacy import NotTorchError, read_torch_legacy
from trcompress.checkpoint.torch_zip import is_scripted, pickle_entry, read_torch_zip
from trcompress.errors import InputFileError
from trcompress.util.inputs import note_input

METADATA_KEY = "trcompress"
_KINDS = "a PyTorch (.pt, .pth), .safetensors or .npz checkpoint"
_FOREIGN = {
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"\xfd7zXZ": "xz-compressed; unpack it first",
    b"BZh": "bzip2-compressed; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x93NUMPY": "a single NumPy array without names; save a .npz with torch key names",
    b"\x7fELF": "a program",
}
_TAR_AT = 257
_TAR = "a tar archive; unpack it, or where it is a PyTorch 0.1 checkpoint load and save it once with PyTorch 1 or 2"


@dataclass(frozen=True)
class FileContent:
    """What a file holds, unjudged.

    Args:
        path: the file.
        format: "torch-zip", "torch-legacy", "safetensors" or "npz".
        root: dicts, lists, `Instance`s and tensors that are still in the file.
        metadata: of a safetensors file.
        notes: what a user should know of how it was read.
    """

    path: Path
    format: str
    root: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_content(path: str | Path, *, skip_objects: bool = False) -> FileContent:
    """Read any dense checkpoint file, without running or loading anything of it.

    Raises:
        InputFileError: missing, empty, truncated, damaged, not a checkpoint, or already compressed.
        UnsafeFileError: a pickle that holds more than weights.
    """
    path = _check_is_file(Path(path))
    note_input(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the standard library's parsers, on escapes in damaged text
            return _by_content(path, skip_objects)
    except DamageError as error:
        raise InputFileError(f"cannot read {path}: {error}; fetch or save the checkpoint again") from error
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error


def _by_content(path: Path, skip_objects: bool) -> FileContent:
    with path.open("rb") as stream:
        head = stream.read(512)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip(path, skip_objects)
    if looks_like_safetensors(head):
        return _safetensors(path)
    return _legacy(path, head, skip_objects)


def refuse_artifact(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Refuse our own output where a dense checkpoint is wanted.

    Raises:
        InputFileError: the safetensors metadata carries our header.
    """
    if METADATA_KEY in metadata:
        raise InputFileError(
            f"{path} is already compressed (a trcompress artifact): give the dense checkpoint here, "
            f"or use trcompress report {path}, finetune, evaluate or expand on the artifact"
        )


def is_artifact(path: str | Path) -> bool:
    """Whether a file is our own output; anything else, readable or not, is just False."""
    path = Path(path)
    return path.is_file() and METADATA_KEY in read_metadata(path)


def _check_is_file(path: Path) -> Path:
    try:
        if path.is_dir():
            raise InputFileError(f"a checkpoint must be a file: {path} is a folder; name a file in it")
        if not path.exists():
            raise InputFileError(f"no such file: {path}; check the path")
        if not path.is_file():
            raise InputFileError(f"a checkpoint must be a plain file: {path} is a device, pipe or socket")
        if not path.stat().st_size:
            raise InputFileError(f"{path} is empty (0 bytes); fetch or save the checkpoint again")
    except (OSError, ValueError) as error:
        if isinstance(error, InputFileError):
            raise
        raise InputFileError(f"cannot read {path!s:.200}: {error}") from error
    return path


def _safetensors(path: Path) -> FileContent:
    tensors, metadata = read_safetensors(path)
    refuse_artifact(path, metadata)
    return FileContent(path, "safetensors", tensors, metadata)


def _zip(path: Path, skip_objects: bool) -> FileContent:
    with Archive(path) as archive:
        entry = pickle_entry(archive)
        if entry is None and is_npz(archive):
            return FileContent(path, "npz", read_npz(archive))
        if entry is None:
            shown = ", ".join(name[:100] for name in list(archive.entries)[:3]) or "no entry"
            raise InputFileError(f"{path} is a zip archive but not a checkpoint (it holds {shown}); give {_KINDS}")
        reader = PickleReader()
        root = _judged(path, reader, lambda: read_torch_zip(archive, entry, reader.load), skip_objects)
        scripted = is_scripted(archive, entry)
    notes = ("TorchScript archive: weights read, its code not run",) if scripted else _module_notes(reader)
    return FileContent(path, "torch-zip", root, {}, notes)


def _legacy(path: Path, head: bytes, skip_objects: bool) -> FileContent:
    foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if head[_TAR_AT:].startswith(b"ustar"):
        foreign = _TAR
    if foreign is not None:
        raise InputFileError(f"{path} is not a checkpoint but {foreign}; give {_KINDS}")
    reader = PickleReader()
    with path.open("rb") as stream:
        try:
            root = _judged(path, reader, lambda: read_torch_legacy(stream, path, reader.load), skip_objects)
        except NotTorchError as error:
            raise InputFileError(
                f"cannot use {path}: {error}; load it where you trust it and save {_KINDS}"
            ) from error
        except DamageError as error:
            if head[:1] == b"\x80":
                raise
            raise InputFileError(
                f"{path} is not a checkpoint: its content is none of the known formats; give {_KINDS}"
            ) from error
    return FileContent(path, "torch-legacy", root, {}, _module_notes(reader))


def _judged(path: Path, reader: PickleReader, read: Callable[[], Any], skip_objects: bool) -> Any:
    """Read, then refuse what is unsafe; where the reading broke off, what had been seen is judged first."""
    try:
        root = read()
    except NotTorchError:
        refuse_unsafe(path, reader.pickles, skip_objects=skip_objects)
        raise
    except DamageError:
        refuse_calls(path, reader.pickles)
        raise
    refuse_unsafe(path, reader.pickles, skip_objects=skip_objects)
    return root


def _module_notes(reader: PickleReader) -> tuple[str, ...]:
    classes = sorted({str(module.origin) for found in reader.pickles for module in found.modules})
    if not classes:
        return ()
    shown = ", ".join(classes[:3]) + (f" and {len(classes) - 3} more" if len(classes) > 3 else "")
    return (f"whole pickled modules ({shown}): weights read, their code not run",)
