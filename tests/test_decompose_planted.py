"""Rings that made W are found again, also where positive cores or over-full bonds make it hard."""

import pytest
import torch

from trcompress.decomposition import InMemoryMatrix, decompose
from trcompress.decomposition.als import Fit
from trcompress.decomposition.objective import Objective
from trcompress.decomposition.planted import coordinates
from trcompress.decomposition.planted.attempts import looks_planted
from trcompress.decomposition.planted.coordinates import equal_modes
from trcompress.formats import TensorRing
from trcompress.model.grammar import parse_shape


def planted(shape, ranks, kind="normal", seed=0):
    """A ring of these modes and ranks, and the weight that it makes."""
    ring = TensorRing(*parse_shape(shape), tuple(ranks))
    draw = torch.randn if kind == "normal" else torch.rand
    generator = torch.Generator().manual_seed(seed)
    cores = [draw(size, generator=generator, dtype=torch.float64) for size in ring.core_shapes]
    return ring, ring.to_dense(cores).t().contiguous(), cores


def noise(outputs, inputs, seed=0):
    """A matrix that no ring made."""
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize(
    ("shape", "ranks"),
    [
        ("3x4x5:4x3", (3,) * 6),
        ("4x2x5:4x4", (2, 3, 4, 5, 4, 2)),
        ("8x8:8x8", (5,) * 5),
        ("8x8:8x8", (6,) * 5),  # wider than any unfolding of two modes
        ("4x4x4:4x4", (6,) * 6),
        ("3x5:4x6", (4,) * 5),
        ("16:5x7", (3,) * 4),
        ("7x7x5x2:2", (4,) * 6),
        ("3x3x2x4:3x7", (2, 6, 4, 4, 3, 5, 2)),
        ("10x5:8", (1, 4, 1, 1)),
        ("2x3x2:2x2x3", (2,) * 7),
    ],
)
def test_hard_rings_are_found_again(shape, ranks, kind):
    ring, weight, _ = planted(shape, ranks, kind, seed=1)
    found = decompose(weight, ring)
    assert float((ring.to_dense(found.cores) - weight.t()).norm() / weight.norm()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("shape", "ranks"), [("9x10:8", (4,) * 4), ("3x3:3x7x2", (3, 4, 6, 5, 3, 3))])
def test_rings_of_nearly_as_many_values_as_w_are_found_again(shape, ranks, kind, seed):
    ring, weight, _ = planted(shape, ranks, kind, seed)
    assert decompose(weight, ring).error < 1e-6


def test_a_hard_ring_in_float32_is_found_again():
    ring, weight, _ = planted("4x5x4:5x6", (4,) * 6, "uniform")
    assert decompose(weight.float(), ring).error < 1e-6


def test_noise_on_top_of_a_ring_ends_the_search_at_the_bound():
    ring, weight, _ = planted("6x5x4:5x8", (3,) * 6)
    noisy = weight + 0.1 * weight.std() * noise(*weight.shape)
    fit = Fit([], 0.0, [0.099], "")
    objective = Objective(InMemoryMatrix(noisy), ring)
    assert not looks_planted(objective, fit)
    assert looks_planted(Objective(InMemoryMatrix(weight), ring), fit)
    found = decompose(noisy, ring)
    assert found.bound < found.error < 0.1
    assert found.sweeps < 100


def test_pure_noise_looks_like_no_ring():
    weight = noise(24, 60)
    ring = TensorRing((3, 4, 5), (4, 6), (3,) * 6)
    objective = Objective(InMemoryMatrix(weight), ring)
    assert not looks_planted(objective, Fit([], 0.0, [decompose(weight, ring).error], ""))


def test_equal_modes_have_orthogonal_slices_of_equal_norm():
    ring, weight, _ = planted("4x5x4:5x6", (4,) * 6, "uniform")
    found = equal_modes(Objective(InMemoryMatrix(weight), ring))
    assert found is not None
    there = found.objective
    tensor = there.source.dense().reshape(there.ring.modes)
    assert float(tensor.norm()) == pytest.approx(1.0)
    for k, size in enumerate(there.ring.modes):
        unfolded = tensor.movedim(k, 0).reshape(size, -1)
        torch.testing.assert_close(size * unfolded @ unfolded.t(), torch.eye(size).double(), rtol=0, atol=0.03)


def test_cores_carried_back_from_equal_modes_make_w():
    ring, weight, cores = planted("7x4:5x6", (2, 2, 3, 2, 2))
    found = equal_modes(Objective(InMemoryMatrix(weight), ring))
    assert found is not None
    assert found.objective.ring.modes == (4, 4, 5, 4)  # cut to what two bonds can carry
    ways = [torch.linalg.pinv(back) for back in found.maps]
    there = [torch.einsum("rnq,kn->rkq", core, way) for core, way in zip(cores, ways, strict=True)]
    dense = found.objective.ring.to_dense(there)
    torch.testing.assert_close(dense, found.objective.source.dense())
    torch.testing.assert_close(ring.to_dense(found.carry_back(there)), weight.t())


def test_large_weighed_and_zero_matrices_keep_their_modes(monkeypatch):
    from trcompress.decomposition import Metric

    ring, weight, _ = planted("4x5:5x6", (2,) * 5)
    assert equal_modes(Objective(InMemoryMatrix(weight * 0), ring)) is None
    assert equal_modes(Objective(InMemoryMatrix(weight), ring, Metric(input_rows=torch.eye(20)))) is None
    monkeypatch.setattr(coordinates, "MAX_VALUES", 599)
    assert equal_modes(Objective(InMemoryMatrix(weight), ring)) is None
    assert decompose(weight, ring).error < 1e-6


def test_the_same_seed_finds_the_same_planted_ring():
    ring, weight, _ = planted("8x8:8x8", (5,) * 5, "uniform")
    first, again = decompose(weight, ring, seed=3), decompose(weight, ring, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.cores, again.cores, strict=True))
