"""Linear bottlenecks in front of torch.nn's own recurrent modules, called as the one module they stand for.

Nothing here knows of cores: torch.jit.script, tracing, torch.export and torch.onnx see Linear, LSTM, GRU and RNN.
Annotations are real ones, not strings, because torch.jit.script reads them.
"""

# ruff: noqa: UP006, UP035, UP045, F811, B905  (types, overloads and zip as torch.jit.script wants them)
# mypy: disable-error-code="no-redef, operator, assignment"
from collections.abc import Sequence
from typing import Any, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.layers.stack import SETTINGS


class _Chain(nn.Module):
    """What both kinds of chain hold.

    Args:
        entries: what the input of each stage passes first: a Linear, a Dropout and a Linear, or nothing (Identity).
        stages: nn.LSTM, GRU or RNN modules; together they have the layers of `like`.
        like: the module this stands for; its settings are readable here too.
    """

    def __init__(self, entries: Sequence[nn.Module], stages: Sequence[nn.Module], like: Any) -> None:
        super().__init__()
        for name in SETTINGS:
            setattr(self, name, getattr(like, name))
        self.entries, self.stages = nn.ModuleList(entries), nn.ModuleList(stages)

    def flatten_parameters(self) -> None:
        """Lay out the weights of every stage in one piece, on a GPU; see torch.nn.LSTM."""
        for stage in self.stages:
            stage.flatten_parameters()


def through_entry(entry: nn.Module, packed: PackedSequence) -> Tuple[Tensor, Tensor]:
    """Take a packed sequence through a bottleneck; in an export by way of padding, which torch.onnx can follow."""
    if not torch.onnx.is_in_onnx_export():
        return entry(packed.data), packed.batch_sizes
    padded, lengths = torch._VF._pad_packed_sequence(packed.data, packed.batch_sizes, False, 0.0, -1)
    return torch._VF._pack_padded_sequence(entry(padded), lengths, False)


class BottleneckLSTM(_Chain):
    """An nn.LSTM whose layers read their inputs through linear bottlenecks."""

    @torch._jit_internal._overload_method
    def forward(
        self, input: Tensor, hx: Optional[Tuple[Tensor, Tensor]] = None
    ) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
        pass

    @torch._jit_internal._overload_method
    def forward(
        self, input: PackedSequence, hx: Optional[Tuple[Tensor, Tensor]] = None
    ) -> Tuple[PackedSequence, Tuple[Tensor, Tensor]]:
        pass

    def forward(self, input, hx=None):
        """Run over a sequence; arguments and results as of torch.nn.LSTM."""
        output, first = input, 0
        hidden: List[Tensor] = []
        cells: List[Tensor] = []
        for entry, stage in zip(self.entries, self.stages):
            if isinstance(output, PackedSequence):
                if torch.jit.is_scripting():
                    data, sizes = entry(output.data), output.batch_sizes
                else:
                    data, sizes = through_entry(entry, output)
                output = PackedSequence(data, sizes, output.sorted_indices, output.unsorted_indices)
            else:
                output = entry(output)
            last = first + stage.num_layers * (2 if stage.bidirectional else 1)
            if hx is None:
                output, state = stage(output)
            else:
                output, state = stage(output, (hx[0][first:last], hx[1][first:last]))
            first = last
            hidden.append(state[0])
            cells.append(state[1])
        return output, (torch.cat(hidden), torch.cat(cells))


class BottleneckRNN(_Chain):
    """An nn.GRU or nn.RNN whose layers read their inputs through linear bottlenecks."""

    @torch._jit_internal._overload_method
    def forward(self, input: Tensor, hx: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        pass

    @torch._jit_internal._overload_method
    def forward(self, input: PackedSequence, hx: Optional[Tensor] = None) -> Tuple[PackedSequence, Tensor]:
        pass

    def forward(self, input, hx=None):
        """Run over a sequence; arguments and results as of torch.nn.GRU."""
        output, first = input, 0
        hidden: List[Tensor] = []
        for entry, stage in zip(self.entries, self.stages):
            if isinstance(output, PackedSequence):
                if torch.jit.is_scripting():
                    data, sizes = entry(output.data), output.batch_sizes
                else:
                    data, sizes = through_entry(entry, output)
                output = PackedSequence(data, sizes, output.sorted_indices, output.unsorted_indices)
            else:
                output = entry(output)
            last = first + stage.num_layers * (2 if stage.bidirectional else 1)
            output, state = stage(output, None if hx is None else hx[first:last])
            first = last
            hidden.append(state)
        return output, torch.cat(hidden)


class StandaloneLSTM(nn.Module):
    """A chain of LSTMs alone: torch.jit.script asks a root for one signature, so scripted it takes tensors."""

    def __init__(self, rnn: BottleneckLSTM) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(
        self, input: Tensor, hx: Optional[Tuple[Tensor, Tensor]] = None
    ) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
        """Run over a sequence; arguments and results as of torch.nn.LSTM."""
        return self.rnn(input, hx)


class StandaloneRNN(nn.Module):
    """A chain of GRUs or RNNs alone, with one signature; see `StandaloneLSTM`."""

    def __init__(self, rnn: BottleneckRNN) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, input: Tensor, hx: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """Run over a sequence; arguments and results as of torch.nn.GRU."""
        return self.rnn(input, hx)


class BottleneckLSTMCell(nn.Module):
    """An nn.LSTMCell behind a linear bottleneck."""

    def __init__(self, entry: nn.Module, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.entry, self.cell = entry, cell

    def forward(self, input: Tensor, hx: Optional[Tuple[Tensor, Tensor]] = None) -> Tuple[Tensor, Tensor]:
        """Take one step; arguments and results as of torch.nn.LSTMCell."""
        return self.cell(self.entry(input), hx)


class BottleneckCell(nn.Module):
    """An nn.GRUCell or nn.RNNCell behind a linear bottleneck."""

    def __init__(self, entry: nn.Module, cell: nn.Module) -> None:
        super().__init__()
        self.entry, self.cell = entry, cell

    def forward(self, input: Tensor, hx: Optional[Tensor] = None) -> Tensor:
        """Take one step; arguments and results as of torch.nn.GRUCell."""
        return self.cell(self.entry(input), hx)
