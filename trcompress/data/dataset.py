"""What training and evaluation see of any data: named parts that hand out batches.

A `DataSet` holds up to three `Split`s over one or several `Source`s. Sources keep their rows where they are
(mapped files, cached frames); only a batch is ever turned into float32 tensors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Source(Protocol):
    """Rows of sequences, wherever they are stored."""

    @property
    def shape(self) -> tuple[int, int]:
        """(T, I): the most steps that a row has, and the values per step."""

    def fetch(self, rows: np.ndarray, draw: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return `(values (B, T, I) float32, lengths (B,) int64 or None)` of the rows.

        `draw` None means deterministic. Otherwise whatever is random about row r depends on `(draw, r)` alone
        (see `row_generator`), never on the other rows of the batch.
        """


def row_generator(draw: int, row: int) -> np.random.Generator:
    """Return the generator for one row of one batch: equal for equal `(draw, row)`, in any process."""
    return np.random.default_rng((draw, row))


TASKS = ("classification", "labelling", "regression")


@dataclass(frozen=True)
class Split:
    """One part of a data set (train, validation or test); indexed 0..len-1.

    Args:
        name: "train", "validation" or "test".
        labels: (N,) int64, indices into the data set's classes; (N, T) for labelling, negative where a step does
            not count; (N, D) float32 for regression.
        source: where the rows are.
        rows: (N,) int64, each item's row in `source`.
        groups: (N,) the person, video or recording each item comes from; None where unknown.
        inputs: what else the network takes, by the name of its argument: (rows of `source`, ...).
    """

    name: str
    labels: np.ndarray
    source: Source
    rows: np.ndarray
    groups: np.ndarray | None = None
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(
        self, indices: Sequence[int] | np.ndarray, *, rng: np.random.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Read some items as tensors.

        Args:
            indices: (B,) positions in this split.
            rng: given = training sampling (random frames); exactly one number is drawn from it whatever the
                batch is, and an item's frames depend on that number and the item alone. Processes that share
                a batch therefore get the single-process frames if their generators are in the same state.
                None = deterministic (evenly spaced frames).

        Returns:
            x (B, T, I) float32, or tokens (B, T) int64; y as `labels`; lengths (B,) int64 on the CPU, or None where
            all T steps count.
        """
        import torch

        indices = np.asarray(indices, dtype=np.int64)
        draw = None if rng is None else int(rng.integers(2**63))
        values, lengths = self.source.fetch(self.rows[indices], draw)
        return (
            torch.from_numpy(values),
            torch.from_numpy(self.labels[indices]),
            None if lengths is None else torch.from_numpy(lengths),
        )

    def more(self, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """Read the other inputs of some items, by name."""
        import torch

        rows = self.rows[np.asarray(indices, dtype=np.int64)]
        return {name: torch.from_numpy(np.ascontiguousarray(values[rows])) for name, values in self.inputs.items()}


@dataclass(frozen=True)
class DataSet:
    """Named parts of labelled sequences, and how they were divided.

    Args:
        name: the file or folder, for reports.
        classes: names, in label order; of the outputs, for regression.
        train: may be empty (`len(train) == 0`) where the data only serves evaluation.
        validation: taken from the training part, never from the test part; None if not asked for.
        test: None if the data has no test part.
        input_size: I, values per step.
        steps: T, the most steps that any part has.
        split_note: how train and test were divided ("by group ...", "official split 1",
            "random split: LEAKS groups ...").
        notes: what a reader of the results must know: clips skipped by name, classes without rows, ...
        task: one of `TASKS`.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split | None
    test: Split | None
    input_size: int
    steps: int
    split_note: str
    notes: tuple[str, ...] = ()
    task: str = TASKS[0]

    @property
    def holds_tokens(self) -> bool:
        """Whether x holds integers (T,) a row, to be looked up in an embedding."""
        return bool(getattr(self.train.source, "tokens", False))

    @property
    def splits(self) -> dict[str, Split]:
        """The parts that exist and hold rows, by name."""
        parts = (self.train, self.validation, self.test)
        return {part.name: part for part in parts if part is not None and len(part)}

    def with_scores(self, count: int | None) -> DataSet:
        """Return the data with a class for every score of a network, where labels use only the first of them.

        Args:
            count: scores; None, fewer than there are classes, or numbers to be met leave the data as it is.
        """
        known = len(self.classes)
        if count is None or count <= known or self.task == "regression":
            return self
        more = tuple(map(str, range(known, count)))
        note = f"the network gives {count:,} scores, the data has {known:,} classes: the others never occur"
        return replace(self, classes=self.classes + more, notes=(*self.notes, note))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over sizes, classes, rows and labels of all parts: equal data gives equal text.

        It does not read the values; it tells a resumed run that the data was divided as before.
        """
        digest = hashlib.sha256(repr((self.classes, self.input_size, self.steps)).encode())
        for part in self.splits.values():
            digest.update(part.name.encode())
            digest.update(np.ascontiguousarray(part.rows, dtype="<i8").tobytes())
            numbers = "<i8" if part.labels.dtype.kind in "iu" else "<f4"
            digest.update(np.ascontiguousarray(part.labels, dtype=numbers).tobytes())
        return digest.hexdigest()
