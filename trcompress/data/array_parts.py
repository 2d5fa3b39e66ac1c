"""Checking what an array file says: sequences, labels, lengths, groups and class names of one part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from trcompress.data.array_source import ArraySource
from trcompress.errors import InputFileError

_MOST_UNNAMED_CLASSES = 10_000


@dataclass(frozen=True)
class ArrayPart:
    """The arrays of one part of a file, checked against each other.

    Args:
        x: (N, T, ...) numbers.
        y: (N,) numbers or text, not yet checked against the classes.
        lengths: (N,) int64 in 1..T; None where all T steps count.
        groups: (N,) integers or text; None if unknown.
        suffix: "", "_train", "_val" or "_test", for messages.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None
    groups: np.ndarray | None
    suffix: str


def read_part(arrays: dict[str, np.ndarray], suffix: str, group_key: str, where: str) -> ArrayPart:
    """Take one part out of a file's arrays.

    Raises:
        InputFileError: shapes, types or values break a rule; the message says which and by how much.
    """
    x = _sequences(arrays[f"x{suffix}"], f"{where}: x{suffix}")
    if f"y{suffix}" not in arrays:
        _fail(where, f"x{suffix} needs its labels y{suffix}", f"only {', '.join(arrays)}", "add them")
    y = _column(arrays[f"y{suffix}"], len(x), f"y{suffix}", where)
    groups = arrays.get(f"{group_key}{suffix}")
    if groups is not None:
        groups = _column(groups, len(x), f"{group_key}{suffix}", where)
        if groups.dtype.kind not in "iuUSb":
            _fail(where, f"{group_key}{suffix} must be integers or text", str(groups.dtype), "cast it")
        groups = groups.astype(str) if groups.dtype.kind in "SU" else groups.astype(np.int64)
    lengths = _lengths(arrays, suffix, x, where)
    _check_finite(ArraySource(x, lengths), f"x{suffix}", where)
    return ArrayPart(x, y, lengths, groups, suffix)


def read_labels(
    parts: list[ArrayPart], names: np.ndarray | None, where: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return each part's labels as int64 indices into the classes, and the class names.

    Raises:
        InputFileError: labels are not integers, or outside the classes.
    """
    if any(part.y.dtype.kind in "US" for part in parts):
        return _text_labels(parts, names, where)
    for part in parts:
        if part.y.dtype.kind not in "iu":
            _fail(
                where,
                f"y{part.suffix} must be integer class indices",
                str(part.y.dtype),
                "cast it with astype(int64)",
            )
    highest = max(int(part.y.max()) for part in parts)
    count = len(names) if names is not None else highest + 1
    rows = sum(len(part.y) for part in parts)
    if names is None and count > max(_MOST_UNNAMED_CLASSES, rows):
        _fail(
            where,
            "labels must be class indices from 0",
            f"{highest:,} in {rows:,} rows",
            "renumber them, or add classes",
        )
    for part in parts:
        bad = (part.y < 0) | (part.y >= count)
        if bad.any():
            _fail(
                where,
                f"y{part.suffix} must be 0..{count - 1}"
                + (" (classes has that many names)" if names is not None else ""),
                f"{int(bad.sum()):,} outside, first {part.y[bad][0]} at row {int(np.argmax(bad))}",
                "correct the labels or the list of classes",
            )
    classes = tuple(map(str, names.tolist())) if names is not None else tuple(map(str, range(count)))
    return [part.y.astype(np.int64) for part in parts], classes


def _text_labels(
    parts: list[ArrayPart], names: np.ndarray | None, where: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    texts = [part.y.astype(str) for part in parts]
    classes = sorted(set(np.concatenate(texts).tolist())) if names is None else list(map(str, names.tolist()))
    index = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(np.concatenate(texts).tolist()) - set(index))
    if unknown:
        _fail(where, "text labels must be among classes", ", ".join(unknown[:5]), "add them to classes")
    return [np.array([index[name] for name in text], dtype=np.int64) for text in texts], tuple(classes)


def _sequences(x: np.ndarray, where: str) -> np.ndarray:
    if x.dtype.kind not in "fiub" or x.ndim < 2 or 0 in x.shape:
        raise InputFileError(
            f"{where} must be numbers of shape (rows, steps, ...), none of them 0: got {x.dtype} {x.shape}; "
            "save the sequences as one array, padded to equal length, with length_* beside it"
        )
    return x


def _column(values: np.ndarray, rows: int, name: str, where: str) -> np.ndarray:
    if values.shape != (rows,):
        hint = (
            "save class indices, not one-hot rows"
            if values.ndim == 2 and name.startswith("y")
            else "save one per row"
        )
        _fail(where, f"{name} must have one entry per row of x, shape ({rows},)", str(values.shape), hint)
    return values


def _lengths(arrays: dict[str, np.ndarray], suffix: str, x: np.ndarray, where: str) -> np.ndarray | None:
    name = f"length{suffix}"
    if name not in arrays:
        return None
    lengths = _column(arrays[name], len(x), name, where)
    if lengths.dtype.kind not in "iu":
        _fail(where, f"{name} must be integers", str(lengths.dtype), "cast it with astype(int64)")
    bad = (lengths < 1) | (lengths > x.shape[1])
    if bad.any():
        _fail(
            where,
            f"{name} must be 1..{x.shape[1]}, the steps of x{suffix}",
            f"{int(bad.sum()):,} outside, first {lengths[bad][0]} at row {int(np.argmax(bad))}",
            "drop empty rows and correct the lengths",
        )
    return None if (lengths == x.shape[1]).all() else lengths.astype(np.int64)


def _check_finite(source: ArraySource, name: str, where: str) -> None:
    if source.x.dtype.kind != "f":
        return
    bad = values = 0
    with np.errstate(over="ignore"):
        for chunk in source.chunks(np.arange(len(source.x))):
            bad += int(chunk.size - np.isfinite(chunk).sum())
            values += chunk.size
    if bad:
        _fail(
            where,
            f"{name} must be finite in float32",
            f"{bad:,} of {values:,} values are NaN or infinite",
            "fill or drop them (padding beyond length_* may hold anything)",
        )


def _fail(where: str, rule: str, got: str, remedy: str) -> NoReturn:
    raise InputFileError(f"{where}: {rule}: got {got}; {remedy}")
