"""Texts that come from files, made safe to show."""

from __future__ import annotations


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
