"""Array data sets: every layout of file, every rule, and that what is read is what was written."""

import zipfile

import numpy as np
import pytest
import torch
from forged import ARCHIVES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trcompress.data import from_arrays, load_data
from trcompress.data.array_file import read_arrays
from trcompress.data.array_writer import Rows, write_arrays
from trcompress.errors import InputFileError, OutputFileError, UnsafeFileError, UsageError


def table(rows=40, steps=8, channels=3, groups=10, classes=2, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(rows, steps, channels)).astype(dtype),
        "y": np.arange(rows) % classes,
        "person": np.arange(rows) // (rows // groups),
    }


def parts(**more):
    rng = np.random.default_rng(1)
    arrays = {}
    for name, rows in (("train", 20), ("test", 8)):
        arrays[f"x_{name}"] = rng.normal(size=(rows, 5, 4)).astype(np.float32)
        arrays[f"y_{name}"] = np.arange(rows) % 3
    return arrays | more


def save(path, arrays, packed=False):
    if path.suffix == ".npz":
        (np.savez_compressed if packed else np.savez)(path, **arrays)
    else:
        texts = {name: a.tolist() for name, a in arrays.items() if a.dtype.kind == "U"}
        rows = {name: Rows(a.shape, a.dtype.name, [a]) for name, a in arrays.items() if a.dtype.kind != "U"}
        write_arrays(path, rows, texts)
    return path


@pytest.mark.parametrize("name", ["d.npz", "packed.npz", "d.safetensors"])
def test_parts_come_back_as_they_were_saved(tmp_path, name):
    arrays = parts(classes=np.array(["walk", "run", "sit"]))
    data = load_data(save(tmp_path / name, arrays, packed="packed" in name), validation_fraction=0)
    assert data.classes == ("walk", "run", "sit")
    assert (data.input_size, data.steps, data.validation) == (4, 5, None)
    for part, suffix in ((data.train, "train"), (data.test, "test")):
        x, y, lengths = part.batch(np.arange(len(part)))
        torch.testing.assert_close(x, torch.from_numpy(arrays[f"x_{suffix}"]), rtol=0, atol=0)
        assert y.tolist() == arrays[f"y_{suffix}"].tolist()
        assert lengths is None


@pytest.mark.parametrize("name", ["d.npz", "d.safetensors"])
def test_large_arrays_stay_on_disk(tmp_path, name):
    path = save(tmp_path / name, {"x": np.zeros((100, 50, 10), np.float16), "y": np.zeros(100, np.int64)})
    assert isinstance(read_arrays(path, 2**30)["x"], np.memmap)
    assert load_data(path, split="none").train.batch([3])[0].dtype == torch.float32


def test_fortran_order_is_mapped_right(tmp_path):
    x = np.arange(60_000, dtype=np.float32).reshape(100, 60, 10)
    np.savez(tmp_path / "f.npz", x=np.asfortranarray(x), y=np.zeros(100, np.int64))
    batch, _, _ = load_data(tmp_path / "f.npz", split="none", validation_fraction=0).train.batch([7, 3])
    np.testing.assert_array_equal(batch, x[[7, 3]])


def test_compressed_files_have_a_size_bound(tmp_path):
    path = save(tmp_path / "d.npz", table(), packed=True)
    with pytest.raises(InputFileError, match=r"max_bytes=100 .*numpy\.savez"):
        load_data(path, group_key="person", max_bytes=100)


def test_integers_are_scaled_only_if_they_are_bytes():
    y = np.zeros(4, np.int64)
    bright = from_arrays({"x": np.full((4, 2, 3), 255, np.uint8), "y": y}, split="none").train.batch([0])[0]
    counts = from_arrays({"x": np.full((4, 2, 3), 255, np.int16), "y": y}, split="none").train.batch([0])[0]
    assert bright.unique().tolist() == [1.0]
    assert counts.unique().tolist() == [255.0]


def test_steps_fold_time_into_inputs_in_order():
    arrays = table(steps=8, channels=3)
    data = from_arrays(arrays, group_key="person", steps=2, validation_fraction=0)
    assert (data.steps, data.input_size) == (2, 12)
    rows = data.train.rows[:3]
    np.testing.assert_array_equal(data.train.batch([0, 1, 2])[0], arrays["x"][rows].reshape(3, 2, 12))


def test_steps_must_divide():
    with pytest.raises(UsageError, match="5 does not divide the 8 steps of x"):
        from_arrays(table(), group_key="person", steps=5)


def test_frames_are_random_in_training_and_even_otherwise():
    x = np.broadcast_to(np.arange(30, dtype=np.float32)[None, :, None], (10, 30, 1))
    train = from_arrays({"x": x, "y": np.zeros(10, np.int64)}, split="none", frames=6, validation_fraction=0).train
    assert train.batch([0])[0].flatten().tolist() == [2, 7, 12, 17, 22, 27]
    drawn = train.batch(range(10), rng=np.random.default_rng(0))[0][..., 0].numpy()
    assert (np.diff(drawn, axis=1) > 0).all()
    assert len({tuple(row) for row in drawn}) == 10


def test_a_shared_batch_draws_the_same_frames():
    x = np.random.default_rng(0).normal(size=(10, 30, 2))
    train = from_arrays({"x": x, "y": np.zeros(10, np.int64)}, split="none", frames=4, validation_fraction=0).train
    rngs = [np.random.default_rng(5) for _ in range(3)]
    whole = train.batch([1, 2, 3, 4], rng=rngs[0])[0]
    halves = [train.batch(half, rng=rng)[0] for half, rng in zip(([1, 2], [3, 4]), rngs[1:], strict=True)]
    torch.testing.assert_close(whole, torch.cat(halves), rtol=0, atol=0)
    assert rngs[0].bit_generator.state == rngs[1].bit_generator.state


def test_standardize_is_fitted_on_training_rows_alone():
    arrays = table(rows=60, groups=6)
    arrays["x"] = arrays["x"] * np.array([1, 10, 0]) + np.array([5, -3, 2])
    arrays["x"][arrays["person"] == 2] += 1e4  # test rows must not matter
    data = from_arrays(arrays, group_key="person", test_groups="2", standardize=True, validation_fraction=0)
    x = data.train.batch(np.arange(len(data.train)))[0].double().reshape(-1, 3)
    torch.testing.assert_close(x.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]).double(), rtol=0, atol=1e-5)
    assert data.test.batch([0])[0].abs().max() > 100


def test_center_shifts_by_training_rows_and_keeps_the_scale():
    arrays = table(rows=60, groups=6)
    arrays["x"] = arrays["x"] * np.array([1, 10, 0]) + np.array([5, -3, 2])
    given = {"group_key": "person", "test_groups": "2", "validation_fraction": 0}
    plain, centered = from_arrays(arrays, **given), from_arrays(arrays, center=True, **given)
    rows = np.arange(len(plain.train))
    before, after = (data.train.batch(rows)[0].double().reshape(-1, 3) for data in (plain, centered))
    torch.testing.assert_close(after, before - before.mean(0), rtol=0, atol=1e-4)
    moved = plain.test.batch([0])[0].double() - centered.test.batch([0])[0].double()
    torch.testing.assert_close(moved, before.mean(0).expand_as(moved), rtol=0, atol=1e-4)


def test_variable_lengths_are_returned_and_padding_is_zero():
    x = np.ones((6, 5, 2), np.float32)
    lengths = np.array([5, 3, 1, 5, 2, 4])
    for row, length in enumerate(lengths):
        x[row, length:] = np.nan  # padding may hold anything
    arrays = {"x": x * 3, "y": np.zeros(6, np.int64), "length": lengths}
    train = from_arrays(arrays, split="none", validation_fraction=0).train
    batch, _, found = train.batch([1, 2, 5])
    assert found.tolist() == [3, 1, 4]
    assert batch.sum(dim=(1, 2)).tolist() == [18.0, 6.0, 24.0]
    normal = from_arrays(arrays, split="none", validation_fraction=0, standardize=True).train.batch(range(6))[0]
    assert torch.isfinite(normal).all()


def test_folding_rounds_lengths_up():
    arrays = {"x": np.ones((3, 6, 1)), "y": np.zeros(3, np.int64), "length": np.array([1, 3, 5])}
    batch, _, lengths = from_arrays(arrays, split="none", validation_fraction=0, steps=3).train.batch([0, 1, 2])
    assert lengths.tolist() == [1, 2, 3]
    assert batch[1].tolist() == [[1, 1], [1, 0], [0, 0]]


def test_text_labels_and_text_groups():
    arrays = {"x": np.zeros((8, 2, 1)), "y": np.array(list("baabbaab")), "group": np.array(list("ppqqrrss"))}
    data = from_arrays(arrays, test_groups="q", validation_fraction=0)
    assert data.classes == ("a", "b")
    assert data.test.labels.tolist() == [0, 1]
    assert data.test.groups.tolist() == ["q", "q"]


def broken(**changes):
    arrays = parts() | changes
    return {name: values for name, values in arrays.items() if values is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": None}, "x_train needs its labels y_train"),
        ({"y_train": np.zeros(19, np.int64)}, r"one entry per row of x, shape \(20,\): got \(19,\)"),
        ({"y_train": np.eye(3)[np.arange(20) % 3]}, "class indices, not one-hot"),
        ({"y_train": np.zeros(20, np.float32)}, "must be integer class indices: got float32"),
        ({"y_train": np.full(20, -1)}, "20 outside, first -1 at row 0"),
        ({"y_train": np.full(20, 10**7)}, "class indices from 0: got 10,000,000 in 28 rows"),
        ({"classes": np.array(["a", "b"])}, r"must be 0\.\.1 .* outside, first 2 at row 2"),
        ({"classes": np.array(["a", "a", "b"])}, "different names"),
        ({"x_train": np.full((20, 5, 4), np.nan)}, "400 of 400 values are NaN or infinite"),
        ({"x_train": np.full((20, 5, 4), 1e300)}, "must be finite in float32"),
        ({"x_train": np.zeros((20, 5, 4), complex)}, "must be numbers of shape"),
        ({"x_train": np.zeros((20, 0, 4))}, "none of them 0"),
        ({"x_train": np.zeros((20, 5, 3))}, "equally many values per step: got 3, 4"),
        (
            {"length_train": np.full(20, 6)},
            r"must be 1\.\.5, the steps of x_train: got 20 outside, first 6 at row 0",
        ),
        ({"length_train": np.zeros(20, np.int64)}, "first 0 at row 0"),
        ({"length_train": np.ones(20)}, "length_train must be integers"),
        ({"group_train": np.zeros((20, 2), np.int64)}, "one entry per row"),
        ({"group_train": np.zeros(20)}, "must be integers or text"),
        ({"x": np.zeros((3, 2, 1))}, "must hold x and y, or x_train"),
        ({"x_train": None, "x_test": None}, "must hold x and y, or x_train"),
    ],
)
def test_every_rule_says_what_is_wrong(changes, message):
    with pytest.raises(InputFileError, match=message):
        from_arrays(broken(**changes))


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}, None], dtype=object), y=np.zeros(2, np.int64))
    with pytest.raises(UnsafeFileError, match="x holds pickled objects"):
        load_data(tmp_path / "d.npz")


@pytest.mark.parametrize("name", ["d.npz", "packed.npz", "d.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path, name, share):
    path = save(tmp_path / name, table(rows=2000), packed="packed" in name)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputFileError, match="damaged or not a"):
        load_data(path, group_key="person")


def test_a_header_that_lies_about_its_size_is_refused(tmp_path):
    honest = save(tmp_path / "a.npz", table())
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(tmp_path / "b.npz", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b"(40, 8, 3)", b"(4000, 8,)") if name == "x.npy" else content)
    with pytest.raises(InputFileError, match="x is damaged"):
        load_data(tmp_path / "b.npz", group_key="person")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=200), suffix=st.sampled_from([".npz", ".safetensors"]))
def test_junk_is_never_a_traceback(tmp_path, junk, suffix):
    path = tmp_path / f"junk{suffix}"
    path.write_bytes(junk)
    with pytest.raises(InputFileError, match="junk"):
        load_data(path)


def test_missing_files_and_unknown_kinds_are_named(tmp_path):
    with pytest.raises(InputFileError, match=r"no such data file: .*none\.npz"):
        load_data(tmp_path / "none.npz")
    with pytest.raises(InputFileError, match="must be one of: FILE"):
        load_data(tmp_path / "none.csv")


def test_unknown_options_are_all_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"steps = 0: .*'test_fracton' is unknown \(did you mean 'test_fraction'"):
        from_arrays(table(), test_fracton=0.5, steps=0)


def test_options_may_be_text():
    data = from_arrays(table(), group_key="person", test_groups="1, 3", steps="4", standardize="true")
    assert data.steps == 4
    assert set(data.test.groups.tolist()) == {1, 3}


def test_a_group_array_that_is_not_there():
    with pytest.raises(UsageError, match=r"no group array persons \(did you mean 'person'\?\)"):
        from_arrays(table(), group_key="persons")


def test_writing_leaves_nothing_when_it_fails(tmp_path):
    def rows():
        yield np.zeros(4, np.float32)
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputFileError, match="No space left"):
        write_arrays(tmp_path / "d.npz", {"x": Rows((2, 4), "float32", rows())}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", list(ARCHIVES))
def test_forged_archives_are_refused_before_they_cost_memory(tmp_path, name):
    path = tmp_path / "forged.npz"
    ARCHIVES[name](path)
    with pytest.raises(InputFileError) as refused:
        load_data(path)
    if name == "directory of a gigabyte":
        assert "directory asks for" in str(refused.value)
