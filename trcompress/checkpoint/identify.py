"""Files that are something else than a checkpoint of PyTorch: named as what they are, with the next step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_SAVE = "save its weights under torch.nn's names, as a .npz or a state dict"
_UNPACK = "unpack it first"
_TAR_AT = 257

_BEGINNINGS: dict[bytes, str] = {
    b"\x89HDF": f"an HDF5 file, as Keras writes it (.h5): load it with Keras and {_SAVE}",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF document",
    b"GGUF": "a GGUF file: take the checkpoint it was converted from",
    b"ggml": "a GGML file: take the checkpoint it was converted from",
    b"\x1f\x8b": f"gzip-compressed: {_UNPACK}",
    b"\xfd7zXZ": f"xz-compressed: {_UNPACK}",
    b"BZh": f"bzip2-compressed: {_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"zstd-compressed: {_UNPACK}",
    b"7z\xbc\xaf": f"a 7z archive: {_UNPACK}",
    b"Rar!": f"a RAR archive: {_UNPACK}",
    b"MATLAB": f"a MATLAB file: load it with scipy.io.loadmat and {_SAVE}",
    b"\x7fELF": "a program",
    b"MZ": "a program",
    b"SQLite": "a database",
}
_BUFFERS = {b"TFL3": "a TensorFlow Lite model", b"ET": "an ExecuTorch program (.pte)"}
_TABLE_END = bytes.fromhex("57fb808b247547db")  # of a LevelDB table, which the index of a TensorFlow checkpoint is
_TAR = "a tar archive: unpack it, or where it is a PyTorch 0.1 checkpoint load and save it once with PyTorch 1 or 2"
TENSORFLOW = f"a TensorFlow checkpoint: load it with tf.train.load_checkpoint and {_SAVE}"
_SAVED_MODEL = f"a TensorFlow SavedModel: load it with TensorFlow and {_SAVE}"
_ONNX = "an ONNX model: take the checkpoint it was exported from, or read its initializers with onnx.numpy_helper"
_EXPORTED = "a program of torch.export (.pt2): save `torch.export.load(path).state_dict` with torch.save"


def other_file(path: Path, head: bytes) -> str | None:
    """Name a file that is no checkpoint by its first bytes, and by its name where bytes do not tell.

    Args:
        path: the file.
        head: its first 512 bytes.

    Returns:
        What it is and what to do; None for what may be a checkpoint.
    """
    for magic, what in _BEGINNINGS.items():
        if head.startswith(magic):
            return what
    for magic, what in _BUFFERS.items():
        if head[4:8].startswith(magic):
            return f"{what}: take the checkpoint it was made from"
    if head[_TAR_AT:].startswith(b"ustar"):
        return _TAR
    return _text(head) or _tensorflow(path, head) or (_ONNX if _is_onnx(path, head) else None)


def other_zip(names: Iterable[str]) -> str | None:
    """Name a zip archive that is no checkpoint by what it holds."""
    held = set(names)
    ends = {name.rpartition("/")[2] for name in held}
    if "model.weights.h5" in ends or {"config.json", "metadata.json"} <= held:
        return f"a Keras model (.keras): load it with Keras and {_SAVE}"
    if (
        "archive_format" in ends
        or "serialized_exported_program.json" in ends
        or any(re.search(r"(^|/)models/[^/]+\.json$", name) for name in held)
    ):
        return _EXPORTED
    if "saved_model.pb" in ends:
        return f"a zipped TensorFlow SavedModel: load it with TensorFlow and {_SAVE}"
    return "a Core ML package: take the checkpoint it was made from" if "Manifest.json" in ends else None


def other_folder(folder: Path) -> str | None:
    """Name a folder that is no checkpoint of PyTorch."""
    if (folder / "saved_model.pb").is_file() or (folder / "keras_metadata.pb").is_file():
        return _SAVED_MODEL
    if (folder / "checkpoint").is_file() and any(folder.glob("*.index")):
        return TENSORFLOW
    return None


def _text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page: the download gave an error or a login page; fetch the file itself"
    if b"model_checkpoint_path" in head:
        return TENSORFLOW
    return None


def _tensorflow(path: Path, head: bytes) -> str | None:
    if re.search(r"\.data-\d{5}-of-\d{5}$", path.name) or _last_bytes(path, 8) == _TABLE_END:
        return TENSORFLOW
    return _SAVED_MODEL if path.name == "saved_model.pb" else None


def _last_bytes(path: Path, count: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - count))
        return stream.read(count)


def _is_onnx(path: Path, head: bytes) -> bool:
    """A ModelProto: its first field is the format version, the next the producer, the graph or the opsets."""
    if path.suffix.lower() == ".onnx":
        return True
    return len(head) > 3 and head[0] == 0x08 and 1 <= head[1] < 64 and head[2] in (0x12, 0x3A, 0x42)
