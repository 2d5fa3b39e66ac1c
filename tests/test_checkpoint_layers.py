"""From keys and shapes to layers: the kind, what is missing, what contradicts, what is folded."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError, UsageError


@pytest.fixture
def read(tmp_path):
    """Save tensors and read them back."""

    def save_and_read(state, **options):
        torch.save(state, tmp_path / "model.pt")
        return read_checkpoint(tmp_path / "model.pt", **options)

    return save_and_read


def weights(rows: int, columns: int = 6, name: str = "rnn", **others: tuple[int, ...]):
    shapes = {"weight_ih_l0": (rows, columns), **others}
    return {f"{name}.{key}": torch.zeros(shape) for key, shape in shapes.items()}


# The kind.


@pytest.mark.parametrize(("kind", "cls"), [("lstm", nn.LSTM), ("gru", nn.GRU), ("rnn", nn.RNN)])
def test_shapes_decide_whatever_the_name_says(kind, cls, read):
    state = {f"my_gru_lstm_rnn.{key}": tensor for key, tensor in cls(6, 12).state_dict().items()}
    (layer,) = read(state).layers
    assert layer.kind == kind
    assert "by its shapes" in layer.decided_by
    assert read(state, kind=kind).layers[0].kind == kind


@pytest.mark.parametrize("wish", ["gru", "rnn"])
def test_an_override_against_the_shapes_is_an_error(wish, read):
    with pytest.raises(InputFileError, match=rf"`kind={wish}` contradicts the shapes of stack 'rnn'.*48 rows"):
        read({f"rnn.{key}": tensor for key, tensor in nn.LSTM(6, 12).state_dict().items()}, kind=wish)


@pytest.mark.parametrize(
    ("name", "rows", "kind", "said"),
    [
        ("net", 48, "lstm", "could also be GRU or RNN"),
        ("net", 8, "lstm", "could also be RNN"),
        ("net", 9, "gru", "could also be RNN"),
        ("net", 7, "rnn", "by its rows"),
        ("my.gru_layer", 48, "gru", "the name"),
        ("lstm", 48, "lstm", "the name"),
        ("rnn", 48, "rnn", "the name"),
        ("lstm", 9, "gru", "could also be RNN"),  # a name that the rows rule out
    ],
)
def test_without_weight_hh_the_decision_is_told_and_can_be_overridden(name, rows, kind, said, read):
    state = weights(rows, name=name, bias_ih_l0=(rows,))
    (layer,) = read(state).layers
    assert layer.kind == kind
    assert said in layer.decided_by
    assert "`kind` overrides" in layer.decided_by
    (layer,) = read(state, kind="rnn").layers
    assert (layer.kind, layer.hidden_size) == ("rnn", rows)
    assert "`kind` says so" in layer.decided_by


def test_a_pickled_module_without_weight_hh_is_told_by_its_class(read):
    net = nn.ModuleDict({"net": nn.GRU(6, 4)})
    del net["net"]._parameters["weight_hh_l0"]
    (layer,) = read(net).layers
    assert layer.kind == "gru"
    assert "class" in layer.decided_by


def test_override_must_divide_the_rows(read):
    with pytest.raises(InputFileError, match=r"`kind=lstm` contradicts .* 9 rows do not divide by 4 gates"):
        read(weights(9), kind="lstm")


def test_override_by_stack(read):
    state = weights(12, name="encoder") | weights(12, name="decoder")
    layers = read(state, kind="enc*=gru, decoder=rnn").layers
    assert [(layer.stack, layer.kind) for layer in layers] == [("encoder", "gru"), ("decoder", "rnn")]
    with pytest.raises(UsageError, match=r"'nothing' matches none of: 'encoder', 'decoder'"):
        read(state, kind="nothing=gru")


@pytest.mark.parametrize(
    "others",
    [{"weight_hh_l0": (8, 4)}, {"weight_hh_l0": (20, 4)}, {"weight_hh_l0": (8,)}, {"weight_hh_l0": (8, 4, 3, 3)}],
    ids=["two gates", "five gates", "a vector", "a convolution"],
)
def test_layers_that_pytorch_does_not_have_are_left_and_noted(others, read):
    rows = others["weight_hh_l0"][0]
    odd = weights(rows, name="odd", **others)
    known = {f"rnn.{key}": tensor for key, tensor in nn.LSTM(6, 4).state_dict().items()}
    checkpoint = read(odd | known)
    assert [layer.stack for layer in checkpoint.layers] == ["rnn"]
    assert set(odd) < set(checkpoint.shapes)
    assert any("odd.weight_ih_l0" in note for note in checkpoint.notes)
    with pytest.raises(InputFileError, match=r"no recurrent layer.*odd.weight_ih_l0"):
        read(odd)


# What is missing or contradicts.


def lstm(**changes):
    state = nn.LSTM(6, 4, num_layers=3, bidirectional=True).state_dict()
    for key, tensor in changes.items():
        state[key] = tensor
    return {key: tensor for key, tensor in state.items() if tensor is not None}


def without(*parts):
    return {key: tensor for key, tensor in lstm().items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("_l1"), r"'the root' is incomplete: weight_ih_l1, weight_ih_l1_reverse missing"),
        (without("_l0"), r"incomplete: weight_ih_l0, weight_ih_l0_reverse missing"),
        (without("l1_reverse"), r"incomplete: weight_ih_l1_reverse missing"),
        (lstm(weight_ih_l1=torch.zeros(16, 4)), r"layer 1 of stack .* must take the 8 values of layer 0.*takes 4"),
        (lstm(weight_hh_l0=torch.zeros(12, 4)), r"'weight_hh_l0' must be \(16, 4\).*it is \(12, 4\)"),
        (lstm(bias_hh_l0=torch.zeros(15)), r"'bias_hh_l0' must be \(16,\)"),
        (lstm(weight_ih_l0=torch.zeros(16, 6).int()), r"must be float16.*'weight_ih_l0' is int32"),
        (lstm(weight_hh_l0=torch.zeros(16, 4).to(torch.complex64)), r"'weight_hh_l0' is complex64"),
        (lstm(weight_ih_l0=torch.zeros(16, 6).to_sparse()), r"'weight_ih_l0' is a sparse tensor"),
        (
            lstm(weight_ih_l0=torch.quantize_per_tensor(torch.zeros(16, 6), 0.1, 0, torch.qint8)),
            r"'weight_ih_l0' is a quantized tensor",
        ),
        (lstm(weight_ih_l0=torch.empty(16, 6, device="meta")), r"'weight_ih_l0' is a tensor without data"),
        (weights(6, 12, weight_hh_l0=(3, 12)), r"look transposed; transpose both"),
        (weights(12, weight_hh_l0=(12, 2), weight_hr_l0=(2, 4)), r"only an LSTM has a projection"),
        (weights(16, weight_hh_l0=(16, 4), weight_hr_l0=(4, 4)), r"a smaller one than its hidden size"),
        ({"enc_w_ih": torch.zeros(12, 6), "enc_weight_ih": torch.zeros(12, 6)}, r"'enc_w_ih' and 'enc_weight_ih'"),
        (nn.LSTM(6, 4).state_dict() | nn.LSTMCell(6, 4).state_dict(), r"with and without _l0"),
    ],
    ids=range(16),
)
@pytest.mark.filterwarnings("ignore")
def test_contradictions_are_named(state, message, read):
    with pytest.raises(InputFileError, match=message) as caught:
        read(state)
    assert "\n" not in str(caught.value)
    assert "model.pt" in str(caught.value)
    assert caught.value.exit_code == 3


def test_no_recurrent_layer_says_what_was_found(read):
    net = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 2))
    with pytest.raises(
        InputFileError, match=r"no recurrent layer: the file holds 4 tensors, the largest: 0.weight \(20, 30\)"
    ):
        read(net.state_dict())
    with pytest.raises(InputFileError, match="no tensor at all"):
        read({"epoch": 3})


def test_layers_come_in_order_whatever_the_order_in_the_file(read):
    state = dict(reversed(list(lstm().items())))
    places = [(layer.index, layer.reverse) for layer in read(state).layers]
    assert places == [(k, reverse) for k in range(3) for reverse in (False, True)]


def test_short_names_and_capitals(read):
    cell = nn.GRUCell(6, 4)
    short = {"weight_ih": "W_ih", "weight_hh": "W_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    state = {f"net.enc_{short[key]}": tensor for key, tensor in cell.state_dict().items()}
    (layer,) = read(state).layers
    assert (layer.stack, layer.kind, layer.cell) == ("net.enc", "gru", True)
    assert layer.keys["bias_hh"] == "net.enc_b_hh"


def test_a_quantized_tensor_that_is_not_recurrent_is_told_apart(read):
    state = nn.LSTM(6, 4).state_dict() | {"other": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}
    checkpoint = read(state)
    assert checkpoint.unreadable == {"other": "a quantized tensor"}
    with pytest.raises(
        InputFileError, match=r"'other' is a quantized tensor; .*before it was quantized.*`drop='other'`"
    ):
        checkpoint.refuse_incomplete()
    assert "other" not in checkpoint.shapes


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_model_is_named_as_such(read):
    net = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(6, 4)), {nn.LSTM}, dtype=torch.qint8)
    for content in (net.state_dict(), net):
        with pytest.raises(InputFileError, match=r"no recurrent layer.*packed weights of a quantized layer"):
            read(content)


# Folding.


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("old", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_weight_norm_is_folded_exactly(cls, dim, dtype, old, read):
    norm = nn.utils.weight_norm if old else nn.utils.parametrizations.weight_norm
    rnn = cls(6, 4, num_layers=2).to(dtype)
    for name in ("weight_ih_l0", "weight_hh_l0", "weight_ih_l1"):
        norm(rnn, name, dim=dim)
    net = nn.ModuleDict({"rnn": rnn, "head": nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.7)
    rnn(torch.zeros(1, 1, 6, dtype=dtype))  # old-style weight_norm renews the weight when called
    checkpoint = read({"model": net.state_dict()})
    assert [(layer.index, layer.kind) for layer in checkpoint.layers] == [
        (0, cls.__name__.lower()),
        (1, cls.__name__.lower()),
    ]
    for layer in checkpoint.layers:
        for role, key in layer.keys.items():
            expected = getattr(rnn, f"{role}_l{layer.index}").detach()
            assert torch.equal(checkpoint.tensor(key), expected)
            assert checkpoint.shapes[key] == tuple(expected.shape)
            assert checkpoint.dtypes[key] == str(dtype).removeprefix("torch.")
    assert checkpoint.file_region("rnn.weight_ih_l0") is None
    assert "weight_norm folded into the plain weights" in checkpoint.notes
    assert "head.parametrizations.weight.original0" in checkpoint.shapes  # not recurrent: as it was
    assert not any("rnn.parametrizations" in key or key.endswith(("_g", "_v")) for key in checkpoint.shapes)


def test_weight_norm_at_the_root_and_in_a_cell(read):
    for module in (nn.LSTM(6, 4), nn.GRUCell(6, 4)):
        name = next(iter(module.state_dict()))
        nn.utils.parametrizations.weight_norm(module, name)
        checkpoint = read(module.state_dict())
        assert torch.equal(checkpoint.tensor(name), getattr(module, name).detach())


@pytest.mark.filterwarnings("ignore")
def test_weight_norm_in_a_whole_module_keeps_what_the_class_says(read):
    rnn = nn.utils.weight_norm(nn.RNN(6, 4, nonlinearity="relu"), "weight_ih_l0")
    checkpoint = read(rnn)
    assert checkpoint.layers[0].nonlinearity == "relu"
    assert torch.equal(checkpoint.tensor("weight_ih_l0"), rnn.weight_ih_l0.detach())


def test_pruning_masks_are_folded(read):
    from torch.nn.utils import prune

    rnn = nn.LSTM(6, 4)
    prune.random_unstructured(rnn, "weight_ih_l0", amount=0.5)
    checkpoint = read(rnn.state_dict())
    assert torch.equal(checkpoint.tensor("weight_ih_l0"), rnn.weight_ih_l0.detach())
    assert (checkpoint.tensor("weight_ih_l0") == 0).sum() == 48


def test_other_parametrizations_are_refused_by_name(read):
    rnn = nn.utils.parametrizations.spectral_norm(nn.LSTM(6, 4), "weight_hh_l0")
    with pytest.raises(InputFileError, match=r"'weight_hh_l0' is kept in parts that cannot be folded"):
        read(rnn.state_dict())
    half = {"rnn.weight_ih_l0_v": torch.zeros(16, 6), "rnn.weight_hh_l0": torch.zeros(16, 4)}
    with pytest.raises(InputFileError, match=r"need 'rnn.weight_ih_l0_g' and 'rnn.weight_ih_l0_v'"):
        read(half)
    with pytest.raises(InputFileError, match=r"must fit: got shapes \(7, 1\) and \(16, 6\)"):
        read(half | {"rnn.weight_ih_l0_g": torch.zeros(7, 1)})


def test_safetensors_keep_folding_lazy(tmp_path):
    """Shapes are known before any value is read."""
    rnn = nn.utils.parametrizations.weight_norm(nn.LSTM(6, 4), "weight_ih_l0")
    save_file({key: tensor.clone() for key, tensor in rnn.state_dict().items()}, tmp_path / "m.safetensors")
    checkpoint = read_checkpoint(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").unlink()
    assert checkpoint.shapes["weight_ih_l0"] == (16, 6)
    with pytest.raises(InputFileError, match="cannot read 'weight_ih_l0'"):
        checkpoint.tensor("weight_ih_l0")
