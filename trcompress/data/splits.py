"""Dividing rows into train, validation and test so that nobody is on two sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trcompress.data.options import SplitOptions
from trcompress.errors import InputFileError, UsageError, nearest

UNUSED, TRAIN, TEST = 0, 1, 2
_TRIES = 32


@dataclass(frozen=True)
class Division:
    """Row numbers of each part, ascending, and how they were found.

    Args:
        train: (N,) int64.
        validation: (M,) int64; empty if none was asked for.
        test: (K,) int64; empty if there is none.
        note: one line on how train and test were divided.
        notes: what else a reader must know.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    note: str
    notes: tuple[str, ...] = ()


def divide_rows(
    labels: np.ndarray,
    groups: np.ndarray | None,
    options: SplitOptions,
    official: tuple[np.ndarray, str] | None = None,
) -> Division:
    """Divide the rows of one table.

    Args:
        labels: (N,) int64.
        groups: (N,) person, video or recording of each row; None if unknown.
        options: what the user asked for.
        official: (N,) codes 0 unused, 1 train, 2 test, and the split's name; None if the data has none.

    Raises:
        UsageError: the split asked for needs groups or lists that the data does not have.
    """
    kind = _choose(groups, options, official is not None)
    rng = np.random.default_rng(options.split_seed)
    if kind == "official" and official is not None:
        codes, note = official
        used, test = codes != UNUSED, codes == TEST
    elif kind == "group" and groups is not None:
        used = np.ones(len(labels), dtype=bool)
        test, note = _test_groups(labels, groups, options, rng)
    elif kind == "random":
        used = np.ones(len(labels), dtype=bool)
        test = hold_out_rows(labels, options.test_fraction, rng)
        note = _random_note(groups, test)
    else:
        used, test = np.ones(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool)
        note = "no split: every row is a training row"
    rows = np.flatnonzero(used & ~test)
    train, validation, notes = cut_validation(rows, labels, groups, options, leaking=kind == "random")
    return Division(train, validation, np.flatnonzero(used & test), note, notes)


def cut_validation(
    rows: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    options: SplitOptions,
    *,
    leaking: bool = False,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Take the validation part out of the training rows: whole groups where groups are known.

    Returns:
        training rows, validation rows, and notes if rows had to be drawn at random.
    """
    empty = np.zeros(0, dtype=np.int64)
    if options.validation_fraction == 0 or len(rows) < 2:
        return rows, empty, ()
    rng = np.random.default_rng((options.split_seed, 1))
    grouped = groups is not None and not leaking and len(np.unique(groups[rows])) > 1
    if grouped and groups is not None:
        held = hold_out_groups(labels[rows], groups[rows], options.validation_fraction, rng)
        return rows[~held], rows[held], ()
    held = hold_out_rows(labels[rows], options.validation_fraction, rng)
    if not held.any():
        return rows, empty, ("no validation part: no class has rows to spare for one",)
    note = "the validation part was drawn at random from the training rows, class by class"
    return rows[~held], rows[held], (note + (" (no groups are known)" if groups is None else ""),)


def hold_out_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    """Choose whole groups that hold about `fraction` of the rows, with all classes on both sides if possible.

    Returns:
        (N,) True for the rows of the chosen groups; at least one group is on either side.

    Raises:
        InputFileError: there is only one group.
    """
    names, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise InputFileError(
            f"a split by group needs at least 2 groups: there is only {names[0]!s}; use split=random or split=none"
        )
    goal = fraction * len(groups)
    best: tuple[tuple[int, float], np.ndarray] | None = None
    for _ in range(_TRIES):
        order = rng.permutation(len(names))
        sizes = np.cumsum(counts[order])[:-1]
        chosen = order[: int(np.argmin(np.abs(sizes - goal))) + 1]
        held = np.isin(codes, chosen)
        lost = 2 * len(np.unique(labels)) - len(np.unique(labels[held])) - len(np.unique(labels[~held]))
        score = (lost, abs(float(held.sum()) - goal))
        if best is None or score < best[0]:
            best = (score, held)
    return best[1] if best is not None else np.zeros(len(groups), dtype=bool)


def hold_out_rows(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Choose about `fraction` of each class's rows at random; a class keeps at least one row.

    Returns:
        (N,) True for the chosen rows.
    """
    held = np.zeros(len(labels), dtype=bool)
    _, counts = np.unique(labels, return_counts=True)
    for same in np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1]):
        rows = rng.permutation(same)
        count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
        held[rows[:count]] = True
    return held


def absent_classes(classes: tuple[str, ...], labels: np.ndarray) -> tuple[str, ...]:
    """Return a note naming the classes that no training row has; nothing if there is none."""
    absent = sorted(set(range(len(classes))) - set(labels.tolist())) if len(labels) else []
    if not absent:
        return ()
    names = _few([classes[label] for label in absent])
    return (f"{len(absent)} of {len(classes)} classes have no training rows: {names}",)


def _choose(groups: np.ndarray | None, options: SplitOptions, official: bool) -> str:
    if options.test_groups and options.split not in ("auto", "group"):
        raise UsageError(f"test_groups goes with split=group: got split={options.split}; leave one of them out")
    kind = options.split
    if kind == "auto":
        kind = "official" if official and not options.test_groups else "group"
    if kind == "official" and not official:
        raise UsageError("split=official needs data with its own split: this has none; use split=group or random")
    if kind == "group" and groups is None:
        raise UsageError(
            "a split by group needs to know the groups (persons, recordings, videos): name their array with "
            "group_key, or ask for split=random (which may put one recording on both sides) or split=none"
        )
    return kind


def _test_groups(
    labels: np.ndarray, groups: np.ndarray, options: SplitOptions, rng: np.random.Generator
) -> tuple[np.ndarray, str]:
    known = sorted(set(np.unique(groups).astype(str).tolist()), key=lambda name: (len(name), name))
    if options.test_groups:
        missing = [name for name in options.test_groups if name not in known]
        if missing:
            raise UsageError(
                f"test_groups must be groups of the data: {', '.join(missing)} is not"
                f"{nearest(missing[0], known)}; known are {_few(known)}"
            )
        test = np.isin(groups.astype(str), options.test_groups)
        if test.all():
            raise UsageError("test_groups must leave rows to train on: every group was named; name fewer")
        chosen = list(options.test_groups)
    else:
        test = hold_out_groups(labels, groups, options.test_fraction, rng)
        tested = set(np.unique(groups[test]).astype(str).tolist())
        chosen = [name for name in known if name in tested]
    return test, f"by group: {len(chosen)} of {len(known)} groups are test only ({_few(chosen)})"


def _random_note(groups: np.ndarray | None, test: np.ndarray) -> str:
    if groups is None:
        return "random split: LEAKS if rows share a recording (no groups are known)"
    shared = np.intersect1d(groups[test], groups[~test])
    return f"random split: LEAKS groups ({len(shared)} of {len(np.unique(groups))} are in both train and test)"


def _few(names: list[str], limit: int = 12) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
