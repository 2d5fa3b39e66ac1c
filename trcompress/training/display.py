"""What the user sees while a model trains: a live line on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from trcompress.errors import MissingExtraError, UsageError


@dataclass(frozen=True)
class Progress:
    """How far a pass is, and its figures so far.

    Args:
        epoch: from 1, through the whole run.
        epochs: the run's last epoch.
        share: done of this pass.
        loss: mean so far.
        accuracy: mean so far.
        sequences_per_s: throughput.
    """

    epoch: int
    epochs: int
    share: float
    loss: float
    accuracy: float
    sequences_per_s: float


class Display(Protocol):
    """What a display must offer."""

    def batch(self, progress: Progress) -> None:
        """Show how far the current pass is."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Show a finished pass."""

    def close(self) -> None:
        """Leave the screen in order."""


class NoDisplay:
    """Shows nothing."""

    def batch(self, progress: Progress) -> None:
        """Show nothing."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""


class LineDisplay:
    """One plain line per epoch."""

    def __init__(self, console: Console, epochs: int) -> None:
        self._console, self._clock = console, _Clock(epochs)

    def batch(self, progress: Progress) -> None:
        """Show nothing within a pass."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the record and the time left."""
        self._console.print(_epoch_line(record, self._clock), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is open."""


class LiveDisplay:
    """One line per epoch, and a moving line for the current one."""

    def __init__(self, console: Console, epochs: int) -> None:
        self._console, self._clock = console, _Clock(epochs)
        self._live = Live(Text(""), console=console, transient=True, refresh_per_second=4)

    def batch(self, progress: Progress) -> None:
        """Move the current line."""
        self._live.start()
        self._live.update(Text(_batch_line(progress, self._clock)))

    def epoch(self, record: dict[str, Any]) -> None:
        """Print the record above the current line."""
        self._console.print(_epoch_line(record, self._clock), markup=False, highlight=False)

    def close(self) -> None:
        """Take the moving line away."""
        self._live.stop()


class CallingDisplay:
    """Calls a function of the user's after each epoch, and passes everything on.

    Args:
        called: gets a copy of the epoch's record; its result is not looked at, what it raises ends the run.
        shown: the display that the user sees.
    """

    def __init__(self, called: Callable[[dict[str, Any]], object], shown: Display) -> None:
        if not callable(called):
            raise UsageError(f"`on_epoch` must be a function of an epoch's record: got {called!r}")
        self._called, self._shown = called, shown

    def batch(self, progress: Progress) -> None:
        """Pass it on."""
        self._shown.batch(progress)

    def epoch(self, record: dict[str, Any]) -> None:
        """Show the record, then hand it over."""
        self._shown.epoch(record)
        self._called(dict(record))

    def close(self) -> None:
        """Pass it on."""
        self._shown.close()


class TensorBoardDisplay:
    """Writes each epoch's figures for TensorBoard, and passes everything on.

    Args:
        folder: the log folder.
        shown: the display that the user sees.

    Raises:
        MissingExtraError: the package is not installed.
    """

    def __init__(self, folder: Path, shown: Display) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError(
                "`tensorboard` needs the package tensorboard: pip install tensorboard"
            ) from error
        self._shown, self._writer = shown, SummaryWriter(str(folder))

    def batch(self, progress: Progress) -> None:
        """Pass it on."""
        self._shown.batch(progress)

    def epoch(self, record: dict[str, Any]) -> None:
        """Write every figure of the record."""
        for name, value in record.items():
            if name not in ("phase", "epoch"):
                self._writer.add_scalar(name, value, record["epoch"])
        self._shown.epoch(record)

    def close(self) -> None:
        """Flush the log."""
        self._writer.close()
        self._shown.close()


def make_display(console: Console, epochs: int) -> Display:
    """Return a live display on a terminal, plain lines elsewhere."""
    return (LiveDisplay if console.is_terminal else LineDisplay)(console, epochs)


class _Clock:
    """Estimates the time left from the epochs done since it was made."""

    def __init__(self, epochs: int) -> None:
        self._epochs, self._started = epochs, time.perf_counter()
        self._first: float | None = None

    def left_s(self, done: float) -> float | None:
        if self._first is None or done <= self._first:
            self._first, self._started = done, time.perf_counter()
            return None
        pace = (time.perf_counter() - self._started) / (done - self._first)
        return pace * max(0.0, self._epochs - done)

    def share(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._epochs}"


def _epoch_line(record: dict[str, Any], clock: _Clock) -> str:
    if record["epoch"] == 0:
        words = ["start      "]
    else:
        words = [clock.share(record["epoch"]), f"loss {record['loss']:.4f}"]
    if "accuracy" in record:
        words.append(f"accuracy {record['accuracy']:.1%}")
    if "validation_accuracy" in record:
        words.append(f"validation {record['validation_accuracy']:.1%} (loss {record['validation_loss']:.4f})")
    elif "validation_loss" in record:
        words.append(f"validation loss {record['validation_loss']:.4f}")
    if "sequences_per_s" in record:
        words.append(f"{record['sequences_per_s']:,.0f} seq/s")
    return "  ".join([*words, *_left(clock.left_s(record["epoch"]))])


def _batch_line(progress: Progress, clock: _Clock) -> str:
    words = [f"{clock.share(progress.epoch)} {progress.share:4.0%}", f"loss {progress.loss:.4f}"]
    words += [f"accuracy {progress.accuracy:.1%}", f"{progress.sequences_per_s:,.0f} seq/s"]
    return "  ".join([*words, *_left(clock.left_s(progress.epoch - 1 + progress.share))])


def _left(seconds: float | None) -> list[str]:
    if seconds is None:
        return []
    whole = round(seconds)
    return [f"{whole // 60}:{whole % 60:02d} left"]
