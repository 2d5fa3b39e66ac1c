"""The whole file at 57,600 inputs: a ring trained on procedural clips, made 30,000 times smaller than dense.

The ring learns 11 motions from 20 looks; the test part is 100 looks that were drawn with a seed of their own, one
clip a motion. Beside the file: the ring it came from, that ring given the same extra training, and a fresh network
of the file's form and storage with the same teacher, trained for all epochs that it took to get there.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from kept import Kept
from torch import nn
from whole_model_trained import Row, rows_of

from trcompress import TRLSTM, save
from trcompress.data import DataSet, load_data, make_clips
from trcompress.network.model_file import open_model
from trcompress.passes.runnable import runnable_classifier
from trcompress.passes.trained import compress_and_train
from trcompress.training.finetune import finetune
from trcompress.training.settings import read_settings

SHAPE, RANKS, HIDDEN, INPUTS, CLASSES = "4x2x5x8x6x5x3x2:4x4x2x4x2", "5,10", 256, 57_600, 11
DENSE_BYTES = 4 * (4 * HIDDEN * (INPUTS + HIDDEN + 2) + CLASSES * (HIDDEN + 1))
"""Of the dense network's tensors."""
TRAIN = {"layout": "ucf11", "classes": CLASSES, "groups": 25, "clips_per_group": 4, "seed": 0}
TEST = {"layout": "ucf11", "classes": CLASSES, "groups": 100, "clips_per_group": 1, "seed": 1_000}
CHOICE = TEST | {"seed": 2_000}
"""Looks that settings are chosen on, drawn like those of the test part."""
BASE = "ring, the same extra training"
FOLDER = Path(tempfile.gettempdir()) / "trcompress-whole-model"


@dataclass(frozen=True)
class Clips:
    """How the ring is trained and made small.

    Args:
        ring: settings of its training.
        size: bytes of the file.
        tune: settings of the training of the small file.
        fresh: what differs in the training of a fresh network of the file's form.
        how: of `compress_file`.
    """

    ring: dict[str, Any]
    size: int
    tune: dict[str, Any]
    fresh: dict[str, Any]
    how: dict[str, Any]


CLIPS = Clips(
    ring={"epochs": 40, "batch_size": 16, "lr": 2e-3, "dropout": 0.25},
    size=7_900,
    tune={"epochs": 60, "batch_size": 16, "lr": 2e-3, "core_lr_scale": 1.0, "dropout": 0.25},
    fresh={},
    how={"units": 80, "rank": 10, "matrices": ("ih", "hh"), "packed": True},
)
SHORT, LONGER = (CLIPS.tune | {"epochs": epochs} for epochs in (20, 40))
CANDIDATES: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "40 epochs": {"tune": LONGER},
    "20 epochs": {"tune": SHORT},
    "20 epochs, 64 units of rank 8": {"tune": SHORT, "how": CLIPS.how | {"units": 64, "rank": 8}},
    "40 epochs, 64 units of rank 12": {"tune": LONGER, "how": CLIPS.how | {"units": 64, "rank": 12}},
}
"""What was compared: changes of `CLIPS`, by name."""


def training_clips(folder: Path = FOLDER) -> DataSet:
    """Clips of 25 looks, 20 of them to train on."""
    tree = folder / "train"
    if not tree.is_dir():
        make_clips(tree, **TRAIN)
    options = {"split": "group", "test_fraction": 0.2, "validation_fraction": 0.0, "cache_dir": folder / "cache"}
    return load_data(tree, frames=6, **options)


def with_fresh_looks(data: DataSet, looks: dict[str, Any] = TEST, folder: Path = FOLDER) -> DataSet:
    """The same to train on; 100 fresh looks to test on, or others to choose by."""
    tree = folder / ("test" if looks == TEST else f"looks-{looks['seed']}")
    if not tree.is_dir():
        make_clips(tree, **looks)
    options = {"split": "none", "validation_fraction": 0.0, "cache_dir": folder / "cache"}
    fresh = load_data(tree, frames=6, candidates=6, **options)
    return replace(data, test=replace(fresh.train, name="test"))


def run_clips(data: DataSet, seed: int, kept: Kept, clips: Clips = CLIPS) -> list[Row]:
    """Train the ring and what comes of it, and judge them on the test part."""
    ring = kept.made("ring", lambda out: train_ring(data, out, seed, clips))
    tune = read_settings(clips.tune | {"seed": seed})
    epochs = clips.ring["epochs"] + clips.tune["epochs"]
    scratch = read_settings(clips.tune | clips.fresh | {"seed": seed, "epochs": epochs, "start": "scratch"})
    small = kept.made("small", lambda out: compress(data, ring, out, seed, clips))
    fresh = kept.made(
        "fresh",
        lambda out: finetune(small, data, out, settings=scratch, teacher=ring, most_bytes=clips.size, resume=True),
    )
    files = {
        "ring": ring,
        BASE: kept.made("more", lambda out: finetune(ring, data, out, settings=tune, teacher=ring, resume=True)),
        f"trcompress, at most {clips.size:,} bytes": small,
        "fresh, the same form": fresh,
    }
    return rows_of(files, data, None, seed, DENSE_BYTES, BASE)


def train_ring(data: DataSet, out: Path, seed: int, clips: Clips) -> None:
    """Train the ring from random cores."""
    torch.manual_seed(seed)
    layer = TRLSTM(INPUTS, HIDDEN, shape=SHAPE, ranks=RANKS, batch_first=True)
    model = nn.ModuleDict({"rnn": layer, "fc": nn.Linear(HIDDEN, CLASSES)})
    start = save(model, out.with_name("cores.safetensors"), overwrite=True)
    finetune(start, data, out, settings=read_settings(clips.ring | {"seed": seed, "start": "scratch"}), resume=True)


def compress(data: DataSet, ring: Path, out: Path, seed: int, clips: Clips) -> None:
    """Do what `trcompress compress RING --target-size ... --finetune DATA` does."""
    runnable = runnable_classifier(open_model(ring), data, seed=seed)
    found = compress_and_train(
        runnable,
        data,
        out,
        target_bytes=clips.size,
        teacher=ring,
        overwrite=True,
        settings=read_settings(clips.tune | {"seed": seed}),
        seed=seed,
        **clips.how,
    )
    if found.training is None:
        raise RuntimeError(f"clips: {found.whole.nbytes:,} bytes is the least that was reached")
