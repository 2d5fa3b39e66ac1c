"""The whole header beside a small artifact, whose own header leaves the history out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from trcompress.errors import InputFileError
from trcompress.model.header import MAX_HEADER, Header, parse_header
from trcompress.util.bounded_json import read_json
from trcompress.util.files import write_text
from trcompress.util.inputs import note_input


def sidecar_path(path: Path) -> Path:
    """`model.safetensors.json` beside `model.safetensors`."""
    return path.parent / f"{path.name}.json"


def write_sidecar(path: Path, header: Header) -> Path:
    """Write the header of the artifact at `path` beside it, with the artifact's hash."""
    side = sidecar_path(path)
    record = {"sha256": _sha256(path), "header": json.loads(header.to_json())}
    write_text(side, json.dumps(record, indent=1) + "\n")
    return side


def with_sidecar(header: Header, path: Path) -> Header:
    """Add the history that lies beside an artifact, where it is this artifact's; else return the header as it is.

    Raises:
        InputFileError: the file beside it is none that `write_sidecar` wrote.
    """
    side = sidecar_path(path)
    if header.has_history or not side.is_file():
        return header
    note_input(side)
    if side.stat().st_size > MAX_HEADER:
        raise InputFileError(f"{side} is larger than a header may be; move it away")
    try:
        record = read_json(side.read_text(encoding="utf-8"))
        whole = parse_header(json.dumps(record["header"]))
        same = record["sha256"] == _sha256(path)
    except (ValueError, KeyError, TypeError) as error:
        raise InputFileError(f"{side} is not the history of {path.name}: move it away ({error})") from error
    return whole if same else header


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
