"""Divisions: nobody on two sides, nothing lost, the seed decides, and leaks are called leaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.data import from_arrays
from trcompress.data.options import SplitOptions
from trcompress.data.splits import divide_rows, hold_out_rows
from trcompress.errors import InputFileError, UsageError
from trcompress.network.calibration_data import CalibrationData


@st.composite
def tables(draw):
    groups = np.array(draw(st.lists(st.integers(0, 12), min_size=4, max_size=80)))
    labels = np.array(draw(st.lists(st.integers(0, 3), min_size=len(groups), max_size=len(groups))))
    return labels, groups


@settings(max_examples=150, deadline=None)
@given(
    tables(),
    st.floats(0.05, 0.9),
    st.floats(0.0, 0.6),
    st.integers(0, 5),
)
def test_a_split_by_group_never_leaks_and_loses_nothing(table, test, validation, seed):
    labels, groups = table
    options = SplitOptions(split="group", test_fraction=test, validation_fraction=validation, split_seed=seed)
    if len(set(groups.tolist())) < 2:
        with pytest.raises(InputFileError, match="at least 2 groups"):
            divide_rows(labels, groups, options)
        return
    found = divide_rows(labels, groups, options)
    rows = np.concatenate([found.train, found.validation, found.test])
    assert sorted(rows.tolist()) == list(range(len(labels)))
    assert len(found.train) > 0
    assert len(found.test) > 0
    assert not set(groups[found.test]) & (set(groups[found.train]) | set(groups[found.validation]))
    if len(set(groups[found.train]) | set(groups[found.validation])) > 1:
        assert not set(groups[found.train]) & set(groups[found.validation])
    again = divide_rows(labels, groups, options)
    assert again.train.tolist() == found.train.tolist()
    assert again.validation.tolist() == found.validation.tolist()


def test_test_rows_do_not_depend_on_the_validation_fraction():
    groups, labels = np.arange(60) // 3, np.arange(60) % 3
    tests = [
        divide_rows(labels, groups, SplitOptions(validation_fraction=share)).test.tolist()
        for share in (0, 0.1, 0.4)
    ]
    assert tests[0] == tests[1] == tests[2]


def test_another_seed_gives_another_split():
    groups, labels = np.arange(60) // 3, np.arange(60) % 3
    tests = {tuple(divide_rows(labels, groups, SplitOptions(split_seed=seed)).test.tolist()) for seed in range(5)}
    assert len(tests) > 1


def test_the_share_is_met_and_every_class_is_on_both_sides():
    labels = np.arange(400) % 5
    groups = np.arange(400) // 8
    found = divide_rows(labels, groups, SplitOptions(test_fraction=0.25, validation_fraction=0))
    assert len(found.test) == pytest.approx(100, abs=8)
    assert set(labels[found.test]) == set(labels[found.train]) == set(range(5))


def test_named_groups_are_the_test_part():
    groups = np.array([1, 1, 2, 2, 10, 10])
    found = divide_rows(np.arange(6) % 2, groups, SplitOptions(test_groups=("10", "2"), validation_fraction=0))
    assert found.test.tolist() == [2, 3, 4, 5]
    assert found.note.startswith("by group: 2 of 3 groups")
    with pytest.raises(UsageError, match="11 is not"):
        divide_rows(np.arange(6) % 2, groups, SplitOptions(test_groups=("11",)))
    with pytest.raises(UsageError, match="must leave rows to train on"):
        divide_rows(np.arange(6) % 2, groups, SplitOptions(test_groups=("1", "2", "10")))


def test_a_random_split_must_be_asked_for_and_says_that_it_leaks():
    labels = np.arange(40) % 2
    with pytest.raises(UsageError, match="split=random"):
        divide_rows(labels, None, SplitOptions())
    found = divide_rows(labels, np.arange(40) // 4, SplitOptions(split="random"))
    assert found.note.startswith("random split: LEAKS groups (")
    assert "LEAKS" in divide_rows(labels, None, SplitOptions(split="random")).note


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_random_rows_are_drawn_class_by_class(labels, share):
    labels = np.array(labels)
    held = hold_out_rows(labels, share, np.random.default_rng(0))
    for label in set(labels.tolist()):
        count, drawn = int((labels == label).sum()), int(held[labels == label].sum())
        assert drawn < count
        assert abs(drawn - share * count) <= 1 or drawn in (1, count - 1)


def test_official_codes_leave_unused_rows_out():
    codes = np.array([0, 1, 1, 2, 2, 0, 1, 1])
    found = divide_rows(
        np.zeros(8, np.int64), None, SplitOptions(validation_fraction=0), (codes, "official split 1")
    )
    assert found.train.tolist() == [1, 2, 6, 7]
    assert found.test.tolist() == [3, 4]
    assert found.note == "official split 1"


def test_official_splits_of_a_file():
    arrays = {"x": np.zeros((6, 2, 1)), "y": np.arange(6) % 2, "group": np.arange(6)}
    arrays |= {"split_1": np.array([1, 1, 1, 1, 2, 2]), "split_2": np.array([2, 2, 1, 1, 1, 0])}
    assert from_arrays(arrays, split_number=2).test.rows.tolist() == [0, 1]
    assert from_arrays(arrays, test_groups="3").test.rows.tolist() == [3]
    with pytest.raises(UsageError, match="no split_3: split_number must be one of split_1, split_2"):
        from_arrays(arrays, split_number=3)
    with pytest.raises(InputFileError, match=r"split_1 must hold 0 .* or 2"):
        from_arrays(arrays | {"split_1": np.array([1, 1, 1, 1, 2, 3])})


def test_parts_of_a_file_cannot_be_divided_again_and_their_leaks_are_told():
    arrays = {"x_train": np.zeros((6, 2, 1)), "y_train": np.arange(6) % 2, "group_train": np.arange(6) // 2}
    arrays |= {"x_test": np.zeros((2, 2, 1)), "y_test": np.arange(2), "group_test": np.array([2, 7])}
    with pytest.raises(UsageError, match="has its own parts"):
        from_arrays(arrays, split="group")
    data = from_arrays(arrays, validation_fraction=0.3)
    assert "LEAK: 1 groups are in both train and test of the file" in data.notes
    assert not set(data.train.groups) & set(data.validation.groups)


def test_a_file_for_evaluation_alone():
    data = from_arrays({"x_test": np.zeros((2, 2, 1)), "y_test": np.arange(2)})
    assert len(data.train) == 0
    assert list(data.splits) == ["test"]
    with pytest.raises(UsageError, match="fitted on training rows"):
        from_arrays({"x_test": np.zeros((2, 2, 1)), "y_test": np.arange(2)}, standardize=True)


def test_x_val_is_kept_as_it_is():
    arrays = {
        f"{name}_{part}": np.full((n, 2, 1), float(n)) if name == "x" else np.arange(n) % 2
        for name in "xy"
        for part, n in (("train", 6), ("val", 3), ("test", 4))
    }
    data = from_arrays(arrays)
    assert [len(part) for part in data.splits.values()] == [6, 3, 4]
    assert data.validation.batch([0])[0].unique().tolist() == [3.0]


def test_classes_without_training_rows_are_told():
    arrays = {"x": np.zeros((8, 2, 1)), "y": np.array([0, 0, 0, 0, 1, 1, 1, 1]), "group": np.arange(8) // 4}
    data = from_arrays(arrays, test_groups="1", validation_fraction=0)
    assert "1 of 2 classes have no training rows: 1" in data.notes


def test_the_fingerprint_tells_divisions_apart():
    arrays = {"x": np.zeros((20, 2, 1)), "y": np.arange(20) % 2, "group": np.arange(20) // 2}
    prints = [from_arrays(arrays, test_groups=group).fingerprint for group in ("1", "1", "2")]
    assert prints[0] == prints[1] != prints[2]


class Counted(np.ndarray):
    """An array that counts the values that are compared or computed with."""

    touched = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        Counted.touched += max(np.size(one) for one in inputs)
        plain = [one.view(np.ndarray) if isinstance(one, Counted) else one for one in inputs]
        return getattr(ufunc, method)(*plain, **options)


@pytest.mark.parametrize("kind", ["group", "random"])
def test_a_division_of_many_groups_and_classes_looks_at_each_row_a_few_times(kind):
    """A million rows of 10,000 people took 9 minutes: every row was compared with every person."""
    rows, Counted.touched = 6000, 0
    groups, labels = (np.arange(rows) // 2).view(Counted), (np.arange(rows) % 2000).view(Counted)
    found = divide_rows(labels, groups, SplitOptions(split=kind))
    feeds = {"": np.zeros(rows)}
    fitted, compared = CalibrationData("data", "", feeds, {}, groups, ()).divide(0)
    assert found.note.startswith("by group: 6" if kind == "group" else "random split")
    assert Counted.touched < 40 * rows
    assert not set(groups[fitted].tolist()) & set(groups[compared].tolist())
