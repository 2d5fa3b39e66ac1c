"""The layers that ours are compared with, and how to get them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
INPUTS, HIDDEN = 57600, 256
RING, TRAIN = "4x2x5x8x6x5x3x2:4x4x2x4x2", "8x20x20x18:4x4x4x4"


def install() -> None:
    """Put the peers into `build/peers`, once, and start this program again with them on its path.

    torch.einsum looks for opt_einsum when torch is imported; without it tensorly-torch contracts left to right.
    """
    target = HERE.parent / "build" / "peers"
    if str(target) in sys.path:
        return
    if not (target / "opt_einsum").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
        subprocess.run([*command, "-r", str(HERE / "requirements.txt")], check=True)
    path = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONPATH": path})


class TedNet(nn.Module):
    """TedNet's TRLSTM of the paper's ring, without its dropout."""

    def __init__(self) -> None:
        super().__init__()
        from tednet.tnn.tensor_ring import TRLSTM

        in_modes, out_modes = ([int(mode) for mode in side.split("x")] for side in RING.split(":"))
        self.layer = TRLSTM(in_modes, out_modes, [10, *[5] * 12], drop_ih=0.0, drop_hh=0.0)

    def forward(self, x: torch.Tensor) -> Any:
        """Run (T, B, I)."""
        zeros = torch.zeros(x.shape[1], HIDDEN, device=x.device)
        return self.layer(x, (zeros, zeros))


class TensorlyTorch(nn.Module):
    """tensorly-torch's block tensor-train linear layer in front of PyTorch's kernel."""

    def __init__(self) -> None:
        super().__init__()
        import tltorch

        modes = (8, 20, 20, 18), (16, 4, 4, 4)
        self.product = tltorch.FactorizedLinear(*modes, bias=False, factorization="blocktt", rank=4)
        self.layer = nn.LSTM(4 * HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor) -> Any:
        """Run (T, B, I)."""
        return self.layer(self.product(x.flatten(0, 1)).view(*x.shape[:2], -1))


def ours() -> nn.Module:
    """The paper's ring."""
    from trcompress.layers import TRLSTM

    return TRLSTM(INPUTS, HIDDEN, shape=RING, ranks="5,10")


def our_train() -> nn.Module:
    """The paper's TT-LSTM."""
    from trcompress.layers import TTLSTM

    return TTLSTM(INPUTS, HIDDEN, shape=TRAIN, rank=4)


def our_blocks() -> nn.Module:
    """The paper's BT-LSTM."""
    from trcompress.layers import BTLSTM

    return BTLSTM(INPUTS, HIDDEN, shape=TRAIN, rank=4)


CONTENDERS: dict[str, Callable[[], nn.Module]] = {
    "TRLSTM": ours,
    "torch.nn.LSTM": lambda: nn.LSTM(INPUTS, HIDDEN),
    "TedNet TRLSTM": TedNet,
    "TTLSTM": our_train,
    "BTLSTM": our_blocks,
    "tensorly-torch BlockTT": TensorlyTorch,
}
"""Each builds one contender; all take (T, B, 57600)."""
