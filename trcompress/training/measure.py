"""Running a network over a part of the data and counting its answers."""

from __future__ import annotations

from math import isfinite

import torch
from torch import nn

from trcompress.data import Split
from trcompress.errors import InputFileError
from trcompress.training.batches import ordered_requests, read_batches
from trcompress.training.distributed import Team
from trcompress.training.tally import ErrorTally, Figures, Tally
from trcompress.training.tasks import Task
from trcompress.training.teacher import Teacher


@torch.no_grad()
def measure_split(
    module: nn.Module,
    split: Split,
    team: Team,
    *,
    classes: int,
    batch_size: int,
    teacher: Teacher | None = None,
    kind: str = "classification",
) -> Figures:
    """Measure a network on a split, each process its part of every batch.

    Args:
        module: called with (x, lengths) and other inputs by name; left in eval mode.
        split: the sequences; clips are sampled evenly.
        team: the processes.
        classes: number of classes, or of outputs.
        batch_size: sequences per batch, all processes together.
        teacher: to compare answers with.
        kind: of the task, see `Task`.

    Raises:
        InputFileError: the network's scores are not finite.
    """
    module.eval()
    task = Task(kind, classes)
    tally = Tally(classes, team.device) if task.has_classes else ErrorTally(classes, team.device)
    for batch in read_batches(split, ordered_requests(split, batch_size), team):
        logits = module(batch.x, batch.lengths, **batch.more)
        task.check(logits, batch)
        scores, truth, mask = task.rows(logits, batch)
        tally.add(scores, truth, mask, None if teacher is None else task.rows(teacher.look(batch).logits, batch)[0])
    figures = tally.result(team)
    if not isfinite(figures.loss):
        raise InputFileError(f"the network's scores on {split.name} must be finite: their loss is {figures.loss}")
    return figures
