"""Two-mode rings on any matrix of a recurrent layer: best on the inputs seen, exact at full rank, kept in files."""

from pathlib import Path

import pytest
import torch
from torch import nn

import trcompress
from trcompress.layers import CoreWeight
from trcompress.layers.swaps import swap_
from trcompress.passes.matrix_moments import MatrixMoments, matrix_moments
from trcompress.passes.moments import Moments
from trcompress.passes.rings import break_even, low_rank, ring_swaps

CASES = [("LSTM", 2, True), ("LSTM", 1, False), ("GRU", 2, False), ("GRU", 1, True), ("RNN", 2, True)]


@pytest.mark.parametrize(("kind", "layers", "two_way"), CASES)
@pytest.mark.parametrize("packed", [False, True])
def test_every_matrix_may_be_a_ring_and_full_rank_is_exact(
    kind: str, layers: int, two_way: bool, packed: bool
) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(getattr(nn, kind)(8, 8, layers, bidirectional=two_way)).double().eval()
    x = torch.randn(5, 3, 8).double()
    given = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2])) if packed else x
    share = max(8 / break_even(rows, 8) for rows in (8, 24, 32))
    swaps = ring_swaps(dense, share, MatrixMoments({}, 0), ("ih", "hh"), least=1)
    cores = [name for name, one in swaps["0"].named_modules() if isinstance(one, CoreWeight)]
    assert len(cores) == 2 * layers * (1 + two_way)
    ring = swap_(nn.Sequential(dense[0]), swaps)
    wanted, found = dense(given)[0], ring(given)[0]
    if packed:
        wanted, found = wanted.data, found.data
    torch.testing.assert_close(found, wanted)
    found.square().sum().backward()
    assert all(one.grad is not None for one in ring.parameters())


@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "RNNCell"])
def test_cells_take_rings_in_either_matrix(kind: str) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(getattr(nn, kind)(8, 8)).double()
    ring = swap_(nn.Sequential(dense[0]), ring_swaps(dense, 2.0, MatrixMoments({}, 0), ("ih", "hh"), least=1))
    assert isinstance(ring[0].weight_hh, CoreWeight)
    x = torch.randn(3, 8).double()
    torch.testing.assert_close(ring(x), dense(x))


def test_no_matrix_of_the_rank_keeps_the_products_closer() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 12, generator=draw).double()
    inputs = torch.randn(500, 12, generator=draw).double() @ torch.randn(12, 12, generator=draw).double() + 2
    seen = Moments.of_size(12)
    seen.add(inputs)
    found = low_rank(weight, 4, seen)
    left = (inputs @ weight.T) - (inputs @ (found.left @ found.right).T + found.shift)
    centred = (inputs - inputs.mean(0)) @ weight.T
    best = torch.linalg.svdvals(centred)[4:].square().sum()
    assert left.square().sum() == pytest.approx(best.item(), rel=1e-3)


def test_rings_on_hidden_weights_are_saved_loaded_and_led_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(40, 40, batch_first=True))
    x = torch.randn(3, 5, 40)
    seen = matrix_moments(model, [x])
    small = swap_(nn.Sequential(model[0]), ring_swaps(model, 0.5, seen, ("ih", "hh"))).eval()
    path = trcompress.save(small, tmp_path / "ring.safetensors")
    wanted = small(x)[0]
    torch.testing.assert_close(trcompress.load(path)["0"](x)[0], wanted)
    mine = nn.Sequential(nn.LSTM(40, 40, batch_first=True))
    torch.testing.assert_close(trcompress.load_(path, mine)(x)[0], wanted)
    torch.testing.assert_close(trcompress.to_plain(small)(x)[0], wanted)
    report = trcompress.report(path)
    assert {one.name for one in report.weights} == {"0.weight_ih_l0", "0.weight_hh_l0"}
