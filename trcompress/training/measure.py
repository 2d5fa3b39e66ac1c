"""Running a network over a part of the data and counting its answers."""

from __future__ import annotations

from math import isfinite

import torch
from torch import nn

from trcompress.data import Split
from trcompress.errors import InputFileError
from trcompress.training.batches import ordered_requests, read_batches
from trcompress.training.distributed import Team
from trcompress.training.tally import Figures, Tally
from trcompress.training.teacher import Teacher


@torch.no_grad()
def measure(
    module: nn.Module, split: Split, team: Team, *, classes: int, batch_size: int, teacher: Teacher | None = None
) -> Figures:
    """Measure a network on a split, each process its part of every batch.

    Args:
        module: called with (x, lengths); left in eval mode.
        split: the sequences; clips are sampled evenly.
        team: the processes.
        classes: number of classes.
        batch_size: sequences per batch, all processes together.
        teacher: to compare answers with.

    Raises:
        InputFileError: the network's scores are not finite.
    """
    module.eval()
    tally = Tally(classes, team.device)
    for batch in read_batches(split, ordered_requests(split, batch_size), team):
        logits = module(batch.x, batch.lengths)
        if logits.shape != (len(batch.y), classes):
            raise InputFileError(
                f"the network must give one score per class: got {tuple(logits.shape)} for {len(batch.y)} "
                f"sequences of {classes} classes"
            )
        tally.add(logits, batch.y, batch.mask, None if teacher is None else teacher.look(batch).logits)
    figures = tally.result(team)
    if not isfinite(figures.loss):
        raise InputFileError(f"the network's scores on {split.name} must be finite: their loss is {figures.loss}")
    return figures
