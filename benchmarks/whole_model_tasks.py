"""What benchmarks/whole_model_trained.py makes small: data, networks, settings, chosen on the training part alone.

`python benchmarks/whole_model_choose.py` compares all candidates on groups of the training part. Flare's last
training has its settings by analogy to the one before it.
"""

from __future__ import annotations

from typing import Any

from finetune_tasks import FLARE as FLARE_TASK
from finetune_tasks import HAPT_MEAN
from whole_model_trained import Ring, Trained

HAPT = Trained(
    name="hapt",
    base=HAPT_MEAN,
    ratio=60,
    tune={"epochs": 12, "batch_size": 64, "lr": 2e-3, "dropout": 0.5, "input_dropout": 0.2},
    fresh={"dropout": 0.1, "input_dropout": 0.0},
)
"""The dense network that benchmarks/finetune_choose.py prefers: the head sees a mean of states; much dropout."""
FLARE = Trained(
    name="flare",
    base=FLARE_TASK,
    ratio=100,
    ring=Ring("30x40x3:8x8", "5", FLARE_TASK.tune),
    tune={"epochs": 8, "batch_size": 32, "lr": 2e-3, "dropout": 0.3},
    fresh={"lr": FLARE_TASK.tune["lr"]},
)
TASKS = {task.name: task for task in (HAPT, FLARE)}
CANDIDATES: dict[str, dict[str, dict[str, Any]]] = {
    "hapt": {
        "as chosen": {},
        "little dropout": {"tune": {"epochs": 12, "batch_size": 64, "lr": 2e-3}, "fresh": {}},
        "little dropout, half as long": {"tune": {"epochs": 6, "batch_size": 64, "lr": 2e-3}, "fresh": {}},
        "much dropout for fresh too": {"fresh": {}},
    },
    "flare": {
        "as chosen": {},
        "ranks 10": {"ring": Ring("30x40x3:8x8", "10", FLARE_TASK.tune)},
    },
}
"""What was compared: changes of a task, by name."""
