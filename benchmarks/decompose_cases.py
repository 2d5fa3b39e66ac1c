"""The matrices that benchmarks/decompose.py decomposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from samples import find_sample
from torch import Tensor

from trcompress.checkpoint import read_checkpoint
from trcompress.formats import TensorRing
from trcompress.model.grammar import parse_shape

NOISE = 0.1
RECOVERED = 1e-6
PAPER = TensorRing((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), (10, *[5] * 12, 10))
PLANTED = [
    ("4x4:4x4", (2,) * 5, "normal"),
    ("3x4x5:4x3", (3,) * 6, "normal"),
    ("4x2x5:4x4", (2, 3, 4, 5, 4, 2), "normal"),
    ("4x2x5:4x4", (5,) * 6, "normal"),
    ("6x5x4:3x8", (4,) * 6, "normal"),
    ("6x5x4:3x8", (6,) * 6, "normal"),
    ("8x8:8x8", (4,) * 5, "normal"),
    ("8x8:8x8", (6, 3, 2, 3, 6), "normal"),
    ("8x8:8x8", (5,) * 5, "uniform"),
    ("4x4x4:4x4", (3,) * 6, "normal"),
    ("4x4x4:4x4", (5,) * 6, "normal"),
    ("4x4x4:4x4", (4,) * 6, "uniform"),
    ("3x5:4x6", (3,) * 5, "normal"),
    ("16:5x7", (2,) * 4, "normal"),
    ("16:5x7", (3,) * 4, "uniform"),
    ("12:30", (3,) * 3, "normal"),
    ("4x4x4x4:4x4x4", (3,) * 8, "normal"),
    ("4x4x4x4:4x4x4", (10, 2, 2, 2, 2, 2, 2, 10), "normal"),
    ("2x3x2x3:4x2x4", (3,) * 8, "normal"),
    ("10x10:8x8", (2, 7, 3, 4, 2), "uniform"),
]
"""Shapes, ranks R0..Rd, and how the cores are drawn: Gaussian, or uniform on [0, 1)."""


@dataclass(frozen=True)
class Problem:
    """A weight and the ring asked for."""

    title: str
    make: Callable[[], tuple[Tensor, TensorRing]]


def planted(number: int) -> tuple[Tensor, TensorRing]:
    """An exact ring, float64."""
    shape, ranks, kind = PLANTED[number]
    draw = torch.randn if kind == "normal" else torch.rand
    ring = TensorRing(*parse_shape(shape), ranks)
    generator = torch.Generator().manual_seed(number)
    cores = [draw(size, generator=generator, dtype=torch.float64) for size in ring.core_shapes]
    return ring.to_dense(cores).t().contiguous(), ring


def noisy_ring(ring: TensorRing) -> tuple[Tensor, TensorRing]:
    """A planted ring plus noise of a tenth of its norm, float32; W is made in place."""
    generator = torch.Generator().manual_seed(0)
    cores = [torch.randn(size, generator=generator) for size in ring.core_shapes]
    weight = ring.output_factor(cores).t() @ ring.input_factor(cores).t()
    scale = float(weight.norm()) / weight.numel() ** 0.5
    for row in weight:
        row.add_(torch.randn(row.shape, generator=generator), alpha=NOISE * scale).div_(scale)
    return weight, ring


def new_lstm() -> tuple[Tensor, TensorRing]:
    """What nn.LSTM(57600, 256) begins with; the generator of its other weights does not matter."""
    generator = torch.Generator().manual_seed(0)
    return torch.empty(1024, 57600).uniform_(-1 / 16, 1 / 16, generator=generator), PAPER


def pretrained() -> tuple[Tensor, TensorRing]:
    """The encoder's input weight of the pretrained grapheme-to-phoneme GRU, at 12x."""
    path = find_sample("g2p/checkpoint20.npz")
    if path is None:
        raise SystemExit(
            "this part needs the sample g2p/checkpoint20.npz: it is not at hand; choose others by --only"
        )
    return read_checkpoint(path).tensor("enc_w_ih"), TensorRing((16, 16), (32, 24), (12, 14, 14, 14, 12))


PROBLEMS = {
    "medium": Problem(
        "3,600 x 1,024, 15x16x15:16x8x8, ranks 5, ring + 10 % noise",
        lambda: noisy_ring(TensorRing((15, 16, 15), (16, 8, 8), (5,) * 7)),
    ),
    "medium-9": Problem(
        "3,600 x 1,024, 4x5x6x5x6:16x4x4x4, ranks 5, ring + 10 % noise",
        lambda: noisy_ring(TensorRing((4, 5, 6, 5, 6), (16, 4, 4, 4), (5,) * 10)),
    ),
    "g2p": Problem("g2p encoder weight, 256 x 768, 16x16:32x24", pretrained),
    "flagship": Problem(
        "57,600 x 1,024, 4x2x5x8x6x5x3x2:16x4x2x4x2, ranks 5, R0 10, ring + 10 % noise", lambda: noisy_ring(PAPER)
    ),
    "flagship new": Problem("the same shape, the weight of a new nn.LSTM(57600, 256)", new_lstm),
}
