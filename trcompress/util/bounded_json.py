"""JSON of files that others made: its parts are counted before they are built, and its faults told in short."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

MAX_PARTS = 1_000_000
"""Lists, objects and commas. An empty list is 2 bytes of text, and 64 in memory."""
MAX_FAULTS = 1_000
"""Of one document; pydantic spells out all of them before the first can be told."""
_BYTES = re.compile(rb'"(?:[^"\\]|\\.)*"')
_TEXT = re.compile(_BYTES.pattern.decode())


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


def check_parts(text: str | bytes) -> None:
    """Count the parts of a JSON document without reading it; those inside of its texts do not count.

    Raises:
        ValueError: there are more than `MAX_PARTS`.
    """
    if _parts(text) > MAX_PARTS:
        bare = _TEXT.sub("", text) if isinstance(text, str) else _BYTES.sub(b"", text)
        if (count := _parts(bare)) > MAX_PARTS:
            raise ValueError(f"it has {count:,} parts; at most {MAX_PARTS:,} are read")


def faults_of(error: ValidationError, most: int) -> str:
    """Tell the first faults of a document in one line; of very many, only how many there are."""
    if error.error_count() > MAX_FAULTS:
        return f"{error.error_count():,} of its values do not fit"
    return "; ".join(
        f"{'.'.join(str(part)[:80] for part in fault['loc']) or 'the document'}: {fault['msg'][:300]}"
        for fault in error.errors()[:most]
    )


def _parts(text: str | bytes) -> int:
    if isinstance(text, str):
        return text.count(",") + text.count("[") + text.count("{")
    return text.count(b",") + text.count(b"[") + text.count(b"{")
