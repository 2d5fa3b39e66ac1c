"""TRLSTMCell, TRGRUCell and TRRNNCell: one time step, for programs that write their own loop."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor, nn

from trcompress.layers import arguments, kernels
from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import Use
from trcompress.layers.feed import bottleneck_forms, dense_of, project_inputs, rounded
from trcompress.layers.resolve import RingOptions, layers_of, recurrent_kind, refuse_unknown_options, resolve
from trcompress.layers.stack import build_parameters, reset
from trcompress.layers.strategy import Evaluated
from trcompress.model.kinds import TWO_STATES


class RingCell(Evaluated):
    """What the three cells share; `template` is the torch.nn cell on the meta device."""

    mode: str
    bias: bool
    input_size: int
    hidden_size: int
    weight_ih: CoreWeight | Tensor
    weight_hh: CoreWeight | Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    def __init__(self, template: nn.RNNCellBase, device: Any, dtype: Any, **ring: Any) -> None:
        refuse_unknown_options(type(self), ring)
        super().__init__()
        nonlinearity = getattr(template, "nonlinearity", "tanh")
        self.mode = next(mode for mode, one in recurrent_kind(template).modes.items() if one == nonlinearity)
        self.bias = template.bias
        self.input_size, self.hidden_size = template.input_size, template.hidden_size
        plans = resolve(layers_of(template), **ring)
        build_parameters(self, template, plans, device, dtype)
        if not template.bias:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from torch.nn's distribution: uniform in +-1/sqrt(H); cores with exactly its variance."""
        reset(self, self.hidden_size)

    def extra_repr(self) -> str:
        """Show sizes as torch.nn's cells do."""
        return nn.RNNCellBase.extra_repr(self)  # type: ignore[arg-type]

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Take one step.

        Args:
            input: (B, I), or (I,) unbatched.
            hx: state as in torch.nn's cells; zeros where omitted.

        Returns:
            h, or (h, c) for the LSTM.

        Raises:
            ValueError: the input or the state is neither 1-D nor 2-D.
            RuntimeError: another number of features.
        """
        states = () if hx is None else tuple(hx) if self.mode in TWO_STATES else (hx,)
        for what, value in (("input", input), *(("state", state) for state in states)):
            if value.dim() not in (1, 2):
                raise ValueError(f"the {what} must be 1-D (unbatched) or 2-D: got shape {tuple(value.shape)}")
        arguments.check_features(self, input)
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        if hx is None:
            zeros = torch.zeros(x.size(0), self.hidden_size, dtype=x.dtype, device=x.device)
            states = (zeros, zeros) if self.mode in TWO_STATES else (zeros,)
        elif not batched:
            states = tuple(state.unsqueeze(0) for state in states)
        result = self._step(x, states)
        if batched:
            return result
        return tuple(part.squeeze(0) for part in result) if self.mode in TWO_STATES else result.squeeze(0)

    def _step(self, x: Tensor, states: tuple[Tensor, ...]) -> Any:
        weight = self.weight_ih
        training = self.training and isinstance(weight, CoreWeight) and weight.trains
        use = Use(rounded(x.shape[0]), training, training and x.requires_grad, gpu=x.is_cuda)
        forms = bottleneck_forms([weight], use, self._strategy)
        if forms is None:
            dense = dense_of(weight, self._strategy)
        else:
            x, (dense,) = project_inputs(x, [weight], forms, self._strategy)
        hx = states if self.mode in TWO_STATES else states[0]
        hidden = dense_of(self.weight_hh, self._strategy)
        return kernels.CELL[self.mode](x, hx, dense, hidden, self.bias_ih, self.bias_hh)


class TRLSTMCell(RingCell):
    """torch.nn.LSTMCell with a tensor-ring `weight_ih`; its arguments, plus TRLSTM's ring."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **ring: Unpack[RingOptions],
    ) -> None:
        template = nn.LSTMCell(input_size, hidden_size, bias, "meta")
        super().__init__(template, device, dtype, **ring)


class TRGRUCell(RingCell):
    """torch.nn.GRUCell with a tensor-ring `weight_ih`; its arguments, plus TRLSTM's ring."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **ring: Unpack[RingOptions],
    ) -> None:
        super().__init__(nn.GRUCell(input_size, hidden_size, bias, "meta"), device, dtype, **ring)


class TRRNNCell(RingCell):
    """torch.nn.RNNCell with a tensor-ring `weight_ih`; its arguments, plus TRLSTM's ring."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        **ring: Unpack[RingOptions],
    ) -> None:
        template = nn.RNNCell(input_size, hidden_size, bias, nonlinearity, "meta")
        super().__init__(template, device, dtype, **ring)
        self.nonlinearity = nonlinearity
