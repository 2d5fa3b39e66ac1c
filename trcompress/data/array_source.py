"""Rows of an array as batches: scaled, standardised, folded or sampled in time, one batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from trcompress.data.dataset import row_generator
from trcompress.data.sampling import pick_frames

_CHUNK_BYTES = 64 * 2**20
_FLAT = 1e-6


@dataclass(frozen=True)
class ArraySource:
    """Sequences of one array.

    Args:
        x: (N, T, ...) on disk or in memory; trailing axes are flattened, uint8 is scaled to [0, 1]. Other integers
            (N, T) are tokens, and stay integers where nothing is done to them.
        lengths: (N,) valid steps of each row, or None where all T are; later steps read as zero.
        steps: fold time into this many steps.
        frames: sample this many steps instead of all.
        mean, scale: (F,) what each channel is shifted and divided by; None leaves values as they are.
    """

    x: np.ndarray
    lengths: np.ndarray | None = None
    steps: int | None = None
    frames: int | None = None
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def random(self) -> bool:
        """True where training rows change from draw to draw."""
        return self.frames is not None

    @property
    def tokens(self) -> bool:
        """Whether rows are tokens, (T,) int64."""
        plain = self.frames is None and self.steps is None and self.mean is None
        return plain and self.x.ndim == 2 and self.x.dtype.kind in "iu" and self.x.dtype != np.uint8

    @cached_property
    def token_range(self) -> tuple[int, int]:
        """The lowest and the highest token, in steps that count or not."""
        return int(self.x.min()), int(self.x.max())

    @property
    def channels(self) -> int:
        """F, values per unfolded step."""
        return int(np.prod(self.x.shape[2:], dtype=np.int64))

    @property
    def shape(self) -> tuple[int, int]:
        """(T, I) of the batches."""
        length = self.x.shape[1]
        if self.frames is not None:
            return self.frames, self.channels
        if self.steps is not None:
            return self.steps, length // self.steps * self.channels
        return length, self.channels

    def fetch(self, rows: np.ndarray, draw: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Read rows as `(values (B, T, I) float32 or tokens (B, T), lengths (B,) or None)`; see `Source.fetch`."""
        if self.tokens:
            return self._read_tokens(rows)
        if self.frames is not None:
            return self._normalised(self._sampled(rows, draw)), None
        values = self._normalised(self._read(rows))
        if self.lengths is None:
            return values.reshape(len(rows), *self.shape), None
        lengths = self.lengths[rows]
        values[np.arange(values.shape[1]) >= lengths[:, None]] = 0.0
        fold = values.shape[1] // self.shape[0]
        return values.reshape(len(rows), *self.shape), -(-lengths // fold)

    def _read_tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        values = np.array(self.x[rows], dtype=np.int64)
        if self.lengths is None:
            return values, None
        lengths = self.lengths[rows]
        values[np.arange(values.shape[1]) >= lengths[:, None]] = 0
        return values, lengths

    def standardized(self, rows: np.ndarray, *, rescale: bool = True) -> ArraySource:
        """Return this source with each channel z-scored by its valid steps in `rows`, or only shifted."""
        count, mean, square = 0, np.zeros(self.channels), np.zeros(self.channels)
        for chunk in self.chunks(rows):
            values = chunk.astype(np.float64)
            total = count + len(values)
            step = values.mean(axis=0) - mean
            square += ((values - values.mean(axis=0)) ** 2).sum(axis=0) + step**2 * count * len(values) / total
            mean += step * len(values) / total
            count = total
        deviation = np.sqrt(square / max(count, 1))
        scale = np.where(rescale & (deviation > _FLAT), deviation, 1.0)
        return self.scaled_by(mean.astype(np.float32), scale.astype(np.float32))

    def scaled_by(self, mean: np.ndarray | None, scale: np.ndarray | None) -> ArraySource:
        """Return this source with the given shift and divisor per channel."""
        return replace(self, mean=mean, scale=scale)

    def chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the valid steps of `rows` as (n, F) float32, a bounded number at a time."""
        per_row = max(1, self.x.shape[1] * self.channels * 4)
        size = max(1, _CHUNK_BYTES // per_row)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            values = self._read(part)
            if self.lengths is not None:
                yield values[np.arange(values.shape[1]) < self.lengths[part][:, None]]
            else:
                yield values.reshape(-1, self.channels)

    def _read(self, rows: np.ndarray) -> np.ndarray:
        return self._float(self.x[rows]).reshape(len(rows), self.x.shape[1], self.channels)

    def _sampled(self, rows: np.ndarray, draw: int | None) -> np.ndarray:
        count = self.frames or self.x.shape[1]
        picks = np.empty((len(rows), count), dtype=np.int64)
        for place, row in enumerate(rows.tolist()):
            available = self.x.shape[1] if self.lengths is None else int(self.lengths[row])
            picks[place] = pick_frames(available, count, None if draw is None else row_generator(draw, row))
        return self._float(self.x[rows[:, None], picks]).reshape(len(rows), count, self.channels)

    def _float(self, stored: np.ndarray) -> np.ndarray:
        values = np.asarray(stored)
        if values.dtype == np.uint8:
            return values.astype(np.float32) / np.float32(255)
        return values.astype(np.float32)

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        if self.mean is not None and self.scale is not None:
            values -= self.mean
            values /= self.scale
        return values
