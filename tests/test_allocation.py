"""One budget over all weights: equal ranks, dense at the break-even, and the least sum of errors near them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import trcompress
from trcompress.calibration.share import break_even_rank, cost
from trcompress.decomposition import InMemoryMatrix
from trcompress.errors import UsageError
from trcompress.model.matrix import Matrix
from trcompress.search.allocation import (
    allocate,
    equal_ranks,
    first_layer_warnings,
    largest_equal_rank,
    relative_errors,
)
from trcompress.search.goal import Goal
from trcompress.search.weights import search_weights


def weights_of(*sizes, hidden=16):
    """LSTM weights of these input sizes, layer by layer."""
    torch.manual_seed(sum(sizes))
    return [
        (
            Matrix.input_to_hidden(f"rnn.weight_ih_l{place}", "lstm", size, hidden, "rnn", place),
            InMemoryMatrix(torch.randn(4 * hidden, size)),
        )
        for place, size in enumerate(sizes)
    ]


def sum_of_errors(weights, ranks):
    """What the rule keeps small: ||W - W_r|| / ||W||, over all weights."""
    errors = {matrix.key: relative_errors(source) for matrix, source in weights}
    return sum(float(errors[key][rank]) for key, rank in ranks.items() if rank is not None)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=4), st.floats(1.05, 12))
def test_the_rule_keeps_to_its_budget_and_its_window(sizes, ratio):
    weights = weights_of(*sizes)
    matrices = [matrix for matrix, _ in weights]
    budget = int(sum(matrix.parameters for matrix in matrices) / ratio)
    if budget < sum(min(cost(matrix, 1), matrix.parameters) for matrix in matrices):
        with pytest.raises(UsageError, match="do not allow rank 1"):
            allocate(weights, budget)
        return
    rank, ranks = largest_equal_rank(matrices, budget), allocate(weights, budget)
    assert sum(cost(matrix, ranks[matrix.key]) for matrix in matrices) <= budget
    for matrix in matrices:
        found = ranks[matrix.key]
        if found is None:
            assert break_even_rank(matrix) <= 1.5 * rank
        else:
            assert min(rank / 1.5, break_even_rank(matrix) - 1) <= found <= 1.5 * rank
            assert found < break_even_rank(matrix)
    assert sum_of_errors(weights, ranks) <= sum_of_errors(weights, equal_ranks(matrices, budget)) + 1e-9


def planted(key, hidden, errors):
    """An LSTM weight of 17 inputs whose truncated SVDs have these relative errors, in order of their ranks."""
    squares = torch.tensor([*errors, 0.0]).square()
    values = (squares[:-1] - squares[1:]).sqrt()
    weight = torch.zeros(4 * hidden, 17)
    weight[: len(values), : len(values)] = torch.diag(values)
    return Matrix.input_to_hidden(key, "lstm", 17, hidden), InMemoryMatrix(weight)


def test_the_rule_is_no_worse_than_equal_ranks_where_steepest_steps_would_be():
    weights = [planted("a", 75, [1, 0.9, 0.8, 0.4, 0.39, 0.3]), planted("b", 16, [1, 0.8, 0.6, 0.45, 0.35, 0.3])]
    matrices = [matrix for matrix, _ in weights]
    budget = 3 * sum(cost(matrix, 1) for matrix in matrices)
    assert equal_ranks(matrices, budget) == {"a": 3, "b": 3}
    assert allocate(weights, budget) == {"a": 3, "b": 3}, "the cheap steps of b to rank 4 would keep a at 2"


def test_the_largest_equal_rank_is_the_largest():
    matrices = [matrix for matrix, _ in weights_of(6, 40, 30)]
    budget = 3000
    rank = largest_equal_rank(matrices, budget)

    def whole(rank):
        return sum(min(cost(matrix, rank), matrix.parameters) for matrix in matrices)

    assert whole(rank) <= budget < whole(rank + 1)


def test_a_narrow_first_layer_stays_dense_where_equal_ratios_would_ruin_it():
    weights = weights_of(6, 64, 64, hidden=64)
    matrices = [matrix for matrix, _ in weights]
    budget = int(sum(matrix.parameters for matrix in matrices) / 3)
    assert equal_ranks(matrices, budget)["rnn.weight_ih_l0"] is None
    assert allocate(weights, budget)["rnn.weight_ih_l0"] is None
    found = search_weights(weights, Goal(budget, None), effort="low")
    assert [matrix.key for matrix in found.dense] == ["rnn.weight_ih_l0"]
    assert any("dense: rnn.weight_ih_l0" in note for note in found.notes)
    kept = matrices[0].parameters + sum(one.chosen.weight.parameters for one in found.weights)
    assert kept <= budget
    each = search_weights(weights, Goal(budget, None, per_weight=True), effort="low")
    assert [one.matrix.key for one in each.weights] == [matrix.key for matrix in matrices]
    assert all(one.chosen.weight.compression_ratio >= 3 for one in each.weights)


def test_relative_errors_are_those_of_truncated_svds():
    ((_, source),) = weights_of(12)
    u, s, vh = torch.linalg.svd(source.dense(), full_matrices=False)
    errors = relative_errors(source)
    for rank in (0, 5, 12):
        rest = source.dense() - (u[:, :rank] * s[:rank]) @ vh[:rank]
        assert float(errors[rank]) == pytest.approx(float(rest.norm() / source.dense().norm()), abs=1e-9)


def test_a_starved_first_layer_is_warned_of_where_no_data_was_given():
    matrices = [matrix for matrix, _ in weights_of(40, 64)]
    (warning,) = first_layer_warnings(matrices, {"rnn.weight_ih_l0": 9, "rnn.weight_ih_l1": 9})
    assert "rnn.weight_ih_l0 is a first layer and gets the values of rank 9 of 40 inputs" in warning
    assert not first_layer_warnings(matrices, {"rnn.weight_ih_l0": 20, "rnn.weight_ih_l1": 9})
    assert not first_layer_warnings(matrices, {"rnn.weight_ih_l0": None, "rnn.weight_ih_l1": 9})


@pytest.mark.parametrize(
    ("goals", "message"),
    [
        ((None, None, None), "exactly one"),
        ((2.0, 0.1, None), "exactly one"),
        ((1.0, None, None), "above 1"),
        ((None, 1.5, None), "relative, between 0 and 1"),
        ((None, None, 0), "1 or more"),
    ],
)
def test_goals_that_make_no_sense_are_refused(goals, message):
    with pytest.raises(UsageError, match=message):
        Goal.of(*goals, 1000)


def test_the_same_seed_gives_the_same_plan():
    found = [search_weights(weights_of(24, 16), Goal(900, None), effort="low", seed=3) for _ in range(2)]
    rows = [[(row.rule, row.error) for one in each.weights for row in one.rows] for each in found]
    assert rows[0] == rows[1]


def test_a_weight_that_the_goal_leaves_dense_is_said_to_be():
    model = torch.nn.Sequential(torch.nn.LSTM(6, 32, num_layers=2))
    result = trcompress.compress_(model, target_ratio=2, effort="low")
    assert result.left == (("0.weight_ih_l0", "the goal is met with its 768 values"),)
