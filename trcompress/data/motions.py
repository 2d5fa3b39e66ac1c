"""The actions of procedural clips: how a thing moves. The class of a clip is its motion and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np


@dataclass(frozen=True)
class Tempo:
    """How far and how fast a motion goes.

    Args:
        reach: distance covered, in picture heights.
        rate: multiplies turns, swings and growth; around 1.
        phase: where a circle or a swing begins, in radians.
    """

    reach: float
    rate: float
    phase: float


@dataclass(frozen=True)
class Pose:
    """Where a thing is at each of F times.

    Args:
        x: (F,) to the right of its place, in picture heights.
        y: (F,) below its place, in picture heights.
        scale: (F,) of its size.
        angle: (F,) turned clockwise, in radians.
    """

    x: np.ndarray
    y: np.ndarray
    scale: np.ndarray
    angle: np.ndarray


Motion = Callable[[np.ndarray, Tempo], Pose]


def _pose(
    u: np.ndarray,
    *,
    x: np.ndarray | float = 0.0,
    y: np.ndarray | float = 0.0,
    scale: np.ndarray | float = 1.0,
    angle: np.ndarray | float = 0.0,
) -> Pose:
    return Pose(x + 0 * u, y + 0 * u, scale + 0 * u, angle + 0 * u)


def _linear(dx: int, dy: int) -> Motion:
    return lambda u, tempo: _pose(u, x=dx * tempo.reach * (u - 0.5), y=dy * tempo.reach * (u - 0.5))


def _circle(direction: int) -> Motion:
    def move(u: np.ndarray, tempo: Tempo) -> Pose:
        angle = tempo.phase + direction * 2 * np.pi * 0.9 * tempo.rate * u
        radius = 0.45 * tempo.reach
        return _pose(u, x=radius * np.cos(angle), y=radius * np.sin(angle))

    return move


def _zoom(direction: int) -> Motion:
    return lambda u, tempo: _pose(u, scale=np.exp(direction * 1.3 * tempo.rate * (u - 0.5)))


def _bounce(u: np.ndarray, tempo: Tempo) -> Pose:
    height = np.abs(np.sin(np.pi * 2.2 * tempo.rate * u + tempo.phase))
    return _pose(u, y=tempo.reach * (0.5 - height))


def _shake(u: np.ndarray, tempo: Tempo) -> Pose:
    return _pose(u, x=0.2 * tempo.reach * np.sin(2 * np.pi * 3 * tempo.rate * u + tempo.phase))


def _rotate(u: np.ndarray, tempo: Tempo) -> Pose:
    return _pose(u, angle=2 * np.pi * 0.8 * tempo.rate * u)


def _then(first: Motion, second: Motion) -> Motion:
    """One motion in the first half of the clip, the other in the second, both smaller so as to stay in sight."""

    def move(u: np.ndarray, tempo: Tempo) -> Pose:
        tempo = Tempo(0.6 * tempo.reach, 0.6 * tempo.rate, tempo.phase)
        a, b = first(np.minimum(2 * u, 1), tempo), second(np.maximum(2 * u - 1, 0), tempo)
        return Pose(a.x + b.x, a.y + b.y, a.scale * b.scale, a.angle + b.angle)

    return move


_STEADY: dict[str, Motion] = {
    "right": _linear(1, 0),
    "left": _linear(-1, 0),
    "up": _linear(0, -1),
    "down": _linear(0, 1),
    "zoom_in": _zoom(1),
    "zoom_out": _zoom(-1),
    "rotate": _rotate,
}

# 11 simple motions first, then pairs of them: as many as HMDB51 has classes
MOTIONS: dict[str, Motion] = _STEADY | {
    "circle_clockwise": _circle(1),
    "circle_counterclockwise": _circle(-1),
    "bounce": _bounce,
    "shake": _shake,
}
MOTIONS |= {
    f"{first}_then_{second}": _then(_STEADY[first], _STEADY[second])
    for first, second in list(permutations(_STEADY, 2))[: 51 - len(MOTIONS)]
}
