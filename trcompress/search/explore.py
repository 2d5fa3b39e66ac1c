"""Which rings are tried within a budget, and in which order: a first look at many, a longer one at the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, permutations, product

from trcompress.formats import TensorRing, as_ring
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Rule
from trcompress.search.modes import mode_choices
from trcompress.search.rank_profiles import neighbours, rings_within
from trcompress.search.trials import Trial, Trials

QUICK, LONGER, LAST = 4, 40, 8
"""ALS sweeps of a first look, of a promising ring, and of one moved rank."""
AGAIN = 2
"""Rings of another weight of the same sizes that are tried again."""


def explore(trials: Trials, budget: int, until: float) -> None:
    """Try rings of this budget: a first look at many, a longer one at the best, then single ranks."""
    matrix, rank = trials.matrix, _truncated_svds(trials, budget)
    start = trials.used()
    for rule in _first_looks(matrix, budget, above=rank):
        if not trials.left(start + 0.5 * (until - start)):
            break
        if trials.is_affordable(rule, QUICK):
            trials.fit(rule, QUICK)
    for rule in _other_orders(_best(trials, budget, 4)):
        if not trials.left(start + 0.65 * (until - start)):
            break
        if rule.resolve(matrix).parameters <= budget and trials.is_affordable(rule, QUICK):
            trials.fit(rule, QUICK)
    for trial in _best(trials, budget, 6):
        if trials.left(start + 0.8 * (until - start)):
            trials.fit(trial.rule, LONGER, trial.cores)
    for trial in _best(trials, budget, 2):
        _move_ranks(trials, trial, budget, until)


def try_again(trials: Trials, known: Sequence[Rule], budget: int, until: float) -> None:
    """Try rings of this budget that were best for another weight of the same sizes, and no others."""
    rank = _truncated_svds(trials, budget)
    for rule in known[:AGAIN]:
        if (fitting := _with_budget(trials.matrix, rule, budget, rank)) and trials.left(until):
            trials.fit(fitting, QUICK)
    for trial in _best(trials, budget, 1):
        sweeps = min(LONGER, trials.sweeps_left(trial.rule, until))
        if sweeps > 0:
            _move_ranks(trials, trials.fit(trial.rule, sweeps, trial.cores), budget, until)


def _truncated_svds(trials: Trials, budget: int) -> int:
    """Add the truncated SVDs of the budget and of shares of it; return the largest rank."""
    matrix = trials.matrix
    rank = min(budget // (matrix.columns + matrix.rows), min(matrix.columns, matrix.rows))
    for share in (1, 2, 4):
        if rank // share:
            trials.svd(rank // share)
    return rank


def _with_budget(matrix: Matrix, rule: Rule, budget: int, above: int) -> Rule | None:
    """The rule itself where it spends the budget, or the ring of its modes that does with a bottleneck as wide."""
    known = rule.resolve(matrix)
    if 0.8 * budget < known.parameters <= budget:
        return rule
    width = as_ring(known.structure, "the planner searches tensor rings").bottleneck * budget / known.parameters
    rings = _rings(matrix, rule.in_modes, rule.out_modes, budget, above)
    nearest = min(rings, key=lambda ring: abs(ring.bottleneck - width), default=None)
    return None if nearest is None else Rule(rule.in_modes, rule.out_modes, nearest.ranks[:-1])


def _first_looks(matrix: Matrix, budget: int, above: int) -> Iterator[Rule]:
    """Rings worth a look: few modes first, and three ways to spend the budget before all the others."""
    shapes = sorted(_shapes(matrix), key=lambda shape: len(shape[0]) + len(shape[1]))
    families = [list(_rules(matrix, *shape, budget, above)) for shape in shapes]
    for rules in families:
        yield from (rules[k] for k in sorted({0, len(rules) // 2, len(rules) - 1}) if rules)
    for rules in families:
        middle = {0, len(rules) // 2, len(rules) - 1}
        yield from (rule for k, rule in enumerate(rules) if k not in middle)


def _other_orders(trials: list[Trial]) -> Iterator[Rule]:
    """The same rings with their modes in other orders, on either side."""
    for trial in trials:
        rule = trial.rule
        orders = product(islice(permutations(rule.in_modes), 6), islice(permutations(rule.out_modes), 6))
        for in_modes, out_modes in dict.fromkeys(orders):
            if (in_modes, out_modes) != (rule.in_modes, rule.out_modes):
                yield replace(rule, in_modes=in_modes, out_modes=out_modes)


def _shapes(matrix: Matrix) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Input and output modes, the latter for the hidden size (the rule folds the gates into the first)."""
    for in_modes in mode_choices(matrix.columns):
        for out_modes in mode_choices(matrix.gate_rows):
            if len(in_modes) + len(out_modes) > 2:
                yield in_modes, out_modes


def _rules(
    matrix: Matrix, in_modes: tuple[int, ...], out_modes: tuple[int, ...], budget: int, above: int
) -> Iterator[Rule]:
    for ring in _rings(matrix, in_modes, out_modes, budget, above):
        yield Rule(in_modes, out_modes, ring.ranks[:-1])


def _rings(
    matrix: Matrix, in_modes: tuple[int, ...], out_modes: tuple[int, ...], budget: int, above: int
) -> Iterator[TensorRing]:
    folded = Rule(in_modes, out_modes, (1,)).resolve(matrix).structure.out_modes
    return rings_within(in_modes, folded, budget, above)


def _best(trials: Trials, budget: int, count: int) -> list[Trial]:
    fitted = [trial for trial in trials.found.values() if trial.cores is not None and trial.parameters <= budget]
    return sorted(fitted, key=lambda trial: trial.error)[:count]


def _move_ranks(trials: Trials, trial: Trial, budget: int, until: float) -> None:
    """Move single ranks as long as that lowers the error and work is left."""
    improved = True
    while improved and trials.left(until):
        improved = False
        for ring in neighbours(trial.weight.structure, budget):  # type: ignore[arg-type]
            if not trials.left(until):
                break
            moved = trials.fit(replace(trial.rule, ranks=ring.ranks[:-1]), LAST, trial.cores)
            if moved.error < trial.error * (1 - 1e-4):
                trial, improved = moved, True
                break
