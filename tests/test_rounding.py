"""Stored tensors come back as they were rounded; compensation never loses in its own metric."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.artifact.storage import STORAGE, Integers, Stored, as_rows, stored_in
from trcompress.errors import InputFileError, UsageError
from trcompress.passes.moments import Moments
from trcompress.passes.rounding import round_matrix

INTEGERS = [kind for kind, one in STORAGE.items() if isinstance(one, Integers)]
SHAPES = [(), (1,), (9,), (7, 5), (6, 1), (3, 4, 5), (64, 33)]


def moments_of(rows: torch.Tensor) -> Moments:
    seen = Moments.of_size(rows.shape[1])
    seen.add(rows)
    return seen


@pytest.mark.parametrize("kind", STORAGE)
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_have_the_layout_they_promise_and_come_back(kind: str, shape: tuple[int, ...]) -> None:
    stored = Stored.of(torch.randn(shape, generator=torch.Generator().manual_seed(0)), kind)
    layout = STORAGE[kind].layout(shape)
    assert {suffix: (part.dtype, tuple(part.shape)) for suffix, part in stored.parts.items()} == layout
    again = stored_in("w", kind, "float32", shape, stored.named("w"))
    assert torch.equal(again.expand(), stored.expand())
    assert stored.expand().shape == torch.Size(shape)


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_are_nearest(kind: str) -> None:
    values = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).double()
    grid = STORAGE[kind]
    assert isinstance(grid, Integers)
    scale = grid.scales(values)
    levels = torch.arange(grid.lowest, grid.highest + 1) + grid.offset
    nearest = (values.unsqueeze(-1) - levels * scale[:, None, None]).abs().amin(-1)
    torch.testing.assert_close((grid.values(grid.codes(values, scale), scale) - values).abs(), nearest)


@pytest.mark.parametrize("kind", INTEGERS)
@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 140), seed=st.integers(0, 2**31))
def test_compensation_never_loses_in_its_metric(kind: str, rows: int, columns: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=draw).double()
    mix = torch.randn(columns, columns, generator=draw).double()
    seen = moments_of(torch.randn(60, columns, generator=draw).double() @ mix + 1)
    found = round_matrix(weight, kind, seen)
    metric = seen.covariance + 0.01 * seen.covariance.diagonal().mean() * torch.eye(columns).double()
    grid = STORAGE[kind]
    assert isinstance(grid, Integers)
    scale = grid.scales(weight, metric.diagonal())

    def error(values: torch.Tensor) -> float:
        wrong = weight - values
        return ((wrong @ metric) * wrong).sum().item()

    assert error(found.stored.expand()) <= error(grid.values(grid.codes(weight, scale), scale)) * (1 + 1e-9)


def test_compensation_halves_the_error_on_correlated_inputs() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 96, generator=draw)
    inputs = torch.randn(2000, 24, generator=draw) @ torch.randn(24, 96, generator=draw)
    found, plain = round_matrix(weight, "int4", moments_of(inputs)), round_matrix(weight, "int4")
    wrong = [(inputs @ (weight - one.stored.expand()).T).norm() for one in (found, plain)]
    assert wrong[0] < 0.5 * wrong[1]


def test_the_bias_takes_the_mean_of_what_is_lost() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(8, 20, generator=draw), torch.rand(500, 20, generator=draw) + 3
    found = round_matrix(weight, "int4", moments_of(inputs))
    left = inputs @ (weight - found.stored.expand()).T - found.shift
    assert left.mean(0).abs().max() < 1e-5


def test_a_damaged_store_is_named() -> None:
    stored = Stored.of(torch.randn(4, 6), "int4").named("w")
    with pytest.raises(InputFileError, match=r"w\.scale is missing"):
        stored_in("w", "int4", "float32", (4, 6), {"w.int4": stored["w.int4"]})
    with pytest.raises(InputFileError, match=r"w\.int4 is torch.uint8 \(4, 3\); its header asks"):
        stored_in("w", "int4", "float32", (4, 8), stored)
    with pytest.raises(InputFileError, match="holds NaN"):
        stored_in("w", "int4", "float32", (4, 6), {**stored, "w.scale": torch.full((4,), torch.nan).half()})
    with pytest.raises(InputFileError, match="stored as 'int3'"):
        stored_in("w", "int3", "float32", (4, 6), stored)
    with pytest.raises(UsageError, match="did you mean 'int4'"):
        round_matrix(torch.ones(2, 2), "int44")


def test_one_hot_rows_and_zeros_stay_as_they_are() -> None:
    for values in (torch.eye(5), torch.zeros(3, 4)):
        assert torch.equal(Stored.of(values, "int8").expand(), values)
    assert as_rows(torch.ones(3)).shape == (1, 3)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_compensation_pays_most_where_neighbours_are_alike(kind: str) -> None:
    """The figure of docs/decisions.md, at 2,048 inputs, which `Moments.of_size` leaves out for time."""
    draw = torch.Generator().manual_seed(0)
    kernel = torch.exp(-torch.arange(-30, 31).double().abs() / 8)
    noise = torch.randn(4000, 1, 2048, generator=draw).double()
    inputs = torch.nn.functional.conv1d(noise, (kernel / kernel.norm()).view(1, 1, -1), padding=30).squeeze(1)
    weight = torch.randn(32, 2048, generator=draw)
    seen = Moments(2048, 0, torch.zeros(2048).double(), torch.zeros(2048, 2048).double())
    seen.add(inputs[:3000])
    new = inputs[3000:] - inputs[:3000].mean(0)
    errors = [
        (new @ (weight.double() - round_matrix(weight, kind, one).stored.expand().double()).T).square().sum()
        for one in (None, seen)
    ]
    assert errors[1] < errors[0] / 10


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("spread", [0.0, 1e-16, 1e-9])
def test_inputs_that_hardly_vary_are_compensated_for_too(kind: str, spread: float) -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 64, generator=draw)
    seen = moments_of(
        torch.rand(64, generator=draw).double() + spread * torch.randn(40, 64, generator=draw).double()
    )
    found = round_matrix(weight, kind, seen)
    assert found.shift is not None
    lost = (weight - found.stored.expand()).double() @ seen.mean - found.shift.double()
    assert float(lost.norm()) < 1e-6 * float((weight.double() @ seen.mean).norm())
    assert float((weight - found.stored.expand()).norm() / weight.norm()) < {"int4": 0.2, "int8": 0.02}[kind]
