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

from torch import nn
from whole_model_trained import Row, latency

from trcompress import TRLSTM, save
from trcompress.data import DataSet, load_data, make_clips
from trcompress.network.model_file import open_model
from trcompress.passes.runnable import runnable_classifier
from trcompress.passes.trained import compress_and_train
from trcompress.training.evaluate import evaluate
from trcompress.training.finetune import finetune
from trcompress.training.settings import read_settings

SHAPE, RANKS, HIDDEN, INPUTS, CLASSES = "4x2x5x8x6x5x3x2:4x4x2x4x2", "5,10", 256, 57_600, 11
DENSE_BYTES = 4 * (4 * HIDDEN * (INPUTS + HIDDEN + 2) + CLASSES * (HIDDEN + 1))
"""Of the dense network's tensors."""
TRAIN = {"layout": "ucf11", "classes": CLASSES, "groups": 25, "clips_per_group": 4, "seed": 0}
TEST = {"layout": "ucf11", "classes": CLASSES, "groups": 100, "clips_per_group": 1, "seed": 1_000}
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
    tune={"epochs": 20, "batch_size": 16, "lr": 2e-3, "dropout": 0.25},
    fresh={},
    how={"units": 64, "rank": 8, "matrices": ("ih", "hh"), "storage": ("float16", "int4")},
)


def training_clips(folder: Path = FOLDER) -> DataSet:
    """Clips of 25 looks, 20 to train on and 5 to choose settings by, which stand as the test part."""
    tree = folder / "train"
    if not tree.is_dir():
        make_clips(tree, **TRAIN)
    options = {"split": "group", "test_fraction": 0.2, "validation_fraction": 0.0, "cache_dir": folder / "cache"}
    return load_data(tree, frames=6, **options)


def with_fresh_looks(data: DataSet, folder: Path = FOLDER) -> DataSet:
    """The same to train on; 100 fresh looks to test on."""
    tree = folder / "test"
    if not tree.is_dir():
        make_clips(tree, **TEST)
    fresh = load_data(tree, split="none", frames=6, candidates=6, cache_dir=folder / "cache")
    return replace(data, test=replace(fresh.train, name="test"))


def run_clips(data: DataSet, seed: int, clips: Clips = CLIPS) -> list[Row]:
    """Train the ring and what comes of it, and judge them on the test part."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ring = trained_ring(data, place, seed, clips)
        more, small, fresh = (place / f"{name}.safetensors" for name in ("more", "small", "fresh"))
        tune = read_settings(clips.tune | {"seed": seed})
        finetune(ring, data, more, settings=tune, teacher=ring)
        runnable = runnable_classifier(open_model(ring), data, seed=seed)
        found = compress_and_train(
            runnable, data, small, target_bytes=clips.size, teacher=ring, settings=tune, seed=seed, **clips.how
        )
        if found.training is None:
            raise RuntimeError(f"clips: {found.whole.nbytes:,} bytes is the least that was reached")
        epochs = clips.ring["epochs"] + clips.tune["epochs"]
        scratch = clips.tune | clips.fresh | {"seed": seed, "epochs": epochs, "start": "scratch"}
        finetune(small, data, fresh, settings=read_settings(scratch), teacher=ring)
        files = {"ring": ring, "ring, the same extra training": more, "trcompress": small}
        return rows_of(data, files | {"fresh, the same form": fresh}, seed, found.whole.structure)


def trained_ring(data: DataSet, place: Path, seed: int, clips: Clips) -> Path:
    """Train the ring from random cores."""
    layer = TRLSTM(INPUTS, HIDDEN, shape=SHAPE, ranks=RANKS, batch_first=True)
    start = save(nn.ModuleDict({"rnn": layer, "fc": nn.Linear(HIDDEN, CLASSES)}), place / "cores.safetensors")
    settings = read_settings(clips.ring | {"seed": seed, "start": "scratch"})
    return finetune(start, data, place / "ring.safetensors", settings=settings).out


def rows_of(data: DataSet, files: dict[str, Path], seed: int, structure: str) -> list[Row]:
    """Measure every file on the test part; differences are to the ring that had the same extra training."""
    found = {what: 100 * evaluate(path, data).right for what, path in files.items()}
    base = found["ring, the same extra training"]
    return [
        {
            "what": what,
            "seed": seed,
            "bytes": path.stat().st_size,
            "metric": found[what],
            "change": found[what] - base,
            "dense_bytes": DENSE_BYTES,
            "structure": structure,
            "ms": latency(path, data),
        }
        for what, path in files.items()
    ]
