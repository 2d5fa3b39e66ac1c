"""A fixed random CNN in place of a trained one, so that rows with a CNN can be rehearsed without its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from trcompress.data import DataSet, Split
from trcompress.data.dataset import Source

_CHANNELS = 32
_CHUNK = 64


@dataclass(frozen=True)
class RandomFeatures:
    """Frames of another source as features of an untrained network: random filters, rectified, pooled to a grid.

    Args:
        frames: rows of (T, height * width * 3) values.
        size: (width, height) of the frames.
        features: values per step, a multiple of 32.
    """

    frames: Source
    size: tuple[int, int]
    features: int

    def fetch(self, rows: np.ndarray, draw: int | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Return features (B, T, features) of the rows."""
        values, lengths = self.frames.fetch(rows, draw)
        width, height = self.size
        images = torch.from_numpy(values).reshape(-1, height, width, 3).permute(0, 3, 1, 2)  # (B*T, 3, H, W)
        network = random_network(self.features)
        with torch.no_grad():
            found = torch.cat([network(part) for part in images.split(_CHUNK)])
        return found.reshape(*values.shape[:2], self.features).numpy(), lengths


def random_network(features: int, seed: int = 0) -> nn.Module:
    """Build the network, the same one for the same seed, whatever the caller's generators are at.

    Example:
        >>> random_network(2048)(torch.zeros(1, 3, 120, 160)).shape
        torch.Size([1, 2048])
    """
    generator = torch.Generator().manual_seed(seed)
    filters = torch.randn(_CHANNELS, 3, 7, 7, generator=generator)
    filters = filters - filters.mean(dim=(2, 3), keepdim=True)
    convolution = nn.utils.skip_init(nn.Conv2d, 3, _CHANNELS, 7, stride=4, padding=3, bias=False)
    convolution.weight = nn.Parameter(filters / filters.flatten(1).norm(dim=1)[:, None, None, None])
    cells = features // _CHANNELS
    rows = max(side for side in range(1, int(cells**0.5) + 1) if cells % side == 0)
    return nn.Sequential(
        convolution, nn.ReLU(), nn.AdaptiveAvgPool2d((rows, cells // rows)), nn.Flatten(), _Scaled()
    )


class _Scaled(nn.Module):
    """Brings every feature vector to mean 0 and deviation 1."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)


def with_random_features(data: DataSet, size: tuple[int, int], features: int) -> DataSet:
    """See a video data set through the random network."""

    def seen(part: Split | None) -> Split | None:
        return None if part is None else replace(part, source=RandomFeatures(part.source, size, features))

    note = "features of a fixed random network, not of Inception-V3: a rehearsal of the path, not of the accuracy"
    return replace(
        data,
        train=seen(data.train) or data.train,
        validation=seen(data.validation),
        test=seen(data.test),
        input_size=features,
        notes=(*data.notes, note),
    )
