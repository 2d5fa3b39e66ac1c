"""JSON of files that others made: its parts are counted before they are built, and its faults told in short."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the help of a verb does not wait for it
    from pydantic import ValidationError

MAX_PARTS = 1_500_000
"""Lists, objects, commas and colons. An empty list is 2 bytes of text, and 64 in memory."""
MAX_FAULTS = 1_000
"""Of one document; pydantic spells out all of them before the first can be told."""


def read_json(text: str | bytes, **options: Any) -> Any:
    """Read JSON, of which no more than `MAX_PARTS` parts are built.

    Args:
        text: the document; bytes are UTF-8.
        options: of `json.loads`.

    Raises:
        ValueError: no JSON, nested too deep, or too many parts.

    Example:
        >>> read_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    check_parts(text)
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def check_parts(text: str | bytes, most: int = MAX_PARTS) -> None:
    """Count the parts of a JSON document without reading it; those inside of its texts do not count.

    Raises:
        ValueError: there are more than `most`.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _parts(data, 0, len(data)) <= most:
        return
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    count = start = 0
    while start < len(data) and count <= most:
        quote = data.find(b'"', start) % (len(data) + 1)  # the end, where there is none
        count += _parts(data, start, quote) + 1
        start = data.find(b'"', quote + 1) % (len(data) + 1) + 1
    if count > most:
        raise ValueError(f"it has more than {most:,} parts; at most so many are read")


def faults_of(error: ValidationError, most: int) -> str:
    """Tell the first faults of a document in one line; of very many, only how many there are."""
    if error.error_count() > MAX_FAULTS:
        return f"{error.error_count():,} of its values do not fit"
    return "; ".join(
        f"{'.'.join(str(part)[:80] for part in fault['loc']) or 'the document'}: {fault['msg'][:300]}"
        for fault in error.errors()[:most]
    )


def _parts(data: bytes, start: int, end: int) -> int:
    return sum(data.count(one, start, end) for one in (b",", b":", b"[", b"{"))
