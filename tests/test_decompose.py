"""`decompose` end to end: exactness, planted rings, bounds, determinism."""

import pytest
import torch

from trcompress.decomposition import ALGORITHMS, decompose, threads
from trcompress.errors import InputFileError, UsageError
from trcompress.formats import TensorRing


@pytest.mark.parametrize("init", list(ALGORITHMS))
def test_cores_have_the_shapes_of_the_ring_and_the_error_is_theirs(init):
    ring = TensorRing((4, 3), (4, 2), (2, 3, 2, 3, 2))
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(1))
    found = decompose(weight, ring, init=init)
    assert tuple(tuple(core.shape) for core in found.cores) == ring.core_shapes
    dense = weight.t().double()
    error = (dense - ring.to_dense(found.cores)).norm() / dense.norm()
    assert found.error == pytest.approx(float(error), rel=1e-9)
    assert found.bound <= found.error


def test_unknown_init_and_settings_are_named_with_the_nearest():
    ring = TensorRing((4,), (4,), (2, 2, 2))
    with pytest.raises(UsageError, match="did you mean 'tr-als'"):
        decompose(torch.ones(4, 4), ring, init="tr-alls")
    with pytest.raises(UsageError, match="did you mean 'sweeps'"):
        decompose(torch.ones(4, 4), ring, sweps=3)


def test_nan_is_refused():
    weight = torch.ones(4, 4)
    weight[1, 2] = float("nan")
    with pytest.raises(InputFileError, match="NaN"):
        decompose(weight, TensorRing((4,), (4,), (2, 2, 2)))


def test_small_matrices_are_decomposed_by_one_thread_which_is_taken_back(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen = []
    ring = TensorRing((4, 3), (4, 2), (2, 3, 2, 3, 2))

    def look(what, done):
        seen.append(torch.get_num_threads())

    def interrupt(what, done):
        raise KeyboardInterrupt

    try:
        decompose(torch.ones(8, 12), ring, progress=look)
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
        with pytest.raises(KeyboardInterrupt):
            decompose(torch.ones(8, 12), ring, progress=interrupt)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "SMALL_VALUES", 95)
        seen.clear()
        decompose(torch.ones(8, 12), ring, progress=look)
        assert set(seen) == {2}
    finally:
        torch.set_num_threads(before)
