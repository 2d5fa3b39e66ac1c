"""From a path to what the file holds: the format by its content, then that format's reader."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trcompress.checkpoint.archive import Archive
from trcompress.checkpoint.content import FileContent
from trcompress.checkpoint.distributed import read_distributed
from trcompress.checkpoint.identify import other_file, other_zip
from trcompress.checkpoint.limits import DamageError
from trcompress.checkpoint.npz_file import is_npz, read_npz, skip_object_header
from trcompress.checkpoint.pickles import PickleReader
from trcompress.checkpoint.place import find_checkpoint
from trcompress.checkpoint.safetensors_file import looks_like_safetensors, read_metadata, read_safetensors
from trcompress.checkpoint.safety import refuse_calls, refuse_unsafe
from trcompress.checkpoint.set_aside import is_training_state
from trcompress.checkpoint.shards import read_index
from trcompress.checkpoint.torch_legacy import read_torch_legacy
from trcompress.checkpoint.torch_zip import is_scripted, pickle_entry, read_torch_zip
from trcompress.errors import InputFileError
from trcompress.util.inputs import note_input

METADATA_KEY = "trcompress"
_KINDS = "a PyTorch (.pt, .pth), .safetensors or .npz checkpoint"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_NPY = b"\x93NUMPY"
_INSIDE = (".pth", ".pt", ".ckpt", ".bin")


def read_content(path: str | Path, *, skip_objects: bool = False) -> FileContent:
    """Read any dense checkpoint, without running or loading anything of it.

    Args:
        path: a file, an index of several, or a folder that holds one checkpoint.
        skip_objects: leave out objects of foreign classes beside the weights.

    Raises:
        InputFileError: missing, empty, truncated, damaged, not a checkpoint, or already compressed.
        UnsafeFileError: a pickle that holds more than weights.
    """
    path = find_checkpoint(Path(path))
    note_input(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the standard library's parsers, on escapes in damaged text
            if path.is_dir():
                return read_distributed(path)
            return _by_content(path, skip_objects)
    except DamageError as error:
        raise InputFileError(f"cannot read {path}: {error}; fetch or save the checkpoint again") from error
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error


def _by_content(path: Path, skip_objects: bool) -> FileContent:
    with path.open("rb") as stream:
        head = stream.read(512)
    if head[:4] in _ZIP:
        return _zip(path, skip_objects)
    if looks_like_safetensors(head):
        return _safetensors(path)
    if head.lstrip()[:1] == b"{":
        return read_index(path, lambda part: _part(part, skip_objects))
    if head.startswith(_NPY):
        return _npy(path, skip_objects)
    return _pickle(path, head, skip_objects)


def _part(path: Path, skip_objects: bool) -> FileContent:
    """One file of several; what is wrong with it names it."""
    with path.open("rb") as stream:
        if stream.read(64).lstrip()[:1] == b"{":
            raise InputFileError(f"{path} is an index where a part of a checkpoint is expected")
    try:
        return _by_content(path, skip_objects)
    except DamageError as error:
        raise InputFileError(f"cannot read {path}: {error}; fetch this part again") from error


def refuse_artifact(path: str | Path, metadata: Mapping[str, str]) -> None:
    """Refuse our own output where a dense checkpoint is wanted.

    Raises:
        InputFileError: the safetensors metadata carries our header.
    """
    if METADATA_KEY in metadata:
        raise InputFileError(
            f"{path} is already compressed (a trcompress artifact): give the dense checkpoint here, "
            f"or use trcompress report {path}, trcompress evaluate or trcompress finetune on the artifact"
        )


def is_artifact(path: str | Path) -> bool:
    """Return True where a file is our own output; anything else, readable or not, is just False."""
    path = Path(path)
    return path.is_file() and METADATA_KEY in read_metadata(path)


def _safetensors(path: Path) -> FileContent:
    tensors, metadata = read_safetensors(path)
    refuse_artifact(path, metadata)
    return FileContent(path, "safetensors", tensors, metadata, files=(path,))


def _zip(path: Path, skip_objects: bool) -> FileContent:
    with Archive(path) as archive:
        if pickle_entry(archive) is not None:
            return _torch_zip(path, archive, skip_objects)
        if is_npz(archive):
            return FileContent(path, "npz", read_npz(archive), files=(path,))
        what = other_zip(archive.entries)
        if what is not None:
            raise InputFileError(f"{path} is not a checkpoint but {what}")
        inside = [
            name for name in archive.entries if name.endswith(_INSIDE) and not is_training_state(name.split("."))
        ]
        if any(name.rpartition("/")[2] == "policy.pth" for name in inside):  # as Stable-Baselines3 writes it
            inside = [name for name in inside if name.rpartition("/")[2] == "policy.pth"]
        if len(inside) == 1 and (place := archive.place_of(inside[0])) is not None:
            return _nested(path, inside[0], place, skip_objects)
        shown = ", ".join(name[:100] for name in inside[:5] or list(archive.entries)[:3]) or "no entry"
    if inside:
        raise InputFileError(f"{path} is a zip archive that holds {shown}: unpack it and give the checkpoint in it")
    raise InputFileError(f"{path} is a zip archive but not a checkpoint (it holds {shown}); give {_KINDS}")


def _nested(path: Path, name: str, place: tuple[int, int], skip_objects: bool) -> FileContent:
    """Read a checkpoint where it lies inside a zip archive."""
    with path.open("rb") as stream:
        stream.seek(place[0])
        head = stream.read(4)
    if head not in _ZIP:
        raise InputFileError(f"{path} is a zip archive that holds {name:.100}: unpack it and give that file")
    with Archive(path, *place) as archive:
        if pickle_entry(archive) is None:
            raise InputFileError(f"{path} holds {name:.100}, which is no checkpoint of PyTorch; give {_KINDS}")
        return _torch_zip(path, archive, skip_objects, (f"read from its member {name:.100}",))


def _torch_zip(path: Path, archive: Archive, skip_objects: bool, notes: tuple[str, ...] = ()) -> FileContent:
    entry = str(pickle_entry(archive))
    reader = PickleReader(path.stat().st_size)
    root = _judged(path, reader, lambda: read_torch_zip(archive, entry, reader.load), skip_objects)
    if is_scripted(archive, entry):
        notes = (*notes, "TorchScript archive: weights read, its code not run")
    else:
        notes = (*notes, *_module_notes(reader))
    return FileContent(path, "torch-zip", root, {}, notes, (path,))


def _npy(path: Path, skip_objects: bool) -> FileContent:
    """A dict that numpy.save pickled; a plain array has no names."""
    reader = PickleReader(path.stat().st_size)
    with path.open("rb") as stream:
        if not skip_object_header(stream):
            raise InputFileError(
                f"{path} is not a checkpoint but a single NumPy array without names; save a .npz with torch keys"
            )
        root = _judged(path, reader, lambda: reader.load(stream), skip_objects)
    return FileContent(path, "npy", root, {}, ("arrays of a NumPy pickle: read as data, nothing run",), (path,))


def _pickle(path: Path, head: bytes, skip_objects: bool) -> FileContent:
    """A file of torch.save as it was before PyTorch 1.6, or a plain pickle."""
    foreign = other_file(path, head)
    if foreign is not None:
        raise InputFileError(f"{path} is not a checkpoint but {foreign}")
    reader = PickleReader(path.stat().st_size)
    with path.open("rb") as stream:
        try:
            legacy, root = _judged(path, reader, lambda: read_torch_legacy(stream, path, reader.load), skip_objects)
        except DamageError as error:
            if head[:1] == b"\x80":
                raise
            raise InputFileError(
                f"{path} is not a checkpoint: its content is none of the known formats; give {_KINDS}"
            ) from error
    if legacy:
        return FileContent(path, "torch-legacy", root, {}, _module_notes(reader), (path,))
    note = "a Python pickle that torch.save did not write: read as data, nothing run"
    return FileContent(path, "pickle", root, {}, (note,), (path,))


def _judged(path: Path, reader: PickleReader, read: Callable[[], Any], skip_objects: bool) -> Any:
    """Read, then refuse what is unsafe; where the reading broke off, what had been seen is judged first."""
    try:
        root = read()
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
