"""What `inspect` counts and suggests."""

from __future__ import annotations

import pytest
import torch
from checkpoint_cases import (
    STATE,
    Net,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from trcompress.checkpoint import inspect


def test_inspection_counts_everything_once(tmp_path):
    net = Net()
    state = net.state_dict() | {"tied": net.state_dict()["embedding.weight"]}
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": []}}, tmp_path / "model.pt")
    found = inspect(tmp_path / "model.pt")
    recurrent = sum(p.numel() for part in (net.encoder, net.decoder) for p in part.parameters())
    assert found.parameters == sum(t.numel() for t in net.state_dict().values())
    assert found.recurrent_parameters == recurrent
    assert found.other_parameters == found.parameters - recurrent
    assert found.other_tensors == 5
    assert found.shared == (("embedding.weight", "tied"),)
    assert found.size_bytes == (tmp_path / "model.pt").stat().st_size
    assert [layer.direction for layer in found.layers] == ["forward", "backward", "forward", "backward", "forward"]
    assert sum(layer.share for layer in found.layers) == pytest.approx(recurrent / found.parameters)
    assert found.layers[0].weight_parameters == 6 * 16
    assert found.largest_other[0].name in ("embedding.weight", "tied")
    assert "optimizer" in found.ignored


def test_inspection_goes_to_json(tmp_path):
    import json

    torch.save(STATE, tmp_path / "model.pt")
    again = json.loads(json.dumps(inspect(tmp_path / "model.pt").to_dict()))
    assert again["layers"][0]["weight"] == "rnn.weight_ih_l0"
    assert 1.1 <= again["suggested_ratio"] <= 10


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 300)), min_size=1, max_size=3),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
)
def test_the_suggested_ratio_leaves_every_layer_half_of_what_it_sees(sizes, layers, bidirectional, tmp_path):
    """The largest rank that fits for all alike, found by trying one after the other, is wide enough everywhere."""
    with torch.device("meta"):
        net = nn.ModuleDict(
            {f"part{k}": nn.GRU(i, h, layers, bidirectional=bidirectional) for k, (i, h) in enumerate(sizes)}
        )
    state = {key: torch.zeros(1).half().expand(tensor.shape) for key, tensor in net.state_dict().items()}
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    ratio = inspect(tmp_path / "model.safetensors").suggested_ratio
    shapes = [tensor.shape for key, tensor in state.items() if "weight_ih" in key]
    budget = int(sum(rows * columns for rows, columns in shapes) / ratio)

    def kept(rank):
        return sum(min(rows * columns, rank * (rows + columns)) for rows, columns in shapes)

    half = [(min(columns, rows // 3) + 1) // 2 for rows, columns in shapes]
    assert 1.1 <= ratio <= 10
    assert ratio == 1.1 or kept(max(half)) <= budget
