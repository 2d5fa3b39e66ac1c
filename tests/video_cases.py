"""Clips of known frames, for the tests of one file and of trees."""

import numpy as np

from trcompress.data.decode import DecodeSettings

SETTINGS = DecodeSettings(candidates=8, width=32, height=24, max_frames=1000, max_pixels=10**6)

LEVELS = 8


def counting_frames(count, size=(64, 48)):
    """Frames whose brightness is their number, in steps that survive compression."""
    width, height = size
    return np.stack([np.full((height, width, 3), 8 + LEVELS * k, np.uint8) for k in range(count)])


def noisy_frames(count, size=(64, 48)):
    width, height = size
    return np.random.default_rng(0).integers(0, 256, size=(count, height, width, 3)).astype(np.uint8)


def numbers(frames):
    """Which of `counting_frames` these are."""
    return np.rint((frames.reshape(len(frames), -1).mean(axis=1) - 8) / LEVELS).astype(int).tolist()


def cut(source, target, size_bytes):
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes()[:size_bytes])
    return target
