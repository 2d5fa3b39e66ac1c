"""The grammar of shapes and ranks, and how a plan meets the weights of a network."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trcompress.errors import ShapeError, UsageError
from trcompress.formats import TensorRing, ring_ranks
from trcompress.model.grammar import format_shape, parse_ranks, parse_shape
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, Rule

UCF11 = "4x2x5x8x6x5x3x2:4x4x2x4x2"


def lstm(name="weight_ih_l0", inputs=57600, hidden=256, **more):
    return Matrix.input_to_hidden(name, "lstm", inputs, hidden, **more)


def only(plan, *matrices):
    (weight,) = plan.resolve(list(matrices))
    return weight


def test_the_papers_end_to_end_ring():
    weight = only(Plan.of(UCF11, "5,10"), lstm())
    assert weight.structure.out_modes == (16, 4, 2, 4, 2)
    assert weight.structure.ranks == (10, *[5] * 12, 10)
    assert weight.parameters == 1725
    assert weight.compression_ratio == pytest.approx(58_982_400 / 1725)
    assert weight.structure.bottleneck == 50


def test_the_papers_feature_ring():
    weight = only(Plan.of("64x32:32x64", "40,60,48,48"), lstm(inputs=2048, hidden=2048))
    assert weight.parameters == 663_552
    assert weight.compression_ratio == pytest.approx(25.28, abs=0.005)


def test_one_ring_per_gate_counts_every_ring():
    weight = only(Plan.of(UCF11, "5,10", gates="per-gate"), lstm())
    assert (weight.copies, weight.parameters) == (4, 5700)


def test_output_modes_may_hold_all_gates():
    folded = only(Plan.of("16x6:8x16", "4"), lstm(inputs=96, hidden=128))
    stacked = only(Plan.of("16x6:32x16", "4"), lstm(inputs=96, hidden=128))
    assert folded.structure == stacked.structure


def test_counts_ignore_padding_on_the_dense_side():
    weight = only(Plan.of("22x22:16x16", "3"), lstm(inputs=482, hidden=241))
    assert weight.matrix.parameters == 482 * 4 * 241
    assert weight.notes == (
        "inputs zero-padded from 482 to 484",
        "hidden units per gate zero-padded from 241 to 256",
    )


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=5).map(tuple),
    st.lists(st.integers(1, 30), min_size=1, max_size=5).map(tuple),
)
def test_shapes_read_back_as_written(in_modes, out_modes):
    assert parse_shape(format_shape(in_modes, out_modes)) == (in_modes, out_modes)


@pytest.mark.parametrize(
    "text", ["", "4x4", "4:4:4", "4x:4", "0x4:4", "-2:4", "4.5:4", "a:b", "٣:4", "9" * 14 + ":4", "4:"]
)
def test_bad_shapes_say_the_rule_and_the_text(text):
    with pytest.raises(ShapeError, match="shape"):
        parse_shape(text)


@pytest.mark.parametrize("text", ["", "0", "5,", "5,-1", "x", "5;10", "1e3"])
def test_bad_ranks_say_the_rule(text):
    with pytest.raises(ShapeError, match="`ranks` is one number"):
        parse_ranks(text)


@pytest.mark.parametrize(
    ("given_ranks", "resolved"),
    [
        ((5,), (5, 5, 5, 5, 5)),
        ((5, 10), (10, 5, 5, 5, 10)),
        ((40, 60, 48, 48), (40, 60, 48, 48, 40)),
        ((40, 60, 48, 48, 40), (40, 60, 48, 48, 40)),
        ((), (1, 4, 8, 3, 1)),
    ],
)
def test_rank_grammar(given_ranks, resolved):
    assert ring_ranks(given_ranks, (4, 2), (8, 3)) == resolved


def test_ranks_that_do_not_close_or_count():
    with pytest.raises(ShapeError, match=r"close the ring: got R0=40 and R4=41"):
        ring_ranks((40, 60, 48, 48, 41), (64, 32), (32, 64))
    with pytest.raises(ShapeError, match=r"R0\.\.R3\) for 4 modes: got 3 numbers"):
        ring_ranks((1, 2, 3), (64, 32), (32, 64))


def test_a_shape_too_small_is_an_error_that_names_all():
    with pytest.raises(ShapeError, match=r"(?s)fits no layer.*4 = 4 < 57,600"):
        Plan.of("4:4", "2").resolve([lstm()])
    with pytest.raises(ShapeError, match="hidden size 256"):
        Plan.of("240x240:5", "2", layer="*").resolve([lstm()])


def test_one_shape_takes_all_it_fits_and_names_the_rest():
    matrices = [lstm("a.weight_ih_l0", 40, 32), lstm("a.weight_ih_l1", 32, 32), lstm("b.weight_ih_l0", 40, 32)]
    plan = Plan.of("8x5:8x4", "3")
    assert [weight.name for weight in plan.resolve(matrices)] == ["a.weight_ih_l0", "b.weight_ih_l0"]
    ((skipped, reason),) = plan.against(matrices).skipped
    assert skipped.key == "a.weight_ih_l1"
    assert "padding" in reason


def test_padding_is_used_where_nothing_fits_exactly():
    assert only(Plan.of("22x22:16x4", "3"), lstm(inputs=482, hidden=64)).padded_input == 484
    with pytest.raises(ShapeError, match="twice the input size"):
        Plan.of("32x32:16x4", "3").resolve([lstm(inputs=482, hidden=64)])


def test_layers_are_named_by_key_stack_or_layer():
    matrices = [
        lstm("enc.weight_ih_l0", 40, 32, stack="enc"),
        lstm("enc.weight_ih_l0_reverse", 40, 32, stack="enc", reverse=True),
        lstm("dec.weight_ih_l0", 48, 32, stack="dec"),
    ]
    for glob, count in (("enc", 2), ("enc.l0_reverse", 1), ("*_reverse", 1), ("enc.weight_ih_l0", 1)):
        assert len(Plan.of("8x5:8x4", "3", layer=glob).resolve(matrices)) == count
    both = Plan((Rule.parse("8x5:8x4", "3", layer="enc"), Rule.parse("8x6:8x4", "2", layer="dec")))
    assert [weight.structure.in_modes for weight in both.resolve(matrices)] == [(8, 5), (8, 5), (8, 6)]
    with pytest.raises(UsageError, match=r"'decoder' matches none of: enc\.weight_ih_l0"):
        Plan.of("8x5:8x4", "3", layer="decoder").resolve(matrices)


def test_rings_refuse_what_is_not_a_ring():
    with pytest.raises(ShapeError, match=r"ranks must close the ring: got ranks\[0\]=10, ranks\[-1\]=5"):
        TensorRing((4,), (4,), (10, 5, 5))
    with pytest.raises(ShapeError, match="has 3 ranks"):
        TensorRing((4,), (4,), (5, 5))
    with pytest.raises(ShapeError, match="1 or more"):
        TensorRing((4,), (0,), (5, 5, 5))


@pytest.mark.parametrize("shape", ["4x3:4x2", ((4, 3), (4, 2)), [[4, 3], [4, 2]]])
@pytest.mark.parametrize("ranks", [2, "2", (2,), [2], "2,2", (2, 2, 2, 2)])
def test_a_plan_takes_text_and_numbers_alike(shape, ranks):
    assert Plan.of(shape, ranks).rules[0].in_modes == (4, 3)
    (weight,) = Plan.of(shape, ranks).resolve([Matrix.input_to_hidden("weight_ih", "lstm", 12, 8)])
    assert weight.structure.ranks == (2, 2, 2, 2, 2)


@pytest.mark.parametrize("ranks", [0, (2, 0), True, 2.5, "two", (3, "x")])
def test_a_rank_that_is_no_number_is_named(ranks):
    with pytest.raises(ShapeError, match="`ranks` is one number"):
        Plan.of("4x3:4x2", ranks)


@pytest.mark.parametrize("shape", [(4, 3), ["43", "42"], "4x3", ((4, 3), ()), ((4, 0), (2,)), 12])
def test_modes_that_are_no_two_sides_are_named(shape):
    with pytest.raises(ShapeError, match="`shape` is INPUT:OUTPUT"):
        Plan.of(shape, 2)


def test_a_resolved_plan_is_carried_out_as_it_is_and_on_its_network_alone():
    matrices = [lstm("a.weight_ih_l0", 40, 32), lstm("b.weight_ih_l0", 48, 32)]
    resolved = Plan.of("8x5:8x4", 3).against(matrices)
    assert [matrix.key for matrix, _ in resolved.skipped] == ["b.weight_ih_l0"]
    assert resolved.resolve(matrices) is resolved.weights
    with pytest.raises(UsageError, match=r"for another network: this one has no a.weight_ih_l0"):
        resolved.resolve(matrices[1:])
