"""Sensor networks: a three-layer stack on raw steps under one budget, and a wide one at 40x."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from measured_call import measured
from samples import find_sample
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import trcompress
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, Rule
from trcompress.passes.budgeted import live_weights
from trcompress.search.allocation import equal_ranks

TEST_PEOPLE = (2, 4, 9, 10, 12, 13)
CALIBRATED_ON = 1024
"""Windows of the training people that calibration sees."""


class Classifier(nn.Module):
    """An LSTM and a linear layer over its last step."""

    def __init__(self, inputs: int, layers: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(inputs, 128, layers, batch_first=True), nn.Linear(128, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Score windows (B, T, I) -> (B, 6)."""
        return self.head(self.rnn(x)[0][:, -1])


def run_stack(given: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Three layers on raw steps at 3x and 5x: equal ranks, first layer dense, one budget, with data."""
    parts = _sensors(folded=False)
    if parts is None:
        return None
    dense, rows = _trained(Classifier(6, 3), parts, epochs=5), []
    rows.append({"way": "dense", "accuracy": _accuracy(dense, parts)})
    for ratio in (3, 5):
        for way, options in (
            ("equal ranks, none dense", {"plan": _equal(dense, ratio, dense_first=False)}),
            ("first layer dense", {"plan": _equal(dense, ratio, dense_first=True)}),
            ("one budget", {"target_ratio": ratio}),
        ):
            rows.append({"ratio": ratio, "way": way, **_compressed(dense, parts, options)})
        for draw in (int(one) for one in given.draws.split(",")):
            options = {"target_ratio": ratio, "calibrate": _loader(parts, draw), "outputs": "scores"}
            found = _compressed(dense, parts, options)
            rows.append({"ratio": ratio, "way": "one budget, data", "draw": draw, **found})
    return rows


def run_windows(given: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Eight steps of 96 values at 40x: the truncated SVD and the calibrated search."""
    parts = _sensors(folded=True)
    if parts is None:
        return None
    dense = _trained(Classifier(96, 1), parts, epochs=6)
    rows = [{"way": "dense", "accuracy": _accuracy(dense, parts)}]
    rows.append({"ratio": 40, "way": "SVD", **_compressed(dense, parts, {"plan": Plan.of("96:512", "1,2")})})
    for draw in (int(one) for one in given.draws.split(",")):
        options = {"target_ratio": 40, "calibrate": _loader(parts, draw), "outputs": "scores"}
        rows.append({"ratio": 40, "way": "calibrated", "draw": draw, **_compressed(dense, parts, options)})
    return rows


def _sensors(folded: bool) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
    """Training and test windows and labels, z-scored on the training people."""
    sample = find_sample("hapt_windows.npz")
    if sample is None:
        return None
    with np.load(sample, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    x = arrays["x"].astype(np.float32)
    test = np.isin(arrays["subject"], TEST_PEOPLE)
    x = (x - x[~test].mean((0, 1))) / x[~test].std((0, 1))
    x = x.reshape(len(x), 8, -1) if folded else x
    y = np.unique(arrays["y"], return_inverse=True)[1]
    train, held = np.flatnonzero(~test), np.flatnonzero(test)
    return tuple(torch.from_numpy(one) for one in (x[train], y[train], x[held], y[held]))  # type: ignore[return-value]


def _trained(model: nn.Module, parts: tuple[Tensor, ...], epochs: int) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -(128**-0.5), 128**-0.5)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    batches = DataLoader(TensorDataset(parts[0], parts[1]), 128, shuffle=True)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def _loader(parts: tuple[Tensor, ...], draw: int) -> Iterable[Any]:
    chosen = torch.randperm(len(parts[0]), generator=torch.Generator().manual_seed(draw))[:CALIBRATED_ON]
    return DataLoader(TensorDataset(parts[0][chosen], parts[1][chosen]), 64)


def _equal(model: nn.Module, ratio: int, dense_first: bool) -> Plan:
    """The largest rank that fits for all weights alike, or for all but a first layer that stays dense."""
    matrices: list[Matrix] = [matrix for matrix, _ in live_weights(model)]
    budget = sum(matrix.parameters for matrix in matrices) // ratio
    if dense_first:
        budget, matrices = budget - matrices[0].parameters, matrices[1:]
        ranks: dict[str, int | None] = equal_ranks(matrices, budget)
    else:
        rank = budget // sum(matrix.rows + matrix.columns for matrix in matrices)
        ranks = {matrix.key: min(rank, matrix.columns) for matrix in matrices}
    return Plan(
        tuple(
            Rule((matrix.columns,), (matrix.rows,), (1, ranks[matrix.key] or 1), layer=matrix.key)
            for matrix in matrices
            if ranks[matrix.key]
        )
    )


def _compressed(dense: nn.Module, parts: tuple[Tensor, ...], options: dict[str, Any]) -> dict[str, Any]:
    model = copy.deepcopy(dense)
    result, cost = measured(lambda: trcompress.compress_(model, **options))
    ranks = {row.key: row.form.split()[-1] for row in result.rows}
    return {"accuracy": _accuracy(model, parts), "ranks": ranks, **cost}


@torch.no_grad()
def _accuracy(model: nn.Module, parts: tuple[Tensor, ...]) -> float:
    """Accuracy on the test people, in percent."""
    said = torch.cat([model(x).argmax(1) for x in parts[2].split(256)])
    return 100 * float((said == parts[3]).float().mean())
