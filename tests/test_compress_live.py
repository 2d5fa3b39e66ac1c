"""compress_ on models as people write them: subclasses, wrappers, shared weights, optimizers, hooks."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune, weight_norm

import trcompress
from trcompress import Plan
from trcompress.errors import InputFileError, UsageError
from trcompress.layers import CoreWeight

PLAN = Plan.of("4x3:4x2", 2)
FULL = Plan.of("4x3:4x2", "full")
X = torch.randn(5, 3, 12, generator=torch.Generator().manual_seed(0))


class KeepsForward(nn.LSTM):
    """A class of another name that only adds to torch.nn's."""

    def reset(self):
        self.was_reset = True


class OwnForward(nn.LSTM):
    """Named like torch.nn's kind, computes something else."""

    def forward(self, x, hx=None):
        y, state = super().forward(x, hx)
        return y.tanh(), state


class Holder(nn.Module):
    def __init__(self, rnn, **more):
        super().__init__()
        self.rnn = rnn
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.rnn(x)[0]


def test_a_class_that_keeps_the_forward_is_replaced_whatever_its_name():
    class Memory(nn.GRUCell):
        pass

    model = nn.ModuleDict({"a": KeepsForward(12, 8), "b": Memory(12, 8)})
    before = copy.deepcopy(model)
    trcompress.compress_(model, FULL)
    assert [type(one).__name__ for one in model.values()] == ["TRLSTM", "TRGRUCell"]
    torch.testing.assert_close(model["a"](X)[0], before["a"](X)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model["b"](X[0]), before["b"](X[0]), atol=1e-5, rtol=1e-4)


def test_a_class_with_its_own_forward_is_named_and_left():
    model = nn.ModuleDict({"odd": OwnForward(12, 8), "plain": nn.LSTM(12, 8)})
    with pytest.warns(UserWarning, match="odd stays dense: OwnForward is a LSTM with forward of its own"):
        result = trcompress.compress_(model, PLAN)
    assert type(model["odd"]) is OwnForward
    assert [one.name for one in result] == ["plain"]
    assert result.left[0][0] == "odd"
    assert "odd" in repr(result)


@pytest.mark.parametrize("change", ["instance forward", "permute_hidden"])
def test_what_a_module_computes_differently_counts_not_where_it_is_written(change):
    rnn = nn.LSTM(12, 8)
    if change == "instance forward":
        rnn.forward = lambda x: x
    else:
        rnn = type("Shuffled", (nn.LSTM,), {"permute_hidden": lambda self, hx, order: hx})(12, 8)
    with pytest.raises(UsageError, match=r"no recurrent layer may be replaced: rnn: .* of its own"):
        trcompress.compress_(Holder(rnn), PLAN)


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda rnn: weight_norm(rnn, "weight_hh_l0"), "weight_hh_l0_g, weight_hh_l0_v"),
        (lambda rnn: prune.l1_unstructured(rnn, "weight_ih_l0", 0.5), "weight_ih_l0_mask, weight_ih_l0_orig"),
        (lambda rnn: parametrize.register_parametrization(rnn, "weight_hh_l0", nn.Identity()), "parametriz"),
        (lambda rnn: rnn.register_parameter("peephole", nn.Parameter(torch.zeros(8))), "peephole"),
        (lambda rnn: rnn.add_module("norm", nn.LayerNorm(8)), "norm"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_parameters_that_torch_nn_does_not_have_are_named_and_the_module_left(wrap, named):
    model = Holder(nn.LSTM(12, 8))
    wrap(model.rnn)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match=f"rnn: .*{named}"):
        trcompress.compress_(model, PLAN)
    assert model.state_dict().keys() == before.keys()


class WeightDropout(nn.Module):
    """As fastai 2 has it: the raw weight is the wrapper's, the dropped one is set before each call."""

    def __init__(self, module, p):
        super().__init__()
        self.module, self.p = module, p
        raw = module.weight_hh_l0
        del module._parameters["weight_hh_l0"]
        self.weight_hh_l0_raw = nn.Parameter(raw.data)
        module.weight_hh_l0 = raw.data.clone()
        module.flatten_parameters = lambda: None

    def forward(self, *args):
        raw = self.weight_hh_l0_raw
        self.module.weight_hh_l0 = nn.functional.dropout(raw, self.p) if self.training else raw.clone()
        return self.module(*args)


def test_weight_dropout_goes_on_and_trains_its_raw_weight(tmp_path):
    torch.manual_seed(0)
    model = Holder(WeightDropout(nn.LSTM(12, 8), 0.5)).eval()
    dense = model(X)
    trcompress.compress_(model, FULL)
    torch.testing.assert_close(model(X), dense, atol=1e-5, rtol=1e-4)
    model.train()(X).sum().backward()
    assert model.rnn.weight_hh_l0_raw.grad.abs().sum() > 0
    assert "rnn.module.weight_hh_l0" not in model.state_dict()
    again = Holder(WeightDropout(nn.LSTM(12, 8), 0.5)).eval()
    trcompress.load_(trcompress.save(model, tmp_path / "a.safetensors"), again)
    torch.testing.assert_close(again(X), model.eval()(X))


def test_an_optimizer_made_before_goes_on_with_the_new_parameters():
    torch.manual_seed(0)
    model = Holder(nn.LSTM(12, 8), head=nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hh = model.rnn.weight_hh_l0
    result = trcompress.compress_(model, PLAN)
    assert model.rnn.weight_hh_l0 is hh
    optimizer.add_param_group({"params": list(result.parameters())})
    before = [parameter.clone() for parameter in model.parameters()]
    model.head(model(X)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert {id(one) for one in result.parameters()} == {id(one) for one in model.rnn.weight_ih_l0.core}


def test_hooks_attributes_and_modes_stay():
    model = Holder(nn.LSTM(12, 8)).eval()
    model.rnn.label = "encoder"
    seen = []
    handle = model.rnn.register_forward_hook(lambda module, args, out: seen.append(type(module).__name__))
    model.rnn.bias_ih_l0.requires_grad_(False)
    trcompress.compress_(model, PLAN)
    model(X)
    handle.remove()
    model(X)
    assert seen == ["TRLSTM"]
    assert model.rnn.label == "encoder"
    assert not model.rnn.training
    assert not model.rnn.bias_ih_l0.requires_grad


def test_initialisers_of_frameworks_run_over_a_compressed_model():
    """As recurrent policies of reinforcement learning do it, and as programs written for cuDNN do."""
    model = Holder(nn.LSTM(12, 8))
    trcompress.compress_(model, PLAN)
    for name, parameter in model.rnn.named_parameters():
        if "bias" in name:
            nn.init.constant_(parameter, 0)
        elif "weight" in name:
            nn.init.orthogonal_(parameter, 1.0)
    model.rnn.flatten_parameters()
    assert torch.isfinite(model(X)).all()
    model.apply(
        lambda one: one.reset_parameters() if hasattr(one, "reset_parameters") and one is model.rnn else None
    )
    assert torch.isfinite(model(X)).all()


def test_a_second_call_says_what_is_compressed_already_and_goes_on_with_the_rest():
    model = Holder(nn.LSTM(12, 8, 2))
    with pytest.warns(UserWarning, match="rnn.weight_ih_l1 stays dense: "):
        trcompress.compress_(model, PLAN)
    first = model.rnn.weight_ih_l0
    result = trcompress.compress_(model, Plan.of("4x2:4x2", 2))
    assert model.rnn.weight_ih_l0 is first
    assert list(result.weights) == ["rnn.weight_ih_l1"]
    with pytest.raises(UsageError, match=r"rnn.weight_ih_l0, rnn.weight_ih_l1 are compressed already"):
        trcompress.compress_(model, PLAN)


def test_a_module_registered_twice_is_replaced_everywhere():
    rnn = nn.LSTM(12, 8)
    model = nn.ModuleDict({"left": rnn, "right": rnn, "nested": nn.ModuleList([rnn])})
    result = trcompress.compress_(model, PLAN)
    assert model["left"] is model["right"] is model["nested"][0]
    assert len(result) == len(result.rows) == 1


def test_tied_directions_are_one_weight_through_the_whole_way(tmp_path):
    def build():
        rnn = nn.LSTM(12, 8, bidirectional=True)
        rnn.weight_ih_l0_reverse = rnn.weight_ih_l0
        return Holder(rnn)

    model = build()
    result = trcompress.compress_(model, PLAN)
    one, other = model.rnn.weight_ih_l0, model.rnn.weight_ih_l0_reverse
    assert all(a is b for a, b in zip(one.core, other.core, strict=True))
    assert [row.also for row in result.rows] == [("rnn.weight_ih_l0_reverse",)]
    path = result.save(tmp_path / "tied.safetensors")
    report = trcompress.report(path)
    assert report.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    assert report.compression_ratio == pytest.approx(12 * 32 / one.plan.parameters)
    loaded = trcompress.load(path)["rnn"]
    assert all(a is b for a, b in zip(loaded.weight_ih_l0.core, loaded.weight_ih_l0_reverse.core, strict=True))
    again = trcompress.load_(path, build())
    assert all(
        a is b for a, b in zip(again.rnn.weight_ih_l0.core, again.rnn.weight_ih_l0_reverse.core, strict=True)
    )
    torch.testing.assert_close(again(X), model(X))
    assert path.stat().st_size < 4 * report.parameters_after + 6000


def test_two_layers_that_share_a_weight_stay_tied():
    model = nn.ModuleDict({"a": nn.GRU(12, 8), "b": nn.GRU(12, 8)})
    model["b"].weight_ih_l0 = model["a"].weight_ih_l0
    trcompress.compress_(model, PLAN)
    cores = [list(one.weight_ih_l0.core) for one in model.values()]
    assert all(a is b for a, b in zip(*cores, strict=True))
    loss = sum(one(X)[0].sum() for one in model.values())
    loss.backward()
    assert sum(1 for _ in model.parameters()) == 4 + 6


def test_a_weight_tied_to_something_else_is_left_and_named():
    model = Holder(nn.LSTM(12, 8), probe=nn.Linear(12, 32, bias=False))
    model.probe.weight = model.rnn.weight_ih_l0
    with pytest.raises(UsageError, match=r"rnn.weight_ih_l0: it is tied to probe.weight"):
        trcompress.compress_(model, PLAN)
    assert model.probe.weight is model.rnn.weight_ih_l0


def test_tied_embeddings_stay_tied_and_are_stored_once(tmp_path):
    model = Holder(nn.LSTM(12, 8), embedding=nn.Embedding(50, 8), decoder=nn.Linear(8, 50))
    model.decoder.weight = model.embedding.weight
    path = trcompress.compress_(model, PLAN).save(tmp_path / "tied.safetensors")
    assert model.decoder.weight is model.embedding.weight
    from safetensors import safe_open

    with safe_open(path, "pt") as stream:
        stored = set(stream.keys())
    assert len({"embedding.weight", "decoder.weight"} & stored) == 1
    artifact = trcompress.read_artifact(path)
    assert artifact.tensors["decoder.weight"] is artifact.tensors["embedding.weight"]


def test_a_plain_state_dict_of_a_compressed_model_loads(tmp_path):
    torch.manual_seed(0)
    model = Holder(nn.LSTM(12, 8, bidirectional=True), cell=nn.GRUCell(12, 8))
    trcompress.compress_(model, Plan.of("4x3:4x2", "2,3", gates="per-gate"))
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    for source in (model.state_dict(), tmp_path / "plain.pt", str(tmp_path / "plain.pt")):
        again = trcompress.load_(source, Holder(nn.LSTM(12, 8, bidirectional=True), cell=nn.GRUCell(12, 8)))
        assert isinstance(again.rnn.weight_ih_l0, CoreWeight)
        torch.testing.assert_close(again(X), model(X))
    with pytest.raises(InputFileError, match="no cores in this state dict"):
        trcompress.load_(Holder(nn.LSTM(12, 8)).state_dict(), Holder(nn.LSTM(12, 8)))
    with pytest.raises(InputFileError, match="do not hold its 32 x 20 values"):
        trcompress.load_(model.state_dict(), Holder(nn.LSTM(20, 8, bidirectional=True), cell=nn.GRUCell(12, 8)))


def test_the_result_reads_well_and_is_still_the_list_of_replacements(tmp_path):
    model = nn.ModuleDict({f"rnn{k}": nn.LSTM(12, 8) for k in range(9)} | {"odd": OwnForward(12, 8)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = trcompress.compress_(model, PLAN)
    text = repr(result)
    assert len(text.splitlines()) < 10
    assert max(map(len, text.splitlines())) < 160
    assert all(
        word in text for word in ("rnn0.weight_ih_l0", "4x3:16x2", "9 recurrent weights", "and 5 more", "odd")
    )
    html = result._repr_html_()
    assert html.count("<tr>") == 10
    assert "<script" not in Holder(nn.LSTM(12, 8))._get_name() + html
    assert len(result) == 9
    assert [one.name for one in result][:2] == ["rnn0", "rnn1"]
    assert result[1].after is model["rnn1"]
    assert sum(row.share for row in result.rows) == pytest.approx(1)
    report = result.report()
    assert report.weights[0].error == pytest.approx(result.rows[0].error)
    assert trcompress.report(result.save(tmp_path / "a.safetensors")).weights[0].bound == result.rows[0].bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_errors_are_those_of_the_cores_as_the_layer_holds_them(dtype):
    torch.manual_seed(0)
    model = Holder(nn.LSTM(12, 8).to(dtype))
    dense = model.rnn.weight_ih_l0.detach().double()
    (row,) = trcompress.compress_(model, FULL).rows
    held = model.rnn.weight_ih_l0
    rebuilt = held.plan.to_dense([core.double() for core in held.core])
    assert row.error == pytest.approx(float((dense - rebuilt).norm() / dense.norm()), rel=1e-9)


def test_a_meta_module_is_refused_in_one_line():
    with torch.device("meta"):
        model = Holder(nn.LSTM(12, 8))
    with pytest.raises(UsageError, match=r"^rnn.weight_ih_l0 is on the meta device and has no values"):
        trcompress.compress_(model, PLAN)
