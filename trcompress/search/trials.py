"""Rings that were fitted to one weight, as far as they were, and what is remembered between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trcompress.decomposition import MatrixSource
from trcompress.decomposition.als import Fit, balance, run
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.source import PaddedMatrix
from trcompress.decomposition.spectrum import spectrum
from trcompress.decomposition.starts import adapted, with_noise
from trcompress.decomposition.threads import fitting_threads
from trcompress.decomposition.tr_svd import tr_svd
from trcompress.decomposition.weight import gate_sources
from trcompress.formats import TensorRing, as_ring
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.model.weight_plan import WeightPlan
from trcompress.util.progress import Progress

START_SWEEPS = 3
"""Sweeps that making a start is counted as."""
LARGEST_PART = 0.1
"""Part of all work that one fit may take."""
FIXED_WORK = 8e6
"""Multiply-adds that a sweep over a small matrix is counted as: the time of its many small steps."""


@dataclass
class Trial:
    """A ring that was fitted, as far as it was."""

    weight: WeightPlan
    rule: Rule
    error: float
    cores: list[Tensor] | None = None

    @property
    def parameters(self) -> int:
        """Values kept."""
        return self.weight.parameters


@dataclass
class Trials:
    """Rings tried on one weight.

    Args:
        matrix: the weight.
        dense: W (I, G*H), in memory or in a file.
        seed: of the noise in starts.
        work: multiply-adds after which no new ring is tried.
        progress: called with (what, fraction of the work).
    """

    matrix: Matrix
    dense: MatrixSource
    seed: int
    work: float
    progress: Progress
    found: dict[Rule, Trial] = field(default_factory=dict)
    _sources: dict[tuple[int, int], MatrixSource] = field(default_factory=dict)
    spent: float = 0.0

    def left(self, until: float = 1.0) -> bool:
        """Whether that share of the work is not used up yet."""
        return self.spent < until * self.work

    def source(self, weight: WeightPlan) -> MatrixSource:
        """The matrix, padded as this structure asks; kept, with all that was computed of it."""
        key = (weight.padded_input, weight.padded_hidden)
        if key not in self._sources:
            source = gate_sources(weight, self.dense)[0]
            shape = (weight.padded_input, source.shape[1])
            self._sources[key] = source if source.shape == shape else PaddedMatrix(source, shape)
        return self._sources[key]

    def _two_modes(self, rank: int) -> Rule:
        return Rule((self.matrix.columns,), (self.matrix.rows,), (1, rank))

    def svd(self, rank: int) -> Trial:
        """The two-mode ring of this rank, whose error needs no fit."""
        rule = self._two_modes(rank)
        weight = rule.resolve(self.matrix)
        source = self.source(weight)
        norm = source.squared_norm**0.5
        trial = Trial(weight, rule, spectrum(source).tail(rank) / norm if norm else 0.0)
        self.found.setdefault(rule, trial)
        return self.found[rule]

    def sweeps_left(self, rule: Rule, until: float = 1.0) -> int:
        """How many sweeps of this ring that share of the work still pays for, its start included."""
        weight = rule.resolve(self.matrix)
        ring = as_ring(weight.structure, "the planner searches tensor rings")
        return int((until * self.work - self.spent) / _sweep_work(self.source(weight), ring)) - START_SWEEPS

    def is_affordable(self, rule: Rule, sweeps: int) -> bool:
        """Whether a fit would take no more than its part of the work: one ring must not cost all the others."""
        weight = rule.resolve(self.matrix)
        ring = as_ring(weight.structure, "the planner searches tensor rings")
        return (sweeps + START_SWEEPS) * _sweep_work(self.source(weight), ring) <= LARGEST_PART * self.work

    def fit(self, rule: Rule, sweeps: int, start: Sequence[Tensor] | None = None) -> Trial:
        """Fit a ring with some ALS sweeps, from the given cores or from its SVD with a little noise."""
        weight = rule.resolve(self.matrix)
        ring = as_ring(weight.structure, "the planner searches tensor rings")
        objective = Objective(self.source(weight), ring)
        generator = torch.Generator().manual_seed(self.seed)
        with fitting_threads(objective.source):
            cores = (
                with_noise(tr_svd(objective)[0], generator) if start is None else adapted(start, ring, generator)
            )
            fit = run(objective, Fit(balance(cores), float("inf"), [], "search"), sweeps, tolerance=1e-4)
        self.spent += (len(fit.history) + START_SWEEPS) * _sweep_work(objective.source, ring)
        trial = Trial(weight, rule, objective.relative(fit.squared), fit.cores)
        if rule not in self.found or trial.error < self.found[rule].error:
            self.found[rule] = trial
        self.progress(f"{len(self.found)} rings tried", self.used())
        return self.found[rule]

    def used(self) -> float:
        """Share of the work that is used up."""
        return min(1.0, self.spent / max(1.0, self.work))


def _sweep_work(source: MatrixSource, ring: TensorRing) -> float:
    """Multiply-adds of one sweep: two products with W, the normal equations of every core, and many small steps."""
    solves = sum((left * right) ** 3 for left, _, right in ring.core_shapes)
    return 2.0 * source.shape[0] * source.shape[1] * ring.bottleneck + solves + FIXED_WORK
