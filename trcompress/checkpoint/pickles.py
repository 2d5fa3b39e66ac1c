"""The pickles of one file, read one after another and judged together."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, Protocol

from trcompress.checkpoint.inert import Pickle
from trcompress.checkpoint.limits import Allowance
from trcompress.checkpoint.machine import PickleMachine
from trcompress.checkpoint.meanings import MEANINGS

Persistent = Callable[[Any], Any]


class Load(Protocol):
    """Reads the next pickle of a stream."""

    def __call__(self, stream: IO[bytes], persistent: Persistent | None = None, /) -> Any:
        """Return its object; raises DamageError."""


class PickleReader:
    """Reads pickles and remembers what each wanted to do, even where it broke off.

    Args:
        file_bytes: size of the file that they are of; what they hold may take memory in proportion.
    """

    def __init__(self, file_bytes: int) -> None:
        self.pickles: list[Pickle] = []
        self._allowance = Allowance(file_bytes)

    def load(self, stream: IO[bytes], persistent: Persistent | None = None, /) -> Any:
        """Read the next pickle of a stream.

        Raises:
            DamageError: it is no whole pickle.
        """
        machine = PickleMachine(stream, MEANINGS, self._allowance, persistent)
        self.pickles.append(machine.found)
        return machine.run().value
