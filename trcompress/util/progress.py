"""How long work tells how far it is: a callback with (what, fraction done)."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
Count = Callable[[int, int, str], None]
"""How a loop over many files tells how far it is: called with (done, total, what)."""


def part_of(progress: Progress | None, name: str, done: int, total: int) -> Progress | None:
    """Map the progress of one part onto its share of the whole.

    Args:
        progress: of the whole, or None.
        name: of the part, put before what it says.
        done: parts finished before it.
        total: parts in all.

    Example:
        >>> part_of(lambda what, fraction: print(what, fraction), "b", 1, 2)("half way", 0.5)
        b: half way 0.75
    """
    if progress is None:
        return None
    return lambda what, fraction: progress(f"{name}: {what}", (done + fraction) / total)


def counted(progress: Progress | None) -> Count | None:
    """Give a loop that counts a progress that is told in fractions.

    Example:
        >>> counted(lambda what, fraction: print(what, fraction))(3, 12, "decoding clips")
        decoding clips 0.25
    """
    if progress is None:
        return None
    return lambda done, total, what: progress(what, done / max(1, total))
