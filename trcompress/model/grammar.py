"""Shapes and ranks as a user gives them: text, or numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from numbers import Integral

from trcompress.errors import ShapeError

MAX_SIZE = 2**40
"""No product of modes and no rank beyond this: a typing error, not a network."""


Shape = str | Sequence[Sequence[int]]
Ranks = str | int | Sequence[int]


def parse_shape(shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read `4x2x5:4x4`, or ((4, 2, 5), (4, 4)), as (input modes, output modes).

    Raises:
        ShapeError: another form, or a mode below 1.

    Example:
        >>> parse_shape("4x2x5:4x4"), parse_shape([[4, 2, 5], [4, 4]])
        (((4, 2, 5), (4, 4)), ((4, 2, 5), (4, 4)))
    """
    rule = "`shape` is INPUT:OUTPUT, modes joined by x, as in 4x2x5x8:4x4x2, or the two as numbers"
    if isinstance(shape, str):
        sides: list[object] = [side.split("x") for side in shape.lower().replace(" ", "").split(":")]
    else:
        sides = list(shape) if isinstance(shape, Sequence) else []
    if len(sides) != 2 or any(
        isinstance(side, str) or not isinstance(side, Sequence) or not side for side in sides
    ):
        raise ShapeError(f"{rule}: got {shape!r}")
    in_modes, out_modes = (tuple(_positive(mode, rule, shape) for mode in side) for side in sides)  # type: ignore[attr-defined]
    if prod(in_modes) > MAX_SIZE or prod(out_modes) > MAX_SIZE:
        raise ShapeError(f"the modes of a shape must multiply to less than 2**40: got {shape!r}")
    return in_modes, out_modes


def parse_ranks(ranks: Ranks) -> tuple[int, ...]:
    """Read `5`, `5,10`, `40,60,48,48`, as text or as numbers; `full` is the empty tuple.

    Raises:
        ShapeError: not numbers of 1 or more.

    Example:
        >>> parse_ranks("5,10"), parse_ranks(8), parse_ranks([5, 10])
        ((5, 10), (8,), (5, 10))
    """
    if isinstance(ranks, str):
        cleaned = ranks.strip().lower()
        if cleaned == "full":
            return ()
        parts: Sequence[object] = [rank.strip() for rank in cleaned.split(",")]
    else:
        parts = list(ranks) if isinstance(ranks, Iterable) else [ranks]
    rule = "`ranks` is one number (all), two (inner,R0), or R0,R1,... for every mode, or 'full'"
    return tuple(_positive(rank, rule, ranks) for rank in parts)


def format_shape(in_modes: tuple[int, ...], out_modes: tuple[int, ...]) -> str:
    """Spell modes as `parse_shape` reads them."""
    return ":".join("x".join(map(str, modes)) for modes in (in_modes, out_modes))


def _positive(value: object, rule: str, whole: object) -> int:
    """Read one number of 1 or more, typed or written."""
    text = str(int(value)) if isinstance(value, Integral) and not isinstance(value, bool) else value
    if not (isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 14 and int(text) >= 1):
        raise ShapeError(f"{rule}; every number 1 or more: got {value!r} in {whole!r}")
    return int(text)
