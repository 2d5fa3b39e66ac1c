"""Texts that come from files, made safe to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def visible(text: object, keep: str = "") -> str:
    r"""Spell out what a terminal would obey or hide: control characters, escape sequences, direction overrides.

    Args:
        text: anything; its `str` is taken.
        keep: control characters that may stay, such as line ends.

    Example:
        >>> visible("a\x1b[31mb\n")
        'a\\x1b[31mb\\n'
    """
    return "".join(
        one if one.isprintable() or one in keep else one.encode("unicode_escape").decode("ascii")
        for one in str(text)
    )


def encodable(value: Any) -> Any:
    r"""Spell out what UTF-8 cannot hold, in a text or a tree of JSON values: bytes of file names that are no text.

    Example:
        >>> encodable({"data": ["a\udcff.npz", 1]})
        {'data': ['a\\udcff.npz', 1]}
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {encodable(key): encodable(one) for key, one in value.items()}
    return [encodable(one) for one in value] if isinstance(value, list | tuple) else value


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows of cells out in columns, two letters in from the left.

    Example:
        >>> aligned([("weight", "values"), ("rnn.weight_ih_l0", "512")])
        ['  weight            values', '  rnn.weight_ih_l0  512']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]
