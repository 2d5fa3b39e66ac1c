"""The little languages of shapes and ranks."""

from __future__ import annotations

from math import prod

from trcompress.errors import ShapeError

MAX_SIZE = 2**40
"""No product of modes and no rank beyond this: a typing error, not a network."""


def parse_shape(text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read `4x2x5:4x4` as (input modes, output modes).

    Raises:
        ShapeError: another form, or a mode below 1.

    Example:
        >>> parse_shape("4x2x5:4x4")
        ((4, 2, 5), (4, 4))
    """
    sides = text.lower().replace(" ", "").split(":")
    rule = "`shape` is INPUT:OUTPUT, modes joined by x, as in 4x2x5x8:4x4x2"
    if len(sides) != 2 or not all(sides):
        raise ShapeError(f"{rule}: got {text!r}")
    in_modes, out_modes = (tuple(_positive(mode, rule, text) for mode in side.split("x")) for side in sides)
    if prod(in_modes) > MAX_SIZE or prod(out_modes) > MAX_SIZE:
        raise ShapeError(f"the modes of a shape must multiply to less than 2**40: got {text!r}")
    return in_modes, out_modes


def parse_ranks(text: str) -> tuple[int, ...]:
    """Read `5`, `5,10`, `40,60,48,48` as numbers, or `full` as the empty tuple.

    Raises:
        ShapeError: not numbers of 1 or more.

    Example:
        >>> parse_ranks("5,10")
        (5, 10)
    """
    cleaned = text.strip().lower()
    if cleaned == "full":
        return ()
    rule = "`ranks` is one number (all), two (inner,R0), or R0,R1,... for every mode, or 'full'"
    return tuple(_positive(rank.strip(), rule, text) for rank in cleaned.split(","))


def format_shape(in_modes: tuple[int, ...], out_modes: tuple[int, ...]) -> str:
    """Spell modes as `parse_shape` reads them."""
    return ":".join("x".join(map(str, modes)) for modes in (in_modes, out_modes))


def _positive(text: str, rule: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 14 and int(text) >= 1):
        raise ShapeError(f"{rule}; every number 1 or more: got {text!r} in {whole!r}")
    return int(text)
