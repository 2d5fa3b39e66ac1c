"""Any stacks, in any kind of file, are found as they are."""

from __future__ import annotations

from checkpoint_cases import (
    WRITERS,
    assert_same,
    renamed,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from trcompress.checkpoint import read_checkpoint

CLASSES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}

CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}

GATES = {"lstm": 4, "gru": 3, "rnn": 1}

stacks = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["lstm", "gru", "rnn"]),
        "input_size": st.integers(1, 7),
        "hidden_size": st.integers(1, 6),
        "num_layers": st.integers(1, 3),
        "bidirectional": st.booleans(),
        "bias": st.booleans(),
        "proj": st.booleans(),
        "cell": st.booleans(),
    }
)


def build(spec) -> nn.Module:
    sizes = spec["input_size"], spec["hidden_size"]
    if spec["cell"]:
        return CELLS[spec["kind"]](*sizes, bias=spec["bias"])
    projection = spec["hidden_size"] - 1 if spec["proj"] and spec["kind"] == "lstm" else 0
    options = {"proj_size": projection} if projection else {}
    return CLASSES[spec["kind"]](
        *sizes, num_layers=spec["num_layers"], bidirectional=spec["bidirectional"], bias=spec["bias"], **options
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    specs=st.lists(stacks, min_size=1, max_size=3),
    prefix=st.sampled_from(["", "module.", "_orig_mod.", "module._orig_mod."]),
    wrapper=st.sampled_from(["", "model", "state_dict"]),
    writer=st.sampled_from(sorted(WRITERS)),
    whole=st.booleans(),
)
def test_any_stacks_are_found_as_they_are(specs, prefix, wrapper, writer, whole, tmp_path):
    net = nn.ModuleDict({f"part{k}": build(spec) for k, spec in enumerate(specs)})
    state = net.state_dict()
    if writer.startswith("torch"):
        content = net if whole else renamed(state, lambda key: prefix + key)
        content = {wrapper: content} if wrapper else content
    else:
        content = renamed(state, lambda key: prefix + key)
    WRITERS[writer](content, tmp_path / "model")

    checkpoint = read_checkpoint(tmp_path / "model")

    assert_same(checkpoint, state)
    found = {}
    for layer in checkpoint.layers:
        found.setdefault(layer.stack, []).append(layer)
    assert list(found) == [f"part{k}" for k in range(len(specs))]
    for spec, module, layers in zip(specs, net.values(), found.values(), strict=True):
        check_layers(spec, module, layers)


def check_layers(spec, module, layers) -> None:
    directions = 1 if spec["cell"] else 1 + spec["bidirectional"]
    depth = 1 if spec["cell"] else spec["num_layers"]
    assert [(one.index, one.reverse) for one in layers] == [
        (k, bool(d)) for k in range(depth) for d in range(directions)
    ]
    for layer in layers:
        suffix = "" if spec["cell"] else f"_l{layer.index}" + ("_reverse" if layer.reverse else "")
        assert layer.kind == spec["kind"]
        assert layer.gates == GATES[spec["kind"]]
        assert layer.cell == spec["cell"]
        assert layer.hidden_size == spec["hidden_size"]
        assert layer.proj_size == getattr(module, "proj_size", 0)
        assert layer.input_size == getattr(module, f"weight_ih{suffix}").shape[1]
        assert dict(layer.keys) == {
            role: f"{layer.stack}.{role}{suffix}"
            for role in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            if hasattr(module, f"{role}{suffix}") and getattr(module, f"{role}{suffix}") is not None
        }
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in module.parameters())
