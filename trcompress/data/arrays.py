"""Array files as data sets: x_train, y_train, x_test, y_test ...; or one x, y with groups to divide by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.data.array_file import read_arrays
from trcompress.data.array_parts import ArrayPart, read_labels, read_part, task_of
from trcompress.data.array_source import ArraySource
from trcompress.data.dataset import DataSet, Split
from trcompress.data.options import ArrayOptions, read_options
from trcompress.data.splits import TEST, TRAIN, absent_classes, cut_validation, divide_rows
from trcompress.errors import InputFileError, UsageError, nearest

_PARTS = {"_train": "train", "_val": "validation", "_test": "test"}


@dataclass(frozen=True)
class _Table:
    """The rows of one x in the file, ready to be read."""

    labels: np.ndarray
    groups: np.ndarray | None
    source: ArraySource
    inputs: Mapping[str, np.ndarray]

    @property
    def all_rows(self) -> np.ndarray:
        return np.arange(len(self.labels), dtype=np.int64)


_Rows = dict[str, tuple[_Table, np.ndarray]]  # of each split: where its rows are, and which they are


def load_arrays(spec: str, values: dict[str, Any], **_: Any) -> DataSet:
    """Open an array file: `from_arrays` over what it holds, mapped from disk where possible."""
    options = read_options(ArrayOptions, values, "array")
    return _build(read_arrays(spec, options.max_bytes), spec, options)


def from_arrays(arrays: Mapping[str, np.ndarray], name: str = "arrays", **options: Any) -> DataSet:
    """Make a data set of named arrays.

    They are either the parts `x_train, y_train` (and `x_test, y_test`, `x_val, y_val`), or one `x, y` with
    the array of groups that `group_key` names and, optionally, official splits `split_1`, `split_2`, ...
    of 0 unused, 1 train, 2 test. Beside each x: `length*` (N,) where rows are shorter than T, `group*` (N,).
    `classes` names the labels.

    Integers x (N, T) are tokens. `mask*` (N, T) and `input_NAME*` (N, ...) go to the network's arguments of these
    names; a mask of beginnings gives the lengths too.

    Args:
        arrays: x is (N, T, ...) numbers; y (N,) class indices or names, (N, T) a class for each step (negative
            where none counts), or (N, D) numbers to be met.
        name: for messages and reports.
        **options: fields of `ArrayOptions`.

    Raises:
        InputFileError: an array breaks a rule; the message says which.
        UsageError: options that are unknown or do not fit the arrays.

    Example:
        >>> x, y = np.zeros((8, 5, 3)), np.array([0, 1] * 4)
        >>> from_arrays({"x_train": x, "y_train": y, "x_test": x, "y_test": y}).input_size
        3
    """
    return _build(dict(arrays), name, read_options(ArrayOptions, options, "array"))


def _build(arrays: dict[str, np.ndarray], spec: str, options: ArrayOptions) -> DataSet:
    if options.steps and options.frames:
        raise UsageError("steps (fold all) and frames (sample some) exclude each other: leave one of them out")
    suffixes = [suffix for suffix in _PARTS if f"x{suffix}" in arrays]
    if ("x" in arrays) == bool(suffixes):
        raise InputFileError(
            f"{spec} must hold x and y, or x_train, y_train (and x_test, y_test): "
            f"it holds {', '.join(arrays) or 'nothing'}; rename its arrays"
        )
    suffixes = suffixes or [""]
    key = _group_key(arrays, options, suffixes, spec)
    task = task_of(arrays, suffixes) if options.task == "auto" else options.task
    parts = [read_part(arrays, suffix, key, spec, task) for suffix in suffixes]
    labels, classes = read_labels(parts, _class_names(arrays, spec), spec)
    tables = {p.suffix: _table(p, y, options, spec) for p, y in zip(parts, labels, strict=True)}
    if suffixes in ([""], ["_train"]):
        rows, note, notes = _divide_one(tables[suffixes[0]], options, arrays, spec)
    else:
        rows, note, notes = _divide_parts(tables, options, spec)
    if options.standardize or options.center:
        rows = _standardized(rows, spec, rescale=options.standardize)
    return _data_set(spec, classes, rows, note, _file_notes(arrays) + notes, task)


def _table(part: ArrayPart, labels: np.ndarray, options: ArrayOptions, spec: str) -> _Table:
    source = ArraySource(part.x, part.lengths, options.steps, options.frames)
    if options.steps and part.x.shape[1] % options.steps:
        raise UsageError(
            f"{spec}: steps must divide the time axis: {options.steps} does not divide the {part.x.shape[1]} "
            f"steps of x{part.suffix}; choose a divisor"
        )
    return _Table(labels, part.groups, source, part.inputs)


def _divide_one(
    table: _Table, options: ArrayOptions, arrays: dict[str, np.ndarray], spec: str
) -> tuple[_Rows, str, tuple[str, ...]]:
    """Divide x, y by group, by an official list, or at random, as asked."""
    try:
        division = divide_rows(_strata(table), table.groups, options, _official(spec, arrays, table, options))
    except UsageError as error:
        hint = "" if table.groups is not None else _candidates(arrays, len(table.labels))
        raise UsageError(f"{spec}: {error}{hint}") from error
    rows = {"train": division.train, "validation": division.validation, "test": division.test}
    return {name: (table, part) for name, part in rows.items()}, division.note, division.notes


def _divide_parts(
    tables: dict[str, _Table], options: ArrayOptions, spec: str
) -> tuple[_Rows, str, tuple[str, ...]]:
    """Keep the parts of the file; take the validation part out of x_train if there is no x_val."""
    if options.split not in ("auto", "official") or options.test_groups:
        raise UsageError(
            f"{spec} has its own parts ({', '.join(f'x{suffix}' for suffix in tables)}), which split="
            f"{options.split} or test_groups would divide again: leave them out, or save one x, y and group"
        )
    rows = {_PARTS[suffix]: (table, table.all_rows) for suffix, table in tables.items()}
    notes: tuple[str, ...] = ()
    if "_train" not in tables:
        rows["train"] = (next(iter(tables.values())), np.zeros(0, dtype=np.int64))
        notes = ("the file has no training rows: it can be evaluated on, not trained on",)
    elif "_val" not in tables:
        train = tables["_train"]
        kept, held, notes = cut_validation(train.all_rows, _strata(train), train.groups, options)
        rows |= {"train": (train, kept), "validation": (train, held)}
    return rows, "the file's own parts", notes + _shared_groups(tables)


def _standardized(rows: _Rows, spec: str, *, rescale: bool) -> _Rows:
    """Z-score every part by the training rows, or only shift it."""
    table, train = rows["train"]
    if not len(train):
        raise UsageError(
            f"{spec}: standardize and center are fitted on training rows, and there are none; leave them out"
        )
    fitted = table.source.standardized(train, rescale=rescale)
    return {
        name: (replace(table, source=table.source.scaled_by(fitted.mean, fitted.scale)), part)
        for name, (table, part) in rows.items()
    }


def _strata(table: _Table) -> np.ndarray:
    """The class of each row, for even divisions; all alike where a row has no single class."""
    return table.labels if table.labels.ndim == 1 else np.zeros(len(table.labels), dtype=np.int64)


def _data_set(
    spec: str, classes: tuple[str, ...], rows: _Rows, note: str, notes: tuple[str, ...], task: str
) -> DataSet:
    shapes = [table.source.shape for table, _ in rows.values()]
    sizes = sorted({size for _, size in shapes})
    if len(sizes) > 1:
        raise InputFileError(
            f"{spec}: all parts must have equally many values per step: got {', '.join(map(str, sizes))}; "
            "save them alike"
        )
    splits = {
        name: Split(
            name,
            table.labels[part],
            table.source,
            part,
            None if table.groups is None else table.groups[part],
            table.inputs,
        )
        for name, (table, part) in rows.items()
        if name == "train" or len(part)
    }
    return DataSet(
        name=Path(spec).name,
        classes=classes,
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        input_size=sizes[0],
        steps=max(steps for steps, _ in shapes),
        split_note=note,
        notes=notes + (absent_classes(classes, splits["train"].labels) if task == "classification" else ()),
        task=task,
    )


def _official(
    spec: str, arrays: dict[str, np.ndarray], table: _Table, options: ArrayOptions
) -> tuple[np.ndarray, str] | None:
    """Return the codes of `split_<k>`, if the file has official splits."""
    known = sorted(name for name in arrays if name.startswith("split_"))
    if not known:
        return None
    name = f"split_{options.split_number}"
    if name not in arrays:
        raise UsageError(f"{spec} has no {name}: split_number must be one of {', '.join(known)}")
    codes = arrays[name]
    if codes.shape != table.labels.shape[:1] or codes.dtype.kind not in "iu" or codes.max() > 2 or codes.min() < 0:
        raise InputFileError(
            f"{spec}: {name} must hold 0 (unused), 1 (train) or 2 (test) for each row of x: got "
            f"{codes.dtype} {codes.shape} {np.unique(codes)[:5].tolist()}; correct it"
        )
    if not (codes == TRAIN).any() or not (codes == TEST).any():
        raise InputFileError(f"{spec}: {name} must name rows to train and to test on; one of them has none")
    return codes, f"official split {options.split_number}"


def _group_key(arrays: dict[str, np.ndarray], options: ArrayOptions, suffixes: list[str], spec: str) -> str:
    """Return the name of the group arrays, without suffix; one that was asked for must exist."""
    key = options.group_key
    if key is None:
        return "group"
    key = next((key.removesuffix(suffix) for suffix in suffixes if suffix and key.endswith(suffix)), key)
    if not any(f"{key}{suffix}" in arrays for suffix in suffixes):
        raise UsageError(
            f"{spec} has no group array {key}{suffixes[0]}{nearest(key, tuple(arrays))}: "
            f"it holds {', '.join(arrays)}"
        )
    return key


def _candidates(arrays: dict[str, np.ndarray], rows: int) -> str:
    """Name the arrays that could be groups."""
    names = [
        name
        for name, values in arrays.items()
        if values.shape == (rows,) and values.dtype.kind in "iuUS" and name[0] not in "xy" and name != "length"
    ]
    return f" (arrays of the file that could be: {', '.join(names)})" if names else ""


def _class_names(arrays: dict[str, np.ndarray], spec: str) -> np.ndarray | None:
    names = arrays.get("classes")
    if names is not None and (names.ndim != 1 or len(names) == 0 or len(set(names.tolist())) != len(names)):
        raise InputFileError(
            f"{spec}: classes must be a list of different names: got shape {names.shape}; correct it"
        )
    return names.astype(str) if names is not None else None


def _file_notes(arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Return what whoever made the file had to say, such as clips that were left out."""
    notes = arrays.get("notes")
    return tuple(notes.tolist()) if notes is not None and notes.ndim == 1 and notes.dtype.kind == "U" else ()


def _shared_groups(tables: dict[str, _Table]) -> tuple[str, ...]:
    train, test = tables.get("_train"), tables.get("_test")
    if train is None or test is None or train.groups is None or test.groups is None:
        return ()
    shared = np.intersect1d(train.groups.astype(str), test.groups.astype(str))
    return (f"LEAK: {len(shared)} groups are in both train and test of the file",) if len(shared) else ()
