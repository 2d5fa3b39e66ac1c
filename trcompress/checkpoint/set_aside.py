"""The one rule of what a file holds that is not the model. All else is the model, and arrives in the artifact.

1. Training state: a dict with `state` and `param_groups`, and whatever lies under a key that trainers use for
   optimizers, schedulers, random generators, hyper-parameters, callbacks and records.
2. Copies: a group with the very names and shapes of the model, under a key that says average, version or teacher.
3. Counters: a tensor of one value beside the model's own dict that counts (whole numbers) or says so by its name.
4. Objects: what lies inside a Python object (a normalizer, a configuration) that is no module and does not hold the
   model.

A second dict of weights (`generator`, `criterion`, `discriminator`) is none of these and is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from trcompress.checkpoint.statedicts import StateDict
from trcompress.checkpoint.stored import AnyTensor, UnreadableTensor

_VERSIONS = (
    "best", "final", "last", "latest", "current", "previous", "prev", "initial", "init", "old", "backup",
    "teacher", "target", "ema", "avg", "averaged", "swa",
)  # fmt: skip
_AVERAGED = re.compile(r"(^|_)(ema|avg|averaged?|swa|shadow|polyak)(_|$)", re.IGNORECASE)
_TRAINING = re.compile(
    r"optim(izer|_|s?$)|scheduler|grad_?scaler|(^|_)(sched|rng|opt)(_|$)"
    r"|^(hyper_?parameters|hparams|callbacks|loops|args|config|cfg|history|metrics|losses)$",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"(^|_)(n|num|step|epoch|iter\w*|count\w*|loss|best|acc\w*|lr|time|score|seed)(_|s$|$)", re.I)


def version_rank(name: str) -> int:
    """0 for a name that tells no version of a model; else the smaller, the better (`best_model` before `last`)."""
    words = name.lower().split("_")
    return min((_VERSIONS.index(word) + 1 for word in words if word in _VERSIONS), default=0)


def is_averaged(path: Sequence[str]) -> bool:
    """Return True where a path names a running average of a model's weights (EMA, SWA)."""
    return any(_AVERAGED.search(part) for part in path)


def is_training_state(path: Sequence[str]) -> bool:
    """Return True where a path names the state or the record of a training run."""
    return any(_TRAINING.search(part) for part in path)


def is_counter(name: str, tensor: AnyTensor | UnreadableTensor) -> bool:
    """Return True where a tensor beside the model is a count or a measured number."""
    if isinstance(tensor, UnreadableTensor) or tensor.numel > 1:
        return False
    whole = not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
    return whole or _COUNTS.search(name.rpartition(".")[2]) is not None


def outline(groups: Sequence[StateDict], depth: int) -> frozenset[tuple[object, ...]]:
    """Names and shapes of some groups from a depth on: equal for two copies of one model."""
    return frozenset(
        (*group.path[depth:], name, None if isinstance(tensor, UnreadableTensor) else tensor.shape)
        for group in groups
        for name, tensor in group.tensors.items()
    )
