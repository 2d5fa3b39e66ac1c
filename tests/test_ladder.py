"""The ladder takes the cheapest damage first."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trcompress.passes.ladder import Measured, lower_hull, moves

LEVELS = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10)), min_size=1, max_size=8)


@given(LEVELS)
def test_a_hull_gets_dearer_downwards_and_holds_the_best_of_either_end(pairs: list[tuple[int, float]]) -> None:
    levels = [Measured(k, size, damage) for k, (size, damage) in enumerate(pairs)]
    hull = lower_hull(levels)
    slopes = [(b.damage - a.damage) / (a.nbytes - b.nbytes) for a, b in pairwise(hull)]
    assert slopes == sorted(slopes)
    assert min(one.damage for one in hull) == min(damage for _, damage in pairs)
    assert min(one.nbytes for one in hull) == min(size for size, _ in pairs)


@given(st.dictionaries(st.sampled_from("abc"), LEVELS, min_size=1))
def test_moves_are_ordered_by_damage_per_byte(found: dict[str, list[tuple[int, float]]]) -> None:
    measured = {
        name: [Measured(k, size, damage) for k, (size, damage) in enumerate(pairs)] for name, pairs in found.items()
    }
    start, steps = moves(measured)
    assert set(start) == set(measured)
    prices = [one.price for one in steps]
    assert prices == sorted(prices)
    for name in measured:  # each choice goes down one level after another
        sizes = [measured[name][start[name]].nbytes]
        sizes += [measured[name][one.level].nbytes for one in steps if one.choice == name]
        assert sizes == sorted(sizes, reverse=True)


def test_a_level_that_breaks_the_network_is_never_taken() -> None:
    _, steps = moves({"w": [Measured(0, 100, 0.0), Measured(1, 50, float("inf"))]})
    assert not steps
