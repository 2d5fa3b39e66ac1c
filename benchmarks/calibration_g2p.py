"""The pretrained pronouncing network under the real command, for several draws of the calibration words."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from g2p import Words, decode, decoder_inputs
from measured_call import measured
from samples import find_sample
from torch import Tensor

import trcompress
from trcompress.artifact.file import Artifact
from trcompress.checkpoint import read_checkpoint
from trcompress.model.plan import Plan

CALIBRATED_ON = 1000
"""Words that calibration sees."""


def run_g2p(given: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Compress at every ratio and for every draw: plain SVD, calibrated, refined; medians last."""
    sample = find_sample("g2p")
    if sample is None:
        return None
    checkpoint, words = sample / "checkpoint20.npz", Words(sample)
    tensors = dict(read_checkpoint(checkpoint).tensors())
    rows = []
    for ratio in (int(one) for one in given.ratios.split(",")):
        for draw in (int(one) for one in given.draws.split(",")):
            rows += _draw(words, tensors, checkpoint, ratio, draw, given.refine)
    return [*rows, *_medians(rows)]


def _draw(
    words: Words, tensors: Mapping[str, Tensor], checkpoint: Path, ratio: int, draw: int, refine: int
) -> list[dict[str, Any]]:
    order = np.random.default_rng(draw).permutation(list(words.accepted)).tolist()
    seen, unseen = order[:CALIBRATED_ON], order[CALIBRATED_ON:]
    rank = 256 * 768 // (ratio * (256 + 768))
    plain = trcompress.decompose(checkpoint, Plan.of("256:768", f"1,{rank}"), init="tr-svd")
    base = {"ratio": ratio, "draw": draw}
    rows = [{**base, "way": "SVD", "PER_unseen": _rate(words, unseen, tensors, plain)}]
    with tempfile.TemporaryDirectory() as folder:
        data = _write_words(words, seen, tensors, Path(folder) / "words.npz")
        for steps in dict.fromkeys((0, refine)):
            artifact, cost = measured(
                lambda data=data, steps=steps: trcompress.decompose(
                    checkpoint, target_ratio=ratio, calibrate=data, refine=steps
                )
            )
            ranks = [list(weight.ranks) for weight in artifact.header.weights]
            rate = _rate(words, unseen, tensors, artifact)
            way = f"refined, {steps} steps" if steps else "calibrated"
            rows.append({**base, "way": way, "PER_unseen": rate, "ranks": ranks, **cost})
    return rows


def _write_words(words: Words, chosen: Sequence[str], tensors: Mapping[str, Tensor], path: Path) -> Path:
    """What encoder and decoder are fed for some words, as the dense network says them."""
    letters, lengths = words.tokens(chosen)
    symbols, ends = decoder_inputs(decode(tensors, letters, lengths))
    np.savez(path, enc=letters, length_enc=lengths, dec=symbols, length_dec=ends, state_dec=np.array("enc"))
    return path


def _rate(words: Words, chosen: Sequence[str], tensors: Mapping[str, Tensor], artifact: Artifact) -> float:
    """Phoneme error rate in percent with compressed weights multiplied out."""
    found = {key: artifact.tensors.get(key, tensor) for key, tensor in tensors.items()}
    for name, plan in artifact.weight_plans().items():
        cores = [artifact.tensors[f"{name}.core.{k}"].double() for k in range(len(plan.core_shapes))]
        found[name] = plan.to_dense(cores).float()
    return words.error_rate(chosen, decode(found, *words.tokens(chosen)))


def _medians(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row["ratio"], row["way"]), []).append(row["PER_unseen"])
    return [
        {"ratio": ratio, "draw": "median", "way": way, "PER_unseen": median(rates)}
        for (ratio, way), rates in groups.items()
    ]
