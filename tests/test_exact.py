"""With full ranks nothing is lost: from a checkpoint through the artifact back to a layer that equals torch.nn."""

import pytest
import torch
from torch import nn

import trcompress
from trcompress import Plan

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def outputs_and_gradients(layer, x, state):
    x = x.clone().requires_grad_()
    out, last = layer(x, state)
    last = last if isinstance(last, tuple) else (last,)
    loss = out.square().sum() + sum(part.sum() for part in last)
    shared = {name: p for name, p in layer.named_parameters() if "weight_ih" not in name}
    gradients = torch.autograd.grad(loss, [x, *shared.values()])
    return [out, *last, gradients[0]], dict(zip(shared, gradients[1:], strict=True))


def state_for(kind, layer, batch, dtype):
    directions = 2 if layer.bidirectional else 1
    h = torch.randn(layer.num_layers * directions, batch, layer.proj_size or layer.hidden_size, dtype=dtype)
    c = torch.randn(layer.num_layers * directions, batch, layer.hidden_size, dtype=dtype)
    return (h, c) if kind == "lstm" else h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", ["12:16", "4x3:4x4", "3x2x2:2x4x2", "12:stacked"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("init", ["tr-svd", "tr-als"])
def test_full_ranks_equal_torch(tmp_path, kind, shape, dtype, init):
    torch.manual_seed(1)
    dense = KINDS[kind](12, 16, bidirectional=True).to(dtype)
    gates = dense.weight_ih_l0.shape[0] // 16
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    plan = Plan.of(shape.replace("stacked", str(gates * 16)), "full")
    artifact = trcompress.decompose(tmp_path / "dense.pt", plan, init=init)
    path = trcompress.write_artifact(tmp_path / "ring.safetensors", artifact)
    ring = trcompress.load(path)[""].train()
    x, state = torch.randn(7, 3, 12, dtype=dtype), state_for(kind, dense, 3, dtype)
    want, want_shared = outputs_and_gradients(dense, x, state)
    got, got_shared = outputs_and_gradients(ring, x, state)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE[dtype])
    for name, gradient in want_shared.items():
        torch.testing.assert_close(got_shared[name], gradient, rtol=0, atol=TOLERANCE[dtype] * 100)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_permuted_gate_order_is_noticed(kind):
    torch.manual_seed(1)
    dense = KINDS[kind](12, 16).double()
    wrong = KINDS[kind](12, 16).double()
    wrong.load_state_dict(dense.state_dict())
    with torch.no_grad():
        wrong.weight_ih_l0.copy_(dense.weight_ih_l0.roll(16, 0))
    model = nn.Sequential(wrong)
    trcompress.compress_(model, Plan.of("4x3:4x4", "full"))
    x = torch.randn(7, 3, 12, dtype=torch.float64)
    assert (model[0](x)[0] - dense(x)[0]).abs().max() > 1e-3
    torch.testing.assert_close(model[0](x)[0], wrong(x)[0], rtol=0, atol=1e-10)


def test_the_papers_counts_come_from_a_real_artifact(tmp_path):
    dense = nn.LSTM(2048, 2048, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
        dense.weight_ih_l0[:64, :64] = torch.eye(64)
    torch.save(dense.state_dict(), tmp_path / "cnn.pt")
    plan = Plan.of("64x32:32x64", "40,60,48,48")
    artifact = trcompress.decompose(tmp_path / "cnn.pt", plan, init="random")
    path = trcompress.write_artifact(tmp_path / "cnn.safetensors", artifact)
    (weight,) = trcompress.report(path).weights
    assert (weight.parameters_after, round(weight.compression_ratio, 2)) == (663_552, 25.28)


def test_compress_swaps_in_place_and_says_what(tmp_path):
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.LSTM(12, 16), "b": nn.Sequential(nn.GRUCell(12, 16)), "c": nn.Linear(12, 2)})
    swapped = trcompress.compress_(model, Plan.of("4x3:4x4", "2"))
    assert [one.name for one in swapped] == ["a", "b.0"]
    assert isinstance(model["a"], trcompress.TRLSTM)
    assert isinstance(model["b"][0], trcompress.TRGRUCell)
    assert all(0 < weight.bound <= weight.error < 1 for one in swapped for weight in one.weights)
    with pytest.raises(trcompress.TrcompressError, match="nothing to compress"):
        trcompress.compress_(nn.Linear(2, 2), Plan.of("4x3:4x4", "2"))
    with pytest.raises(trcompress.TrcompressError, match="fits no layer"):
        trcompress.compress_(nn.Sequential(nn.LSTM(5, 6)), Plan.of("4x3:4x4", "2"))
