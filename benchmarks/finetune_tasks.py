"""What benchmarks/finetune.py trains: data, networks, settings, and what takes the dense weight's place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Structure:
    """What takes the place of the dense weight.

    Args:
        name: in tables.
        shape: as `--shape`.
        ranks: as `--ranks`.
    """

    name: str
    shape: str
    ranks: str

    @property
    def label(self) -> str:
        """Name, shape and ranks."""
        return f"{self.name} {self.shape} ranks {self.ranks}"

    @property
    def init(self) -> str:
        """SVD is the best two-mode ring; others are found by ALS."""
        return "tr-svd" if self.name.startswith("SVD") else "tr-als"


@dataclass(frozen=True)
class Goal:
    """What a ring is expected to reach, as medians over seeds.

    Args:
        ring: its name in tables.
        least: accuracy.
        below_dense: it may lose this much against the dense network.
        rival: another structure's name, to be beaten by `lead`.
        lead: by so much.
    """

    ring: str
    least: float | None = None
    below_dense: float | None = None
    rival: str = ""
    lead: float = 0.05


@dataclass(frozen=True)
class Task:
    """One data set with its network.

    Args:
        sample: file of the data.
        options: how it is read and divided.
        hidden: units of the dense LSTM.
        readout: what the linear head sees of its outputs.
        dense: settings of its training.
        tune: settings of fine-tuning, the same for every structure.
        structures: in tables, in order.
        goals: what is judged at the end.
        candidates: what benchmarks/finetune_choose.py compares; "dense", "tune" or "structure", name, changes.
    """

    name: str
    sample: str
    options: dict[str, Any]
    hidden: int
    readout: str
    dense: dict[str, Any]
    tune: dict[str, Any]
    structures: tuple[Structure, ...]
    goals: tuple[Goal, ...] = ()
    candidates: tuple[tuple[str, str, dict[str, Any]], ...] = ()


HAPT = Task(
    name="HAPT",
    sample="hapt_windows.npz",
    options={"steps": 8, "standardize": True, "group_key": "subject", "test_groups": (2, 4, 9, 10, 12, 13)},
    hidden=128,
    readout="final",
    dense={"epochs": 6, "batch_size": 64, "lr": 1e-3},
    tune={"epochs": 8, "batch_size": 64, "lr": 5e-3, "core_lr_scale": 1.0, "dropout": 0.5, "input_dropout": 0.2},
    structures=(
        Structure("ring", "16x6:32x16", "4"),
        Structure("SVD", "96:512", "1,2"),
        Structure("ring", "12x8:32x16", "3"),
        Structure("SVD", "96:512", "1"),
    ),
    goals=(
        Goal("ring 16x6:32x16 ranks 4", below_dense=0.005, rival="SVD 96:512 ranks 1,2"),
        Goal("ring 12x8:32x16 ranks 3", least=0.88, rival="SVD 96:512 ranks 1"),
    ),
    candidates=(
        ("tune", "as chosen", {}),
        ("tune", "no dropout", {"dropout": 0.0, "input_dropout": 0.0}),
        ("tune", "dropout 0.5, smoothing 0.1", {"input_dropout": 0.0, "label_smoothing": 0.1}),
        ("tune", "no dropout, lr 1.5e-3", {"lr": 1.5e-3, "dropout": 0.0, "input_dropout": 0.0}),
        ("tune", "lr 3e-3", {"lr": 3e-3}),
        ("tune", "lr 3e-3, 16 epochs", {"lr": 3e-3, "epochs": 16}),
        ("structure", "78x: 16x6:32x16 ranks 3", {"shape": "16x6:32x16", "ranks": "3"}),
        ("structure", "80x: 12x8:32x16 ranks 3", {"shape": "12x8:32x16", "ranks": "3"}),
    ),
)
REGULARISED = {"dropout": 0.5, "input_dropout": 0.4, "label_smoothing": 0.1}
HAPT_MEAN = replace(
    HAPT,
    name="HAPT-mean",
    readout="mean",
    dense={"epochs": 8, "batch_size": 64, "lr": 2e-3, **REGULARISED},
    candidates=(
        ("dense", "as chosen", {}),
        ("dense", "input dropout 0.2", {"input_dropout": 0.2}),
        ("tune", "as chosen", {}),
        ("tune", "input dropout 0.4", {"input_dropout": 0.4}),
    ),
)
"""The dense network that cross-validation prefers: a mean of all states for the head, and much dropout."""
FLARE = Task(
    name="Flare",
    sample="flare_40x30.npz",
    options={"group_key": "outfit", "split": "group", "test_fraction": 0.2, "center": True},
    hidden=64,
    readout="final",
    dense={"epochs": 16, "batch_size": 32, "lr": 2e-3, "dropout": 0.3},
    tune={"epochs": 16, "batch_size": 32, "lr": 1e-2, "dropout": 0.3},
    structures=(
        Structure("ring", "30x40x3:8x8", "5"),
        Structure("ring", "30x40x3:16x4", "3,5"),
        Structure("ring", "30x40x3:8x8", "3"),
        Structure("ring", "30x40x3:8x8", "2"),
    ),
    goals=(Goal("ring 30x40x3:16x4 ranks 3,5", below_dense=0.0), Goal("ring 30x40x3:8x8 ranks 3", below_dense=0.0)),
    candidates=(
        ("dense", "lr 5e-4", {"lr": 5e-4}),
        ("dense", "lr 1e-3", {"lr": 1e-3}),
        ("dense", "dropout 0.5", {"dropout": 0.5}),
        ("tune", "lr 2e-3", {"lr": 2e-3}),
        ("tune", "lr 5e-3", {"lr": 5e-3}),
        ("tune", "lr 1e-2", {}),
    ),
)
TASKS = {task.name.lower(): task for task in (HAPT, HAPT_MEAN, FLARE)}
