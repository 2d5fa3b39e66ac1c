"""torch.nn.LSTM modules whose packed sequences go through the padded kernel."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence

from trcompress.layers.kernels import KernelSettings
from trcompress.layers.variable_length import groups_for, run_groups


class PaddedForward:
    """Stands for the `forward` of one torch.nn.LSTM; the same results, faster where `groups_for` says so.

    Args:
        lstm: the module.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        self._lstm = lstm

    def __call__(self, input: Any, hx: Any = None) -> Any:
        """Run over a sequence; arguments and results as of torch.nn.LSTM."""
        lstm = self._lstm
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, back = input
            groups = groups_for(lstm.mode, data, batch_sizes, lstm.hidden_size, lstm.proj_size, lstm.training)
            if groups is not None:
                settings = KernelSettings(
                    lstm.bias, lstm.num_layers, lstm.dropout, lstm.training, lstm.bidirectional
                )
                weights = [getattr(lstm, name) for names in lstm._all_weights for name in names]
                lstm.check_input(data, batch_sizes)
                if hx is not None:
                    hx = lstm.permute_hidden(hx, order)
                    lstm.check_forward_args(data, hx, batch_sizes)
                output, h, c = run_groups(data, groups, hx, weights, settings)
                return PackedSequence(output, batch_sizes, order, back), lstm.permute_hidden((h, c), back)
        return type(lstm).forward(lstm, input, hx)


def use_padded_kernel(module: nn.Module) -> nn.Module:
    """Let a torch.nn.LSTM run packed sequences through the padded kernel; other modules stay as they are.

    Example:
        >>> lstm = use_padded_kernel(nn.LSTM(3, 4))
        >>> type(lstm).__name__, type(lstm.forward).__name__
        ('LSTM', 'PaddedForward')
    """
    if type(module) is nn.LSTM:
        module.forward = PaddedForward(module)  # type: ignore[method-assign]
    return module
