"""How figures are spelled: one way for the terminal, for pages and for model cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trcompress.errors import UsageError

MISSING = "–"
"""What stands where a figure is not known."""


def count(number: float) -> str:
    """Spell a count with separators.

    Example:
        >>> count(1234567)
        '1,234,567'
    """
    return f"{number:,.0f}"


def ratio(number: float) -> str:
    """Spell a compression ratio.

    Example:
        >>> ratio(34192.7)
        '34,192.70x'
    """
    return f"{number:,.2f}x"


def size(size_bytes: int | None) -> str:
    """Spell bytes in the unit that reads best.

    Example:
        >>> size(330232), size(12)
        ('330.2 kB', '12 B')
    """
    if size_bytes is None:
        return "unknown"
    value, units = float(size_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.0f} B" if units[0] == "B" else f"{value:,.1f} {units[0]}"


def share(number: float) -> str:
    """Spell a share of one in percent.

    Example:
        >>> share(0.9757)
        '97.57 %'
    """
    return f"{100 * number:.2f} %"


def error(number: float) -> str:
    """Spell an error or a loss with four decimals.

    Example:
        >>> error(0.73203)
        '0.7320'
    """
    return f"{number:.4f}"


def milliseconds(number: float) -> str:
    """Spell a time in milliseconds.

    Example:
        >>> milliseconds(0.0312)
        '0.031 ms'
    """
    return f"{number:,.3f} ms"


def damage(number: float) -> str:
    """Spell what a change did to outputs, often next to nothing, with three digits.

    Example:
        >>> damage(5.673e-05), damage(0.0312), damage(0.0)
        ('5.67e-05', '0.0312', '0')
    """
    return f"{number:.3g}"


SPELLINGS: Mapping[str, Callable[[float], str]] = {
    "count": count,
    "ratio": ratio,
    "size": lambda number: size(int(number)),
    "share": share,
    "error": error,
    "damage": damage,
    "ms": milliseconds,
}


def spell(value: float | None, spelling: str) -> str:
    """Spell a figure in one of `SPELLINGS`; an unknown one is a dash.

    Example:
        >>> spell(0.5, "share"), spell(None, "share")
        ('50.00 %', '–')
    """
    return MISSING if value is None else SPELLINGS[spelling](value)


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


def read_size(text: str | int) -> int:
    """Read a number of bytes as people write it.

    Raises:
        UsageError: not a number with one of the units B, KB, MB, GB, KiB, MiB, GiB, or below one byte.

    Example:
        >>> read_size("500KB"), read_size("1.5 MB"), read_size(7900)
        (500000, 1500000, 7900)
    """
    spelled = str(text).strip().upper().replace("_", "")
    number = spelled.rstrip("BKMGI ")
    try:
        found = round(float(number) * UNITS[spelled[len(number) :].strip()])
    except (ValueError, KeyError, OverflowError):
        found = 0
    if found < 1:
        raise UsageError(f"a size must be such as 500KB, 1.5MB or 7900, at least one byte: got {text!r}")
    return found
