"""No result of a pass takes more multiply-adds than the dense network: counted, never timed."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode

import trcompress
from trcompress.layers import kernels
from trcompress.layers.swaps import swap_
from trcompress.passes.matrix_moments import matrix_moments
from trcompress.passes.rings import ring_swaps
from trcompress.passes.structures import RANK_SHARES
from trcompress.passes.units import fewer_units

SIZES = [(64, 64), (200, 48), (48, 160)]


class Classifier(nn.Module):
    """A recurrent layer and a head on its last step."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.head = rnn, nn.Linear(rnn.hidden_size, 3)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def forward(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def multiply_adds(model: Classifier, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of one forward pass, warm: products outside the recurrent kernel, and those that the kernel is given."""
    inside: list[int] = []

    def counted(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(mode: str, fed: Tensor, sizes: Any, hx: Any, weights: Sequence[Tensor], settings: Any) -> Any:
            rows = fed.numel() // fed.shape[-1]
            inside.append(rows * sum(one.numel() for one in weights if one.dim() == 2))
            with _disable_current_modes():  # some kernels would be counted twice
                return run(mode, fed, sizes, hx, weights, settings)

        return call

    if isinstance(model.rnn, nn.RNNBase):  # the kernel is called by torch.nn: its weights are what it multiplies
        matrices = sum(one.numel() for one in model.rnn.parameters() if one.dim() == 2)
        return x.shape[0] * (x.shape[1] * matrices + model.head.weight.numel())
    with monkeypatch.context() as patch, torch.no_grad():
        model(x)
        patch.setattr(kernels, "run", counted(kernels.run))
        with FlopCounterMode(display=False) as counter:
            model(x)
    return counter.get_total_flops() // 2 + sum(inside)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
def test_lower_ranks_take_fewer_multiply_adds(
    kind: str, inputs: int, hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    dense = Classifier(getattr(nn, kind)(inputs, hidden, batch_first=True)).eval()
    x = torch.randn(4, 6, inputs)
    most = multiply_adds(dense, x, monkeypatch)
    seen = matrix_moments(dense, [x], forward)
    for share in RANK_SHARES:
        for roles in (("ih",), ("hh",), ("ih", "hh")):
            small = Classifier(dense.rnn).eval()
            found = multiply_adds(swap_(small, ring_swaps(dense, share, seen, roles)), x, monkeypatch)  # type: ignore[arg-type]
            assert found <= most, (share, roles)
            if "ih" in roles and inputs > hidden and share < 0.25 and kind == "LSTM":
                assert found < most, (share, roles)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("ring", [False, True])
def test_fewer_units_take_fewer_multiply_adds(kind: str, ring: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense = Classifier(getattr(nn, kind)(200, 64, batch_first=True)).eval()
    x = torch.randn(8, 6, 200)
    most = multiply_adds(dense, x, monkeypatch)
    if ring:
        trcompress.compress_(dense, trcompress.Plan.of("10x20:8x8", 4), init="tr-svd")
    for keep in (48, 32, 16):
        found = fewer_units(dense, "rnn", keep, matrix_moments(dense, [x], forward), [x], forward)
        smaller = Classifier(found.swaps["rnn"]).eval()
        same = multiply_adds(Classifier(getattr(nn, kind)(200, keep, batch_first=True)), x, monkeypatch)
        assert multiply_adds(smaller, x, monkeypatch) <= same < most
