"""How far two answers of a network lie apart."""

from __future__ import annotations

from math import inf, isfinite
from typing import Any

from trcompress.network.batches import tensors_of


def distance(answers: Any, wanted: Any) -> float:
    """Return ||answers - wanted||^2 / ||wanted||^2 over all tensors in them; infinite where shapes differ."""
    mine, theirs = tensors_of(answers), tensors_of(wanted)
    if [one.shape for one in mine] != [one.shape for one in theirs]:
        return inf
    wrong = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(mine, theirs, strict=True))
    size = sum(float(b.double().square().sum()) for b in theirs)
    return wrong / max(size, 1e-300) if isfinite(wrong) else inf
