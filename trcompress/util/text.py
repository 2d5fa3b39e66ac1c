"""Texts that come from files, made safe to show."""

from __future__ import annotations

from collections.abc import Sequence


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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay rows of cells out in columns, two letters in from the left.

    Example:
        >>> aligned([("weight", "values"), ("rnn.weight_ih_l0", "512")])
        ['  weight            values', '  rnn.weight_ih_l0  512']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]
