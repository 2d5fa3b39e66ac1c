"""Drawing procedural clips: a bright glyph moving over a dim, textured, still background."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from trcompress.data.glyphs import COLUMNS, NAMES, ROWS, glyph
from trcompress.data.motions import Motion, Pose, Tempo

_GOLDEN = 0.61803398875
_FINE = 8  # samples per glyph cell


@dataclass(frozen=True)
class Look:
    """What the clips of one group share; no two groups share any of it.

    Args:
        glyph: name of the thing that moves (different up to 36 groups).
        color: (3,) of the thing, bright.
        shades: (2, 3) of the background's corners, dim.
        waves: (3, 3) background texture: waves across, waves down, phase, each for three waves.
        place: (2,) right of and below the middle, in picture heights.
        height: of the thing, in picture heights.
        reach, rate: the middle of the group's tempo.
    """

    glyph: str
    color: np.ndarray
    shades: np.ndarray
    waves: np.ndarray
    place: np.ndarray
    height: float
    reach: float
    rate: float


def group_looks(groups: int, seed: int) -> list[Look]:
    """Return the looks of all groups, spread so that any two differ in everything."""
    rng = np.random.default_rng((seed, 0))
    names = rng.permutation(NAMES)
    spread = [rng.permutation(np.linspace(-1, 1, groups)) if groups > 1 else np.zeros(1) for _ in range(6)]
    hue = rng.random()
    looks = []
    for group in range(groups):
        x, y, height, reach, rate, shift = (float(values[group]) for values in spread)
        hue = (hue + _GOLDEN) % 1
        dim = [colorsys.hsv_to_rgb((hue + 0.5 + 0.2 * shift + k * 0.15) % 1, 0.6, 0.15 + 0.25 * k) for k in (0, 1)]
        looks.append(
            Look(
                glyph=str(names[group % len(names)]),
                color=np.array(colorsys.hsv_to_rgb(hue, 0.55, 1.0)),
                shades=np.array(dim),
                waves=rng.uniform((-4, -4, 0), (4, 4, 2 * np.pi), size=(3, 3)),
                place=np.array((0.14 * x, 0.08 * y)),
                height=0.33 + 0.06 * height,
                reach=0.5 + 0.08 * reach,
                rate=1.0 + 0.12 * rate,
            )
        )
    return looks


def draw_clip(
    look: Look, motion: Motion, frames: int, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Draw one clip.

    Args:
        look: of the clip's group.
        motion: the clip's class.
        frames: F.
        size: (width, height).
        rng: makes the clips of a group differ a little.

    Returns:
        (F, height, width, 3) uint8.
    """
    width, height = size
    tempo = Tempo(
        look.reach * rng.uniform(0.95, 1.05), look.rate * rng.uniform(0.95, 1.05), rng.uniform(0, 2 * np.pi)
    )
    pose = motion((np.arange(frames) + 0.5) / frames, tempo)
    place = look.place + rng.uniform(-0.03, 0.03, size=2)
    scene = _background(look, width, height)
    picture = np.kron(np.pad(glyph(look.glyph), 1), np.ones((_FINE, _FINE), dtype=np.float32))
    clip = np.repeat(scene[None], frames, axis=0)
    for number in range(frames):
        _stamp(clip[number], picture, pose, number, look, place)
    return clip


def _background(look: Look, width: int, height: int) -> np.ndarray:
    """A gradient between two shades with three faint waves, (height, width, 3) uint8."""
    down, across = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None, :]
    blend = (down + across)[..., None] / 2
    texture = sum(np.sin(2 * np.pi * (a * across + b * down) + phase) for a, b, phase in look.waves)
    scene = look.shades[0] * (1 - blend) + look.shades[1] * blend + 0.03 * np.asarray(texture)[..., None]
    return np.rint(scene.clip(0, 1) * 255).astype(np.uint8)


def _stamp(frame: np.ndarray, picture: np.ndarray, pose: Pose, number: int, look: Look, place: np.ndarray) -> None:
    """Blend the turned and scaled glyph into a frame, touching only the square it may cover."""
    height, width, _ = frame.shape
    angle = pose.angle[number]
    cell = look.height * pose.scale[number] * height / ROWS  # pixels per glyph cell
    column = width / 2 + (place[0] + pose.x[number]) * height
    row = height / 2 + (place[1] + pose.y[number]) * height
    radius = cell * np.hypot(ROWS, COLUMNS) / 2 + 2
    top, bottom = (int(np.clip(edge, 0, height)) for edge in (row - radius, row + radius + 1))
    left, right = (int(np.clip(edge, 0, width)) for edge in (column - radius, column + radius + 1))
    down = (np.arange(top, bottom) - row).astype(np.float32)[:, None]
    across = (np.arange(left, right) - column).astype(np.float32)[None, :]
    cos, sin, cell = np.float32(np.cos(angle)), np.float32(np.sin(angle)), np.float32(cell)
    u = (cos * across + sin * down) / cell + COLUMNS / 2 + 1  # glyph cells, padded by one
    v = (-sin * across + cos * down) / cell + ROWS / 2 + 1
    cover = _sample(picture, v * _FINE - 0.5, u * _FINE - 0.5)[..., None]
    under = frame[top:bottom, left:right]
    color = (255 * look.color).astype(np.float32)
    under[:] = np.rint(under + cover * (color - under))


def _sample(picture: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read between the samples of a picture, bilinearly; zero outside."""
    rows = rows.clip(0, picture.shape[0] - 1.001)
    columns = columns.clip(0, picture.shape[1] - 1.001)
    r, c = rows.astype(np.int64), columns.astype(np.int64)
    dr, dc = (rows - r).astype(np.float32), (columns - c).astype(np.float32)
    upper = picture[r, c] * (1 - dc) + picture[r, c + 1] * dc
    lower = picture[r + 1, c] * (1 - dc) + picture[r + 1, c + 1] * dc
    return upper * (1 - dr) + lower * dr
