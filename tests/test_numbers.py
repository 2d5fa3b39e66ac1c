"""Weights of every size and kind of value: correct or refused, and the printed error is that of the file."""

import math
import warnings

import numpy as np
import pytest
import torch
from command import run
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import trcompress
from trcompress import Plan, report
from trcompress.artifact.against import _relative_error
from trcompress.artifact.file import read_artifact
from trcompress.artifact.storage import Stored
from trcompress.artifact.write import write_artifact
from trcompress.errors import InputFileError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROWS, COLUMNS = 32, 12


def outlier(values, dtype):
    values[1, 1] = min(1e30, float(torch.finfo(dtype).max) / 2)
    return values


def single(values, dtype):
    return torch.zeros_like(values).index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(1.0).double())


# name -> (values of a normal matrix, the dtype they will have) -> values in float64
VALUES = {
    "zero": lambda w, dtype: w * 0,
    "constant": lambda w, dtype: w * 0 + 0.25,
    "rank one": lambda w, dtype: torch.outer(w[:, 0], w[0]),
    "one outlier": outlier,
    "one value": single,
    "denormal": lambda w, dtype: w * torch.finfo(dtype).tiny / 50,
    "near the largest": lambda w, dtype: w / w.abs().max() * torch.finfo(dtype).max * 0.99,
    "sizes from end to end": lambda w, dtype: w * torch.logspace(-4, 4 if dtype == torch.float16 else 30, COLUMNS),
}
REFUSED = {("near the largest", torch.float64), ("denormal", torch.float64)}


def checkpoint(path, values, dtype, kind=nn.LSTM):
    state = {key: value.to(dtype) for key, value in kind(values.shape[1], 8).state_dict().items()}
    state["weight_ih_l0"] = values.to(dtype)
    save_file(state, path)
    return state["weight_ih_l0"]


def true_error(weight, path):
    """||W - W'|| / ||W|| of a file as it lies on disk, computed on a scale where nothing overflows."""
    artifact = read_artifact(path)
    (plan,) = artifact.weight_plans().values()
    scale = float(weight.double().abs().max()) or 1.0
    cores = artifact.cores("weight_ih_l0")
    assert all(bool(core.isfinite().all()) for core in cores)
    dense, dense_now = weight.double() / scale, plan.to_dense([core.double() for core in cores]) / scale
    return float((dense - dense_now).norm()) / (float(dense.norm()) or 1.0)


@pytest.mark.parametrize("init", ["tr-als", "tr-svd"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", list(VALUES))
@pytest.mark.parametrize("gates", ["fused", "per-gate"])
def test_every_kind_of_value(tmp_path, name, dtype, init, gates):
    normal = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = checkpoint(tmp_path / "dense.safetensors", VALUES[name](normal, dtype), dtype)
    plan, out = Plan.of("4x3:4x2", 3, gates=gates), tmp_path / "out.safetensors"
    if (name, dtype) in REFUSED:
        with pytest.raises(InputFileError, match="a weight must be"):
            trcompress.decompose(tmp_path / "dense.safetensors", plan, out, init=init)
        assert not out.exists()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = trcompress.decompose(tmp_path / "dense.safetensors", plan, out, init=init)
    (told,) = artifact.header.weights
    assert math.isfinite(told.error)
    assert told.error == pytest.approx(true_error(weight, out), rel=1e-6, abs=1e-9)
    assert told.error >= told.bound * (1 - 1e-9)
    if init == "tr-als" and name in ("zero", "constant", "rank one", "one value"):
        assert told.error < max(4 * torch.finfo(dtype).eps, 1e-9)


@settings(max_examples=40)
@given(data=st.data(), seed=st.integers(0, 99), rank=st.integers(1, 12), scale=st.floats(-25, 25))
def test_the_printed_error_is_the_files_and_above_its_bound(tmp_path_factory, data, seed, rank, scale):
    folder = tmp_path_factory.mktemp("numbers")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    stored = data.draw(st.sampled_from([None, "float16", "bfloat16", "float32"])) if abs(scale) < 2 else None
    shape = data.draw(
        st.sampled_from(["4x3:4x2", "12:8", "1x12:8x1", "2x2x3:2x2x2", "12x1:1x8x1", "13:3x3", "7x2:3x3"])
    )
    inner = data.draw(st.integers(1, COLUMNS))
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, inner, generator=generator, dtype=torch.float64) for n in (ROWS, COLUMNS))
    weight = checkpoint(folder / "dense.safetensors", left @ right.T * 10.0**scale, dtype)
    out = folder / "out.safetensors"
    given_dtype = getattr(torch, stored) if stored else None
    init = data.draw(st.sampled_from(["tr-als", "tr-svd", "random"]))
    artifact = trcompress.decompose(
        folder / "dense.safetensors", Plan.of(shape, rank), out, init=init, dtype=given_dtype, seed=seed
    )
    (told,) = artifact.header.weights
    assert told.error == pytest.approx(true_error(weight, out), rel=1e-6, abs=1e-9)
    assert told.error >= told.bound * (1 - 1e-9) - 1e-9


@settings(max_examples=40)
@given(
    name=st.sampled_from([name for name in VALUES if name != "near the largest"]),
    dtype=st.sampled_from(DTYPES[:3]),
    kind=st.sampled_from(["int8", "int4"]),
    packed=st.booleans(),
    seed=st.integers(0, 99),
    rank=st.integers(1, 40),
)
def test_the_error_of_few_bit_storage_is_that_of_the_file(tmp_path_factory, name, dtype, kind, packed, seed, rank):
    folder = tmp_path_factory.mktemp("stored")
    normal = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    dense, out = folder / "dense.safetensors", folder / "out.safetensors"
    weight = checkpoint(dense, VALUES[name](normal, dtype), dtype)
    artifact = trcompress.decompose(dense, Plan.of("4x3:4x2", rank), out, init="tr-svd", seed=seed)
    artifact.stored = {key: Stored.of(one, kind) for key, one in artifact.tensors.items() if one.dim() >= 2}
    artifact.packed = packed
    write_artifact(out, artifact, overwrite=True)
    (told,) = read_artifact(out).header.weights
    now = report(out, baseline=dense).weights[0].error_now
    if now is None:  # four bits have no zero, and nothing is relative to a weight of zeros
        assert not weight.count_nonzero()
        assert true_error(weight, out) > 0
        return
    assert now == pytest.approx(true_error(weight, out), rel=1e-6, abs=1e-9)
    assert told.error is None or told.error == pytest.approx(now, rel=1e-6, abs=1e-9)
    assert told.bound is None or now >= told.bound * (1 - 1e-9) - 1e-9


@pytest.mark.parametrize(("inputs", "hidden", "shape"), [(1, 1, "1:1"), (1, 4, "1x1:4x1"), (5, 1, "5:1x1")])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_sizes_and_modes_of_one(tmp_path, inputs, hidden, shape, kind):
    torch.manual_seed(0)
    layer = kind(inputs, hidden)
    save_file({f"rnn.{key}": value for key, value in layer.state_dict().items()}, tmp_path / "dense.safetensors")
    out = tmp_path / "out.safetensors"
    options = {"kind": kind.__name__.lower()}
    artifact = trcompress.decompose(tmp_path / "dense.safetensors", Plan.of(shape, "full"), out, **options)
    assert artifact.header.weights[0].error < 1e-6
    (compressed,) = trcompress.load(out).values()
    x = torch.randn(3, 2, inputs)
    torch.testing.assert_close(compressed(x)[0], layer(x)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    "options", [("--rank", 2, "--passes", "rings,rounding"), ("--storage", "int8"), ("--pack",)]
)
def test_a_network_that_overflows_on_its_data_is_no_traceback(tmp_path, sign, options):
    torch.manual_seed(0)
    state = {f"rnn.{key}": value for key, value in nn.LSTM(12, 8).state_dict().items()}
    state["rnn.weight_ih_l0"] = torch.randn(32, 12).sign() * sign * torch.finfo(torch.float32).max / 2
    state |= {f"fc.{key}": value for key, value in nn.Linear(8, 40).state_dict().items()}
    save_file(state, tmp_path / "d.safetensors")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((48, 4, 12), dtype=np.float32))
    goal = ("--target-ratio-model", 1.6, "--calibrate", tmp_path / "x.npz", "-o", tmp_path / "out.safetensors")
    done = run("compress", tmp_path / "d.safetensors", *goal, *options, "--format", "json")
    if done.code == 0:  # infinite gates saturate; sums of another order meet no two infinities
        assert math.isfinite(done.json["damage"])
        return
    assert done.code == 3
    assert "eigenvalues" in done.stderr or "finite" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("scale", [1e-309, 1e-300, 1e300])
def test_the_error_now_of_tiny_and_huge_doubles_is_relative(scale):
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scale
    assert _relative_error(weight, torch.zeros_like(weight)) == pytest.approx(1.0)
    assert _relative_error(weight, weight / 2) == pytest.approx(0.5)
    assert _relative_error(weight, weight) == 0
    assert _relative_error(weight * 0, weight * 0) == 0
    assert _relative_error(weight * 0, weight) is None


@pytest.mark.parametrize("options", [("--storage", "int8"), ("--storage", "float16"), ("--pack",)])
def test_a_network_that_gives_no_finite_numbers_is_refused(tmp_path, options):
    torch.manual_seed(0)
    state = {f"rnn.{key}": value.double() for key, value in nn.LSTM(12, 8).state_dict().items()}
    state["rnn.weight_ih_l0"] = torch.randn(32, 12).double() * 1e150  # infinite in float32, in which networks run
    state |= {f"fc.{key}": value.double() for key, value in nn.Linear(8, 40).state_dict().items()}
    save_file(state, tmp_path / "d.safetensors")
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((48, 4, 12), dtype=np.float32))
    goal = ("--target-ratio-model", 1.6, "--calibrate", tmp_path / "x.npz", "-o", tmp_path / "out.safetensors")
    done = run("compress", tmp_path / "d.safetensors", *goal, *options)
    assert done.code == 3
    assert "must be finite" in done.stderr
    assert not (tmp_path / "out.safetensors").exists()
