"""Layouts of recurrent layers under other names: exactly torch.nn's layer, or refused by name."""

import pytest
import torch
from cases import HEAD, cell, linear, lstm
from command import run
from torch import nn

import trcompress
from trcompress.artifact.file import read_artifact
from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError
from trcompress.network.read_classifier import read_classifier

RINGS = ("--shape", "4x3:4x2", "--ranks", "2")


@pytest.fixture
def saved(tmp_path):
    """Write an object with torch.save; returns its path."""

    def write(content, name="model.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def compressed(tmp_path):
    """Decompose a file exactly (every rank full); returns the artifact."""

    def write(path, shape="4x3:4x2"):
        out = tmp_path / "ring.safetensors"
        done = run(
            "decompose", path, "--shape", shape, "--ranks", "full", "--init", "tr-svd", "-o", out, "--overwrite"
        )
        assert done.code == 0, done.stderr
        return out

    return write


# Weight drop, as fastai 1 and 2, the authors' own code and a single layer keep it.


def dropped(state, where, raw, *, keep_copy):
    """Move weight_hh_l0 of a layer to its trained copy; the plain one is missing, or half zero."""
    state = dict(state)
    trained = state.pop(f"{where}weight_hh_l0")
    if keep_copy:
        state[f"{where}weight_hh_l0"] = nn.functional.dropout(trained, 0.5)
    return state | {f"{raw}weight_hh_l0_raw": trained}


AWD = {
    "fastai 2": ("0.rnns.0.module.", "0.rnns.0.", False),
    "fastai 1": ("0.rnns.0.module.", "0.rnns.0.", True),
    "the authors'": ("rnns.0.module.", "rnns.0.module.", False),
    "in the layer itself": ("encoder.rnn.", "encoder.rnn.", True),
    "at the root": ("", "", False),
}


@pytest.mark.parametrize("case", AWD)
def test_the_trained_copy_is_the_weight(case, saved, compressed):
    where, raw, keep_copy = AWD[case]
    plain = lstm(where) | linear("decoder", 5, 8)
    path = saved({"model": dropped(plain, where, raw, keep_copy=keep_copy), "opt": None})
    checkpoint = read_checkpoint(path)
    checkpoint.check_compressible()
    (layer,) = checkpoint.layers
    assert (layer.kind, layer.hidden_size) == ("lstm", 8)
    assert torch.equal(checkpoint.tensor(layer.keys["weight_hh"]), plain[f"{where}weight_hh_l0"])
    assert any("_raw" in note for note in checkpoint.notes)
    assert any("not used" in note for note in checkpoint.notes) == keep_copy
    (module,) = trcompress.load(compressed(path)).values()
    expected = nn.LSTM(12, 8)
    expected.load_state_dict(
        {key.removeprefix(where): value for key, value in plain.items() if "decoder" not in key}
    )
    x = torch.randn(5, 2, 12)
    torch.testing.assert_close(module(x)[0], expected(x)[0], atol=1e-5, rtol=1e-5)
    kept = read_artifact(path.with_name("ring.safetensors")).tensors
    if not any("wrapper" in note for note in checkpoint.notes):
        assert torch.equal(kept[f"{raw}weight_hh_l0_raw"], plain[f"{where}weight_hh_l0"])


# One bias.


def without(state, *parts):
    return {key: value for key, value in state.items() if not any(part in key for part in parts)}


ONE_BIAS = {
    "LSTM without bias_hh": (nn.LSTM(12, 8), "bias_hh"),
    "LSTM without bias_ih": (nn.LSTM(12, 8), "bias_ih"),
    "GRU without bias_hh": (nn.GRU(12, 8), "bias_hh"),
    "GRU without bias_ih": (nn.GRU(12, 8), "bias_ih"),
    "two layers, both directions": (nn.LSTM(12, 8, 2, bidirectional=True), "bias_hh"),
    "bias only above": (nn.GRU(12, 8, 2), "bias_ih_l0 bias_hh_l0"),
    "a cell": (nn.GRUCell(12, 8), "bias_hh"),
}


@pytest.mark.parametrize("case", ONE_BIAS)
def test_a_zero_stands_for_the_second_bias_exactly(case, saved, compressed):
    module, gone = ONE_BIAS[case]
    with torch.no_grad():
        for name, value in module.named_parameters():
            if any(part in name for part in gone.split()):
                value.zero_()
    whole = {f"net.{key}": value for key, value in module.state_dict().items()}
    path = saved(without(whole, *gone.split()) | HEAD)
    checkpoint = read_checkpoint(path)
    for key, value in whole.items():
        assert torch.equal(checkpoint.tensor(key), value)
    assert any("zeros stand for the second bias" in note for note in checkpoint.notes)
    (ring,) = trcompress.load(compressed(path)).values()
    x = torch.randn(3, 12) if isinstance(module, nn.GRUCell) else torch.randn(5, 3, 12)
    torch.testing.assert_close(first(ring(x)), first(module(x)), atol=1e-5, rtol=1e-5)


def first(answer):
    return answer[0] if isinstance(answer, tuple) else answer


def test_short_names_get_a_bias_of_their_spelling(saved):
    short = {"weight_ih": "enc_W_ih", "weight_hh": "enc_W_hh", "bias_ih": "enc_b_ih"}
    state = {short[key]: value for key, value in nn.GRUCell(12, 8).state_dict().items() if key in short}
    (layer,) = read_checkpoint(saved(state)).layers
    assert layer.keys["bias_hh"] == "enc_b_hh"


# Projections under other names.


def projected(name, **options):
    state = lstm("rnn.", proj_size=4, **options)
    return {
        name.join(key.split("weight_hr_l0")) if "weight_hr" in key else key: value for key, value in state.items()
    }


@pytest.mark.parametrize("name", ["weight_hp_l0", "weight_ph_l0", "weight_proj_l0", "projection.weight", "W_p_l0"])
def test_a_projection_under_another_name(name, saved, compressed):
    state = projected(name)
    checkpoint = read_checkpoint(saved(state | HEAD))
    checkpoint.check_compressible()
    (layer,) = checkpoint.layers
    assert (layer.kind, layer.hidden_size, layer.proj_size) == ("lstm", 8, 4)
    assert layer.keys["weight_hr"] == f"rnn.{name}"
    (ring,) = trcompress.load(compressed(checkpoint.path)).values()
    plain = nn.LSTM(12, 8, proj_size=4)
    plain.load_state_dict({key.removeprefix("rnn."): value for key, value in lstm_names(state, name).items()})
    x = torch.randn(5, 2, 12)
    torch.testing.assert_close(ring(x)[0], plain(x)[0], atol=1e-5, rtol=1e-5)


def lstm_names(state, name):
    return {key.replace(name, "weight_hr_l0"): value for key, value in state.items()}


@pytest.mark.parametrize(
    "more",
    [{"rnn.projection.bias": torch.zeros(4)}, {"rnn.weight_odd_l0": torch.zeros(4, 8)}],
    ids=["with a bias", "a name unknown"],
)
def test_what_may_be_another_projection_is_refused(more, saved):
    name = "projection.weight" if "rnn.projection.bias" in more else "weight_odd_l0"
    with pytest.raises(
        InputFileError, match=r"no recurrent layer.*rnn.weight_ih_l0 \(32, 12\) with weight_hh \(32, 4\)"
    ):
        read_checkpoint(saved(projected(name) | more))


# Layers in lists, and cells.


LISTS = {
    "stacks in a list": lstm("rnns.0.") | lstm("rnns.1.", 8) | lstm("rnns.2.", 8),
    "ten and more": {k: v for n in range(12) for k, v in lstm(f"lstm.{n}.", 12 if n == 0 else 8).items()},
    "cells in a list": cell("lstm", "cells.0.") | cell("lstm", "cells.1.", 8),
    "named layers": cell("gru", "net.layer1.") | cell("gru", "net.layer2.", 8),
    "wrapped layers": lstm("layers.0.rnn.") | lstm("layers.1.rnn.", 8),
}


@pytest.mark.parametrize("case", LISTS)
def test_layers_in_lists_follow_each_other(case, saved, compressed):
    path = saved(LISTS[case] | HEAD)
    found = read_classifier(path)
    names = list(dict.fromkeys(layer.stack for layer in read_checkpoint(path).layers))
    assert list(found.recurrent) == sorted(
        names, key=lambda name: [int(p) if p.isdigit() else 0 for p in name.split(".")]
    )
    x = torch.randn(3, 5, 12)
    expected = x
    for name in found.recurrent:
        expected = stack_of(LISTS[case], name)(expected)[0]
    expected = expected[:, -1] @ HEAD["fc.weight"].T + HEAD["fc.bias"]
    torch.testing.assert_close(found.module(x), expected, atol=1e-5, rtol=1e-5)
    ring = read_classifier(compressed(path))
    torch.testing.assert_close(ring.module(x), expected, atol=1e-4, rtol=1e-4)


def stack_of(state, name):
    """The oracle: one torch.nn layer of the tensors under a name."""
    own = {
        key.removeprefix(f"{name}.").removesuffix("_l0") + "_l0": v
        for key, v in state.items()
        if key.startswith(f"{name}.")
    }
    rows, columns = own["weight_ih_l0"].shape
    hidden = own["weight_hh_l0"].shape[1]
    layer = {4: nn.LSTM, 3: nn.GRU}[rows // hidden](columns, hidden, batch_first=True)
    layer.load_state_dict(own)
    return layer


# Quantized modules and Keras.


@pytest.mark.filterwarnings("ignore")
def test_layers_of_quantized_modules_say_when_to_save(saved):
    net = nn.ModuleDict({"rnn": nn.LSTM(12, 8), "cell": nn.GRUCell(12, 8)})
    dynamic = torch.ao.quantization.quantize_dynamic(net, {nn.LSTM, nn.GRUCell}, dtype=torch.qint8).state_dict()
    prepared = {f"rnn.{key}": value for key, value in torch.ao.nn.quantizable.LSTM(12, 8).state_dict().items()}
    for content in (dynamic, prepared):
        with pytest.raises(
            InputFileError, match=r"quantized.* save the model before (quantizing|it was quantized)"
        ):
            read_checkpoint(saved(content))
    head = torch.ao.quantization.quantize_dynamic(
        nn.ModuleDict({"rnn": nn.LSTM(12, 8), "fc": nn.Linear(8, 4)}), {nn.Linear}, dtype=torch.qint8
    )
    with pytest.raises(InputFileError, match=r"'fc\._packed_params.*quantized tensor.*before it was quantized"):
        read_checkpoint(saved(head.state_dict())).check_compressible()


def test_keras_names_and_transposed_weights_are_refused(saved):
    keras = {"lstm/kernel:0": torch.zeros(12, 32), "lstm/recurrent_kernel:0": torch.zeros(8, 32)}
    with pytest.raises(InputFileError, match="those of Keras, whose matrices are transposed"):
        read_checkpoint(saved(keras))
    turned = {key: value.t().contiguous() if value.ndim == 2 else value for key, value in lstm("rnn.").items()}
    turned["rnn.weight_ih_l0"] = torch.zeros(8, 32)
    with pytest.raises(InputFileError, match="look transposed; transpose both"):
        read_checkpoint(saved(turned))


def test_a_layer_without_weight_hh_is_no_whole_layer(saved):
    path = saved(without(lstm("rnn."), "weight_hh") | HEAD)
    with pytest.raises(
        InputFileError, match=r"'rnn\.weight_ih_l0' has no weight_hh beside it, so it is no whole LSTM"
    ):
        read_checkpoint(path, kind="lstm").check_compressible()
    with pytest.raises(InputFileError, match="no weight_hh"):
        read_classifier(path)


def test_a_recurrent_layer_that_torch_does_not_have_is_never_passed_over(saved):
    odd = {"odd.weight_ih_l0": torch.zeros(16, 8), "odd.weight_hh_l0": torch.zeros(16, 8)}
    with pytest.raises(InputFileError, match=r"odd\.weight_ih_l0, odd.weight_hh_l0, named as a recurrent layer's"):
        read_classifier(saved(lstm("rnn.") | odd | HEAD))
