"""What the network gives, and how far it is from what the dense network gives: one number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, linear, log_softmax

from trcompress.calibration.feeds import TokenFeed
from trcompress.calibration.network import Batch, Network, Run, Unit
from trcompress.errors import InputFileError, UsageError
from trcompress.network.find_head import find_head

READOUTS = ("final", "every")
KEPT_VALUES = 1 << 26
"""Numbers of input up to which examples are kept in memory."""


@dataclass(frozen=True)
class Reading:
    """How one end of the network is looked at.

    Args:
        unit: the end.
        weight: the head (C, H), or None where hidden states are compared.
        bias: of the head.
        readout: "final" looks at the last state of a sequence, "every" at each step.
        note: how the head was found, in words.
    """

    unit: Unit
    weight: Tensor | None
    bias: Tensor | None
    readout: str
    note: str

    @property
    def measure(self) -> str:
        """What the difference is, in words."""
        if self.weight is not None and len(self.weight) > 1:
            return "divergence of the outputs"
        return f"relative error of the {'hidden states' if self.weight is None else 'outputs'}"

    def values(self, run: Run) -> Tensor:
        """Scores of the head, or hidden states, one row for each step that counts."""
        rows = run.final(self.unit) if self.readout == "final" else run.rows(self.unit)
        return rows if self.weight is None else linear(rows, self.weight, self.bias)

    def difference(self, mine: Tensor, dense: Tensor) -> Tensor:
        """How far values are from the dense network's; 0 where they agree."""
        if self.weight is not None and len(self.weight) > 1:
            target = log_softmax(dense, dim=-1)
            return kl_div(log_softmax(mine, dim=-1), target, reduction="batchmean", log_target=True)
        return relative_difference(mine, dense)

    def probe(self, run: Run, generator: torch.Generator) -> Tensor:
        """A random function of the values whose mean squared gradient is the curvature of the difference."""
        values = self.values(run)
        noise = torch.randn(values.shape, generator=generator)
        if self.weight is not None and len(self.weight) > 1:
            logs = log_softmax(values, dim=-1)
            return (noise * (0.5 * logs.detach()).exp() * logs).sum()
        return (noise * values).sum()


class Judge:
    """Compares a network with replaced units to the dense one.

    Args:
        network: the dense network.
        head: key of the linear layer over the last stack; None finds it by its shape, "" compares hidden states.
        readout: "final", "every", or None: every step where tokens are fed, else the final state of each sequence.

    Raises:
        UsageError: `head` or `readout` does not exist.
    """

    def __init__(self, network: Network, head: str | None = None, readout: str | None = None) -> None:
        if readout is not None and readout not in READOUTS:
            raise UsageError(f"readout must be one of {', '.join(READOUTS)}: got {readout!r}")
        self.network = network
        self.readings = tuple(_reading(network, unit, head, readout) for unit in network.ends)

    @property
    def measure(self) -> str:
        """What the difference is, in words."""
        return "; ".join(dict.fromkeys(reading.measure for reading in self.readings))

    @property
    def notes(self) -> tuple[str, ...]:
        """How the outputs were found, in words."""
        return tuple(reading.note for reading in self.readings)

    def reference(self, run: Run) -> list[Tensor]:
        """What a run of the dense network gives."""
        return [reading.values(run) for reading in self.readings]

    def difference(self, run: Run, reference: Sequence[Tensor]) -> Tensor:
        """How far a run is from the reference, differentiable."""
        parts = [
            reading.difference(reading.values(run), dense)
            for reading, dense in zip(self.readings, reference, strict=True)
        ]
        return torch.stack(parts).mean()

    def probe(self, run: Run, generator: torch.Generator) -> Tensor:
        """A random scalar; see `Reading.probe`."""
        return torch.stack([reading.probe(run, generator) for reading in self.readings]).sum()


class Exam:
    """Examples on which candidates are compared; what the dense network gives on them is computed once.

    Args:
        judge: compares.
        rows: the examples.
    """

    def __init__(self, judge: Judge, rows: np.ndarray) -> None:
        self.judge, self.rows = judge, rows
        self._kept: list[tuple[Batch, Run, list[Tensor]]] = []
        per_row = sum(feed.values for feed in judge.network.data.feeds.values())
        if len(rows) * per_row <= KEPT_VALUES:
            self._kept = list(self._read())

    @torch.no_grad()
    def score(self, replaced: Mapping[str, nn.Module]) -> float:
        """Mean difference from the dense network with some units replaced."""
        total = 0.0
        for batch, dense, reference in self._kept or self._read():
            run = self.judge.network.run(batch, replaced, known=dense)
            total += float(self.judge.difference(run, reference)) * batch.count
        return total / len(self.rows) if isfinite(total) else inf

    @torch.no_grad()
    def _read(self) -> Iterator[tuple[Batch, Run, list[Tensor]]]:
        for batch in self.judge.network.batches(self.rows):
            dense = self.judge.network.run(batch, {})
            yield batch, dense, self.judge.reference(dense)


def relative_difference(mine: Tensor, dense: Tensor) -> Tensor:
    """Squared distance over the variance of what it should be."""
    spread = (dense - dense.mean(0)).square().sum().clamp_min(torch.finfo(dense.dtype).tiny)
    return (mine - dense).square().sum() / spread


def _reading(network: Network, unit: Unit, head: str | None, readout: str | None) -> Reading:
    file = network.file
    features = sum(layer.proj_size or layer.hidden_size for layer in unit.layers)
    stack = unit.stack or "the network"
    weight = bias = None
    note = f"{stack}: hidden states are compared"
    if head != "":
        try:
            found = find_head(file, features, key=head)
            weight = file.tensor(found.weight).float()
            bias = None if found.bias is None else file.tensor(found.bias).float()
            note = f"{stack}: outputs of {found.weight} are compared ({found.note})"
        except (UsageError, InputFileError) as error:
            if head is not None:
                raise
            note = f"{stack}: hidden states are compared, since no head was found ({error})"
    tokens = isinstance(network.data.feeds.get(unit.stack), TokenFeed)
    looked = readout or ("every" if tokens or weight is None else "final")
    return Reading(unit, weight, bias, looked, f"{note}, {'each step' if looked == 'every' else 'the final state'}")
