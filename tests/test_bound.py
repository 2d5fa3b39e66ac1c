"""The lower bound: below every ring there is, zero for planted ones, and equal to the best unfolding's tail."""

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.decomposition import FileMatrix, InMemoryMatrix, beside_bound, decompose, lower_bound
from trcompress.decomposition import bound as bound_module
from trcompress.decomposition import source as source_module
from trcompress.decomposition.bound import arcs
from trcompress.formats import TensorRing

RING = TensorRing((3, 4, 2), (4, 3, 2), (2, 2, 2, 3, 2, 3, 2))


def _cores(ring, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ring.core_shapes]


def _noise(outputs, inputs, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_cut_of_the_ring_is_looked_at_once():
    d = len(RING.modes)
    cuts = {frozenset({arc.first, arc.last + 1}) for arc in arcs(RING)}
    assert len(cuts) == len(list(arcs(RING))) == d * (d - 1) // 2 - 1  # the cut between inputs and outputs apart
    assert frozenset({0, 3}) not in cuts


def test_the_bound_is_the_best_tail_of_all_unfoldings():
    weight = _noise(24, 24)
    tails = reference.arc_tails(RING, weight.t())
    found = lower_bound(InMemoryMatrix(weight), RING)
    assert found.value == pytest.approx(max(tails.values()) / float(weight.norm()), rel=1e-9)
    cut_only = lower_bound(InMemoryMatrix(weight), RING, work=0)
    assert cut_only.value == pytest.approx(tails[0, 2] / float(weight.norm()), rel=1e-9)
    assert cut_only.where == "the cut between inputs and outputs, rank R0*R3 = 6"
    assert found.value > cut_only.value


def test_the_place_of_the_bound_is_named():
    # Rank one at every bond inside the inputs, high rank at the cut: only an arc can see it.
    ring = TensorRing((4, 4), (4, 4), (4, 1, 4, 4, 4))
    found = lower_bound(InMemoryMatrix(_noise(16, 16)), ring)
    assert found.where == "the arc of modes 2..3 (4x4), rank R1*R3 = 4"


@given(
    modes=st.lists(st.integers(1, 4), min_size=3, max_size=5),
    ranks=st.lists(st.integers(1, 3), min_size=5, max_size=5),
    seed=st.integers(0, 999),
)
@settings(max_examples=40, deadline=None)
def test_no_ring_beats_the_bound(modes, ranks, seed):
    ring = TensorRing(tuple(modes[:1]), tuple(modes[1:]), (*ranks[: len(modes)], ranks[0]))
    planted = ring.to_dense(_cores(ring, seed))
    noise = torch.randn(planted.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for amount in (0.0, 1e-3, 1.0):
        dense = planted + amount * noise
        bound = lower_bound(InMemoryMatrix(dense.t()), ring).value
        # The planted ring itself is a ring of these ranks, so is any other.
        assert bound <= float((dense - planted).norm() / dense.norm()) + 1e-12
        other = ring.to_dense(_cores(ring, seed + 1))
        other = other * ((other * dense).sum() / other.square().sum())
        assert bound <= float((dense - other).norm() / dense.norm()) + 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_of_a_planted_ring_is_zero_and_of_noise_close_to_what_is_reached(seed):
    planted = RING.to_dense(_cores(RING, seed))
    assert lower_bound(InMemoryMatrix(planted.t()), RING).value < 1e-6
    found = decompose(_noise(24, 24, seed), RING, restarts=0)
    assert 0.5 * found.error < found.bound <= found.error


def test_the_bound_is_the_same_from_blocks_and_from_a_file(tmp_path, monkeypatch):
    weight = _noise(24, 24).float()
    expected = lower_bound(InMemoryMatrix(weight), RING)
    (tmp_path / "w").write_bytes(weight.numpy().tobytes())
    source = FileMatrix(tmp_path / "w", 0, (24, 24), torch.float32, read_bytes=24 * 4 * 9)
    monkeypatch.setattr(source_module, "BLOCK_VALUES", 50)
    monkeypatch.setattr(bound_module, "BLOCK_VALUES", 50)
    streamed = lower_bound(source, RING)
    assert 0 < streamed.value <= expected.value * (1 + 1e-9)  # arcs that would need all of W at once are left out
    assert lower_bound(InMemoryMatrix(weight), RING).value == pytest.approx(expected.value, rel=1e-9)


def test_what_a_ring_has_in_the_padding_is_free():
    planted = RING.to_dense(_cores(RING)).t()
    assert lower_bound(InMemoryMatrix(planted[:, :23]), RING).value < 1e-6  # 23 inputs in modes of 24
    assert lower_bound(InMemoryMatrix(planted[:22]), RING).value < 1e-6
    gates = planted.reshape(2, 12, 24)[:, :11].flatten(0, 1)  # 2 gates of 11 units in modes of 12
    for part in InMemoryMatrix(gates).pad_gates(2, 12).split(1):
        assert lower_bound(part, RING).value < 1e-6
    per_gate = TensorRing(RING.in_modes, (4, 3), (2, 2, 2, 3, 2, 2))
    each = per_gate.to_dense(_cores(per_gate)).t()[:11]
    for part in InMemoryMatrix(torch.cat((each, each))).pad_gates(2, 12).split(2):
        assert lower_bound(part, per_gate).value < 1e-6


def test_the_cut_bounds_a_padded_matrix():
    weight = _noise(23, 22)
    tail = torch.linalg.svdvals(weight)[RING.bottleneck :].norm()
    found = lower_bound(InMemoryMatrix(weight), RING)
    assert found.value == pytest.approx(float(tail / weight.norm()), rel=1e-9)


def test_work_bounds_what_is_looked_at(monkeypatch):
    looked = []
    true = bound_module._arc_squares
    monkeypatch.setattr(bound_module, "_arc_squares", lambda *args: looked.append(args) or true(*args))
    lower_bound(InMemoryMatrix(_noise(24, 24)), RING, work=2e4)
    few = len(looked)
    lower_bound(InMemoryMatrix(_noise(24, 24)), RING)
    assert 0 < few < len(looked) - few


def test_the_bound_is_put_in_plain_words():
    words = beside_bound(0.3, 0.25)
    assert words == "no ring of these ranks can do better than 25.00 %; yours is at 30.00 %"
