"""Sequences of different lengths through the padded LSTM kernel: exact, and faster than a PackedSequence on a CPU.

On padded steps one extra input channel saturates the gates: i = 0, f = 1, o = 0 in floating point. The cell state
passes unchanged, the output is 0, and no gradient flows. Backwards in time the padded steps come first: from a zero
state that changes nothing, but o = 0 would lose an initial state, so with one each sequence is turned round by an
index instead and runs forwards. Batches of very different lengths are split into groups, each padded on its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from trcompress.layers import kernels
from trcompress.layers.evaluation import is_tracing
from trcompress.layers.kernels import KernelSettings
from trcompress.model.kinds import KINDS

LSTM = KINDS["lstm"]
(MODE,) = LSTM.modes

SATURATE = 1e4
"""Far enough for sigmoid to be 0 or 1 exactly in every floating type, within float16."""


class Cost(NamedTuple):
    """Seconds of a kernel in one thread.

    Args:
        step: of each step.
        unit: of each hidden unit of a sequence in a step: nonlinearities.
        mac: of each multiply-add; these alone go faster with threads.
        weight: of each weight in a call, for the kernels rearrange them.
    """

    step: float
    unit: float
    mac: float
    weight: float


PACKED = {False: Cost(2e-6, 20e-9, 0.8e-11, 5e-9), True: Cost(1e-4, 160e-9, 7.2e-11, 0)}
"""PyTorch's kernel for packed sequences, without and with a backward pass: it leaves every operation in the graph.

Fitted, as `PADDED`, to 14 sizes of 6 to 1,024 inputs and 64 to 512 units on an Intel Xeon, where padding pays less
than on an AMD EPYC."""

PADDED = {False: Cost(3e-6, 2e-9, 1.5e-11, 5e-9), True: Cost(3e-6, 27e-9, 3.5e-11, 17e-9)}
"""oneDNN's, for padded sequences."""

CALL_S = 1e-4
"""Laying out a group and taking its values apart again."""

WORTH = 1.3
"""How many times faster the padded kernel must be expected: constants of one processor are not another's."""

MOST_PLACES = 12


class Group(NamedTuple):
    """Consecutive sequences that are padded to the longest of them.

    Args:
        start: the first, in descending order of length.
        stop: one past the last.
        steps: of the longest.
        cells: (steps * sequences,) places of true steps in the padded group, or None where all are.
        rows: of the packed values, in the order of `cells`; None for all of them in their order.
        turned: rows of the same sequences, each backwards in time.
        ends: (sequences,) places of the last true steps.
    """

    start: int
    stop: int
    steps: int
    cells: Tensor | None
    rows: Tensor | None
    turned: Tensor
    ends: Tensor


def groups_for(
    mode: str, x: Tensor, batch_sizes: Tensor, hidden: int, proj: int, training: bool
) -> list[Group] | None:
    """Choose how packed sequences run.

    Args:
        mode: of the torch.nn module.
        x: (values, K), what the kernel reads.
        batch_sizes: of the PackedSequence.
        hidden: H.
        proj: size of the LSTM's projection; 0 for none.
        training: whether a backward pass follows.

    Returns:
        Groups of sequences to be padded, or None where PyTorch's packed kernel is expected to be faster: for other
        kinds of cells, types and devices than oneDNN's LSTM serves, and while tracing.
    """
    if mode != MODE or proj or x.device.type != "cpu" or x.dtype != torch.float32 or is_tracing():
        return None
    if torch._C._is_any_autocast_enabled() or not torch.backends.mkldnn.is_available():
        return None
    lengths = lengths_of(batch_sizes)
    if len(lengths) == 1:  # nothing to pad, and PyTorch's kernel is quick with one
        return None
    weights = LSTM.gates * hidden * (x.shape[1] + hidden)
    backward = training and torch.is_grad_enabled()
    packed, padded = PACKED[backward], PADDED[backward]
    packed_cell_s, padded_cell_s = (
        cost.unit * hidden + cost.mac * weights / torch.get_num_threads() for cost in (packed, padded)
    )
    packed_s = packed.weight * weights + len(batch_sizes) * packed.step + x.shape[0] * packed_cell_s
    places, padded_s = split(lengths, padded.step, padded_cell_s, call_s=CALL_S + padded.weight * weights)
    return make_groups(batch_sizes, lengths, places) if padded_s * WORTH < packed_s else None


def lengths_of(batch_sizes: Tensor) -> list[int]:
    """Return the lengths of packed sequences, the longest first.

    Example:
        >>> lengths_of(torch.tensor([3, 3, 1]))
        [3, 2, 2]
    """
    sequences = torch.arange(int(batch_sizes[0]))
    found: list[int] = (batch_sizes[:, None] > sequences).sum(0).tolist()
    return found


def split(lengths: Sequence[int], step_s: float, cell_s: float, call_s: float) -> tuple[list[int], float]:
    """Split a batch where padding each part on its own is cheapest.

    Args:
        lengths: longest first.
        step_s: seconds of a step for any number of sequences.
        cell_s: seconds of one sequence in one step.
        call_s: seconds of a part.

    Returns:
        Where parts begin, with the end; and the seconds expected.

    Example:
        >>> split([100, 100, 5, 5], step_s=1, cell_s=1, call_s=0)[0], split([9, 8, 8, 7], 1, 1, 0)[0]
        ([0, 2, 4], [0, 4])
    """
    count = len(lengths)
    places = sorted({at * count // MOST_PLACES for at in range(MOST_PLACES)} | {count})
    best: dict[int, tuple[float, list[int]]] = {count: (0.0, [count])}  # from each place to the end
    for start in reversed(places[:-1]):
        options = [
            (call_s + lengths[start] * (step_s + (stop - start) * cell_s) + best[stop][0], [start, *best[stop][1]])
            for stop in places
            if stop > start
        ]
        best[start] = min(options)
    return best[0][1], best[0][0]


def make_groups(batch_sizes: Tensor, lengths: Sequence[int], places: Sequence[int]) -> list[Group]:
    """Lay out each group; `places` are where they begin, with the end."""
    offsets = batch_sizes.cumsum(0) - batch_sizes  # row of each step's first sequence
    groups = []
    for start, stop in pairwise(places):
        steps, ends = lengths[start], torch.tensor(lengths[start:stop]) - 1
        time, sequences = torch.arange(steps)[:, None], torch.arange(start, stop)
        true = time <= ends
        rows = (offsets[:steps, None] + sequences)[true]
        turned = (offsets[(ends - time).clamp_min(0)] + sequences)[true]
        cells = None if bool(true.all()) else true.flatten().nonzero()[:, 0]
        last = ends * (stop - start) + torch.arange(stop - start)
        whole = stop - start == len(lengths)
        groups.append(Group(start, stop, steps, cells, None if whole else rows, turned, last))
    return groups


def run_groups(
    x: Tensor, groups: Sequence[Group], hx: Any, weights: Sequence[Tensor], settings: KernelSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Run LSTM layers over packed sequences; arguments and results otherwise as of `layers.kernels.run`.

    Args:
        x: (values, K).
        groups: from `groups_for`.
        hx: (h_0, c_0), or None for zeros.
        weights: flat list in torch.nn's order.
        settings: of the kernel.
    """
    directions, each = 1 + settings.bidirectional, 4 if settings.bias else 2
    finals = []
    for layer in range(settings.layers):
        if layer and settings.dropout:
            x = F.dropout(x, settings.dropout, settings.training)
        rows = slice(layer * directions, (layer + 1) * directions)
        mine = [list(weights[at * each : (at + 1) * each]) for at in range(rows.start, rows.stop)]
        x, *states = _layer(x, groups, hx and (hx[0][rows], hx[1][rows]), mine, settings._replace(layers=1))
        finals.append(states)
    h, c = zip(*finals, strict=True)
    return x, torch.cat(h), torch.cat(c)


def _layer(
    x: Tensor, groups: Sequence[Group], hx: Any, weights: list[list[Tensor]], settings: KernelSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer; `weights` by direction."""
    both = settings.bidirectional
    if not both or hx is None:
        return _gathered([_padded(x, group, group.rows, hx, weights, settings) for group in groups], groups, False)
    alone, parts = settings._replace(bidirectional=False), []
    for end in range(2):
        state = (hx[0][end : end + 1], hx[1][end : end + 1])
        found = [_padded(x, one, one.turned if end else one.rows, state, [weights[end]], alone) for one in groups]
        parts.append(_gathered(found, groups, turned=bool(end)))
    (forward, h, c), (backward, h_back, c_back) = parts
    return torch.cat([forward, backward], 1), torch.cat([h, h_back]), torch.cat([c, c_back])


def _padded(
    x: Tensor, group: Group, rows: Tensor | None, hx: Any, weights: list[list[Tensor]], settings: KernelSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one group; return its true outputs in the order of `rows`, and its final states (D, B, H)."""
    count, hidden = group.stop - group.start, weights[0][1].shape[1]
    values = x if rows is None else x.index_select(0, rows)
    if group.cells is not None:
        values = _with_channel(values, group.cells, group.steps * count)
        weights = [[torch.cat([one[0], _channel(one[0])], 1), *one[1:]] for one in weights]
    zero = x.new_zeros(len(weights), count, hidden)
    state = (zero, zero) if hx is None else tuple(part[:, group.start : group.stop] for part in hx)
    flat = [weight for one in weights for weight in one]
    y, h, c = kernels.run(MODE, values.view(group.steps, count, -1), None, state, flat, settings)
    outputs = y.flatten(0, 1)
    if group.cells is None:
        return outputs, h, c
    last = outputs[:, :hidden].index_select(0, group.ends).unsqueeze(0)
    h = torch.cat([last, h[1:]])  # backwards in time the last step is a true one
    return outputs.index_select(0, group.cells), h, c


def _with_channel(values: Tensor, cells: Tensor, count: int) -> Tensor:
    """Put values (n, K) in their cells of (count, K + 1); the last column is 1 where nothing is put."""
    base = values.new_zeros(count, values.shape[1] + 1)
    base[:, -1] = 1
    return base.index_copy(0, cells, F.pad(values, (0, 1)))


def _channel(weight: Tensor) -> Tensor:
    """What the extra channel adds to the gates i, f, g, o: a column (4*H, 1)."""
    signs = weight.new_tensor([-SATURATE, SATURATE, 0.0, -SATURATE])
    return signs.repeat_interleave(weight.shape[0] // LSTM.gates).unsqueeze(1)


def _gathered(
    parts: Sequence[tuple[Tensor, Tensor, Tensor]], groups: Sequence[Group], turned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Put the groups' outputs back into the order of the packed values, and their states side by side."""
    outputs, h, c = (list(part) for part in zip(*parts, strict=True))
    if len(groups) == 1 and not turned:
        return outputs[0], h[0], c[0]
    rows = torch.cat([group.turned if turned or group.rows is None else group.rows for group in groups])
    return torch.cat(outputs).index_select(0, rows.argsort()), torch.cat(h, 1), torch.cat(c, 1)
