"""The planner: what it tries, and that its choice is never worse than the SVD of the same count."""

import itertools
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import sample

from trcompress.checkpoint import read_checkpoint
from trcompress.decomposition import InMemoryMatrix, decompose
from trcompress.errors import UsageError
from trcompress.formats import TensorRing
from trcompress.layers.evaluation import operations_per_step
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, Rule
from trcompress.search import effort, search_network, search_weight, weight_search
from trcompress.search.goal import Goal
from trcompress.search.modes import factorizations, mode_choices
from trcompress.search.rank_profiles import clamp, neighbours, rings_within
from trcompress.search.weights import search_weights


@given(st.integers(2, 5000), st.integers(1, 5))
def test_factorizations_multiply_to_the_size_and_are_all_of_them(size, count):
    found = list(factorizations(size, count))
    assert len(set(found)) == len(found)
    for modes in found:
        assert prod(modes) == size
        assert list(modes) == sorted(modes, reverse=True)
        assert min(modes) >= 2
    if count == 2:
        assert len(found) == sum(1 for a in range(2, size) if size % a == 0 and a * a >= size)


@given(st.integers(1, 3000))
@settings(deadline=None)
def test_mode_choices_hold_the_size(size):
    choices = mode_choices(size)
    assert choices[0] == (size,)
    assert all(prod(modes) >= size for modes in choices)
    assert all(prod(modes) < 2 * size + 8 for modes in choices)


def test_a_size_of_few_units_has_mode_choices_whatever_their_number():
    """Three modes of 2 or more are far above 2 or 3: padding towards them never ended."""
    for size, most in itertools.product(range(1, 40), range(1, 6)):
        assert all(prod(modes) >= size for modes in mode_choices(size, keep=1, most=most))


@pytest.mark.parametrize("size", [241, 482, 57_601])
def test_awkward_primes_are_padded_to_balanced_modes(size):
    padded = [modes for modes in mode_choices(size) if len(modes) == 2]
    assert padded
    assert all(size <= prod(modes) <= 1.05 * size + 4 for modes in padded)
    assert max(padded[0]) <= 1.6 * size**0.5


@given(st.data())
def test_rings_keep_to_the_budget(data):
    modes = st.lists(st.integers(2, 9), min_size=1, max_size=3).map(tuple)
    in_modes, out_modes = data.draw(modes), data.draw(modes)
    budget, above = data.draw(st.integers(4, 500)), data.draw(st.integers(0, 5))
    rings = list(rings_within(in_modes, out_modes, budget, above))
    assert len({ring.ranks for ring in rings}) == len(rings)
    for ring in rings:
        assert ring.parameters <= budget
        assert ring.bottleneck > above
        assert clamp(in_modes, out_modes, ring.ranks) == ring
        assert all(next_door.parameters <= budget for next_door in neighbours(ring, budget))


def test_clamping_changes_nothing_that_a_ring_can_express():
    torch.manual_seed(0)
    wide = TensorRing((2, 3), (3, 2), (1, 7, 2, 9, 1))
    narrow = clamp((2, 3), (3, 2), wide.ranks)
    assert narrow.ranks == (1, 2, 2, 2, 1)
    dense = wide.to_dense([torch.randn(shape, dtype=torch.float64) for shape in wide.core_shapes])
    assert decompose(dense.T.contiguous(), narrow).error < 1e-8


def test_operations_count_the_cheapest_form():
    def cost(shape, ranks, inputs, hidden):
        (weight,) = Plan.of(shape, ranks).resolve([Matrix.input_to_hidden("w", "lstm", inputs, hidden)])
        return operations_per_step(weight)

    assert cost("256:1024", "8", 256, 256) == 64 * (256 + 1024)
    assert cost("64x32:32x64", "40,60,48,48", 2048, 2048) == 2048 * 8192  # wider than dense: dense counts
    # suffix 2..: (4, 14400) x (14400, 5*5), then (4*5) x 10*5, then 50 x 1024; columns are padded for speed
    least = 57600 * 25 + 4 * 5 * 50 + 50 * 1024
    assert least <= cost("4x2x5x8x6x5x3x2:4x4x2x4x2", "5,10", 57600, 256) <= 1.3 * least


def planted():
    torch.manual_seed(3)
    ring = TensorRing((6, 4), (12, 5), (3, 2, 3, 2, 3))
    return ring, ring.to_dense([torch.randn(shape, dtype=torch.float64) for shape in ring.core_shapes])


def test_a_planted_ring_beats_the_svd_of_its_count():
    ring, dense = planted()
    matrix = Matrix.input_to_hidden("w", "gru", 24, 20)
    found = search_weight(matrix, InMemoryMatrix(dense.T.contiguous()), budget=ring.parameters, work=40e9)
    assert found.chosen.error < 0.6 * found.svd_error
    assert found.chosen.weight.parameters <= ring.parameters
    assert found.chosen.bound <= found.chosen.error


def test_an_error_goal_takes_fewer_parameters_than_the_svd():
    _, dense = planted()
    matrix = Matrix.input_to_hidden("w", "gru", 24, 20)
    found = search_weight(matrix, InMemoryMatrix(dense.T.contiguous()), max_error=0.3, work=20e9)
    svd = torch.linalg.svdvals(dense)
    tail = (svd.square().flip(0).cumsum(0).flip(0) / svd.square().sum()).sqrt()
    rank = int((tail > 0.3).sum())
    assert found.chosen.error <= 0.3
    assert found.chosen.weight.parameters <= rank * (24 + 60)


def test_goals_that_make_no_sense_are_refused():
    matrix = Matrix.input_to_hidden("w", "gru", 24, 20)
    with pytest.raises(UsageError, match="one goal"):
        search_weight(matrix, InMemoryMatrix(torch.ones(60, 24)))
    with pytest.raises(UsageError, match=r"no ring .* fits into 5 parameters"):
        search_weight(matrix, InMemoryMatrix(torch.ones(60, 24)), budget=5)
    with pytest.raises(UsageError, match="no ring below the dense size"):
        search_weight(matrix, InMemoryMatrix(torch.randn(60, 24)), max_error=0.01, work=2e9)


RATIOS = (3, 6, 12, 25, 50)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("name", ["g2p/checkpoint20.npz", "silero_vad_16k.safetensors"])
def test_never_worse_than_svd_on_real_weights(name, ratio):
    checkpoint = read_checkpoint(sample(name))
    found = search_network(checkpoint, target_ratio=ratio, effort="low", per_weight=True)
    for one, layer in zip(found.weights, checkpoint.layers, strict=True):
        matrix = layer.matrix("ih")
        weight = checkpoint.tensor(matrix.key).double()
        rank = int(matrix.parameters / ratio) // (matrix.columns + matrix.rows)
        values = torch.linalg.svdvals(weight)
        svd = float(values[rank:].norm() / values.norm())
        assert one.chosen.error <= svd + 1e-9
        assert one.chosen.weight.compression_ratio >= ratio


def test_rows_carry_rules_that_resolve_to_them():
    _, dense = planted()
    matrix = Matrix.input_to_hidden("w", "gru", 24, 20)
    found = search_weight(matrix, InMemoryMatrix(dense.T.contiguous()), budget=400, work=10e9)
    for row in found.rows:
        assert Rule.resolve(row.rule, matrix) == row.weight
        assert Rule.of(row.weight).resolve(matrix).structure == row.weight.structure


def test_weights_of_equal_sizes_share_their_search(monkeypatch):
    monkeypatch.setattr(effort, "LEAST_WORK", 1e9)
    monkeypatch.setitem(effort.EFFORTS, "low", effort.Effort(work=2e9, passes=1, rings=1))
    spent, known = {}, weight_search.Trials.fit

    def counted(trials, rule, *rest):
        spent.setdefault(trials.matrix.key, []).append(rule)
        return known(trials, rule, *rest)

    monkeypatch.setattr(weight_search.Trials, "fit", counted)
    ring, dense = planted()
    keys = [f"block.{k}.weight_ih_l0" for k in range(6)]
    weights = [
        (Matrix.input_to_hidden(key, "gru", 24, 20), InMemoryMatrix((dense * (1 + k)).T.contiguous()))
        for k, key in enumerate(keys)
    ]
    goal = Goal(len(keys) * ring.parameters, None, per_weight=True)
    found = search_weights(weights, goal, effort="low").weights
    assert len(spent[keys[0]]) > 10
    best = min((row for row in found[0].rows if not row.is_svd), key=lambda row: row.error).rule
    for key, one in zip(keys[1:], found[1:], strict=True):
        assert spent[key][0] == best
        assert len({(rule.in_modes, rule.out_modes) for rule in spent[key]}) <= 2
        assert len(spent[key]) < len(spent[keys[0]]) / 2
        assert one.chosen.error <= found[0].chosen.error + 0.02
        assert one.chosen.error < one.svd_error
