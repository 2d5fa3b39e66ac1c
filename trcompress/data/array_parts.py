"""Checking what an array file says: sequences, labels, lengths, groups and class names of one part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
        y: (N,) numbers or text, not yet checked against the classes; (N, T) or (N, D) for other tasks.
        lengths: (N,) int64 in 1..T; None where all T steps count.
        groups: (N,) integers or text; None if unknown.
        suffix: "", "_train", "_val" or "_test", for messages.
        inputs: `mask` (N, T) and what `input_NAME` hold, by name: (N, ...).
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None
    groups: np.ndarray | None
    suffix: str
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


def read_part(
    arrays: dict[str, np.ndarray], suffix: str, group_key: str, where: str, task: str = "classification"
) -> ArrayPart:
    """Take one part out of a file's arrays; `task` is one of `trcompress.data.dataset.TASKS`.

    Raises:
        InputFileError: shapes, types or values break a rule; the message says which and by how much.
    """
    x = _sequences(arrays[f"x{suffix}"], f"{where}: x{suffix}")
    if f"y{suffix}" not in arrays:
        _fail(where, f"x{suffix} needs its labels y{suffix}", f"only {', '.join(arrays)}", "add them")
    y = read_targets(arrays[f"y{suffix}"], x, f"y{suffix}", where, task)
    groups = arrays.get(f"{group_key}{suffix}")
    if groups is not None:
        groups = _column(groups, len(x), f"{group_key}{suffix}", where)
        if groups.dtype.kind not in "iuUSb":
            _fail(where, f"{group_key}{suffix} must be integers or text", str(groups.dtype), "cast it")
        groups = groups.astype(str) if groups.dtype.kind in "SU" else groups.astype(np.int64)
    lengths = _lengths(arrays, suffix, x, where)
    inputs = _other_inputs(arrays, suffix, x, where)
    if lengths is None and "mask" in inputs:
        lengths = _lengths_of_mask(inputs["mask"])
    _check_finite(ArraySource(x, lengths), f"x{suffix}", where)
    return ArrayPart(x, y, lengths, groups, suffix, inputs)


def task_of(arrays: dict[str, np.ndarray], suffixes: list[str]) -> str:
    """Tell what y is by its type and shape: classes a row, classes a step, or numbers that are not all whole."""
    for suffix in suffixes:
        x, y = arrays[f"x{suffix}"], arrays.get(f"y{suffix}")
        if y is None or x.ndim < 2:
            return "classification"
        if y.dtype.kind == "f" and bool((np.mod(y, 1) != 0).any()):
            return "regression"
        if y.ndim == 2 and y.dtype.kind in "iu" and y.shape == x.shape[:2]:
            return "labelling"
    return "classification"


def read_targets(y: np.ndarray, x: np.ndarray, name: str, where: str, task: str) -> np.ndarray:
    """Check the shape of y for a task; numbers become (N, D) float32.

    Raises:
        InputFileError: another shape or type, or numbers that are not finite.
    """
    if task == "labelling":
        if y.shape != x.shape[:2] or y.dtype.kind not in "iu":
            _fail(
                where,
                f"{name} must have a class for each step of x, {x.shape[:2]}",
                f"{y.dtype} {y.shape}",
                "mend it",
            )
        return y
    if task == "regression":
        if y.ndim > 2 or len(y) != len(x) or y.dtype.kind not in "fiu":
            _fail(
                where,
                f"{name} must have numbers for each row of x, ({len(x)}, D)",
                f"{y.dtype} {y.shape}",
                "mend it",
            )
        numbers = y.reshape(len(y), -1).astype(np.float32)
        if not np.isfinite(numbers).all():
            _fail(where, f"{name} must be finite in float32", "NaN or infinite values", "fill or drop those rows")
        return numbers
    return _column(y, len(x), name, where)


def read_labels(
    parts: list[ArrayPart], names: np.ndarray | None, where: str
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Return each part's labels as int64 indices into the classes, and the class names.

    Raises:
        InputFileError: labels are not integers, or outside the classes.
    """
    if any(part.y.dtype.kind == "f" and part.y.ndim == 2 for part in parts):
        return [part.y for part in parts], _output_names(parts, names, where)
    if any(part.y.dtype.kind in "US" for part in parts):
        return _text_labels(parts, names, where)
    for part in parts:
        if part.y.dtype.kind not in "iu":
            _fail(
                where,
                f"y{part.suffix} must be integer class indices",
                str(part.y.dtype),
                "cast it with astype(int64); for numbers to be met, `data_options=task=regression`",
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
        bad = (part.y >= count) | ((part.y < 0) & (part.y.ndim == 1))  # of a step: does not count
        if bad.any():
            _fail(
                where,
                f"y{part.suffix} must be 0..{count - 1}"
                + (" (classes has that many names)" if names is not None else ""),
                f"{int(bad.sum()):,} outside, first {part.y[bad][0]} at row {int(np.argwhere(bad)[0][0])}",
                "correct the labels or the list of classes",
            )
    classes = tuple(map(str, names.tolist())) if names is not None else tuple(map(str, range(count)))
    return [part.y.astype(np.int64) for part in parts], classes


def _output_names(parts: list[ArrayPart], names: np.ndarray | None, where: str) -> tuple[str, ...]:
    """Name the outputs of a regression."""
    widths = sorted({part.y.shape[1] for part in parts})
    if len(widths) > 1 or (names is not None and len(names) != widths[0]):
        _fail(
            where, "y must have equally many numbers in all parts, and classes name each", f"{widths}", "save alike"
        )
    return tuple(map(str, names.tolist())) if names is not None else tuple(map(str, range(widths[0])))


def _other_inputs(arrays: dict[str, np.ndarray], suffix: str, x: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """What the network takes beside x, by the name of its argument."""
    found = {}
    for key, values in arrays.items():
        name = key.removesuffix(suffix) if suffix else key
        if (suffix and not key.endswith(suffix)) or not (name == "mask" or name.startswith("input_")):
            continue
        if not suffix and name.endswith(("_train", "_val", "_test")):
            continue
        if (
            len(values) != len(x)
            or values.dtype.kind not in "fiub"
            or (name == "mask" and values.shape != x.shape[:2])
        ):
            wanted = f"{x.shape[:2]} numbers" if name == "mask" else f"numbers for each of {len(x)} rows"
            _fail(where, f"{key} must be {wanted}", f"{values.dtype} {values.shape}", "save it so")
        found[name.removeprefix("input_")] = _as_input(values, name == "mask")
    return found


def _as_input(values: np.ndarray, mask: bool) -> np.ndarray:
    if mask:
        return values.astype(bool)
    return values.astype(np.float32) if values.dtype.kind == "f" else values.astype(np.int64)


def _lengths_of_mask(mask: np.ndarray) -> np.ndarray | None:
    """Valid steps of each row, where the mask marks a beginning of at least one step; None for other masks."""
    lengths = mask.sum(1)
    prefix = np.arange(mask.shape[1]) < lengths[:, None]
    if not lengths.all() or (prefix != mask).any() or mask.all():
        return None
    return lengths.astype(np.int64)


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
