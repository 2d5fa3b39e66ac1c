"""Compressed models as modules of torch.nn alone: the same numbers, and every way out of PyTorch."""

from __future__ import annotations

import io
import pickle
from copy import deepcopy

import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from layer_cases import assert_close, cases, tensors
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from trcompress import Plan, to_plain
from trcompress.layers import (
    TRGRU,
    TRLSTM,
    TRRNN,
    TTLSTM,
    TRGRUCell,
    TRLinear,
    TRLSTMCell,
    TRRNNCell,
    TTLinear,
    from_dense,
    module_matrices,
)
from trcompress.layers.arguments import each
from trcompress.layers.core_weight import CoreWeight
from trcompress.model.matrix import Matrix
from trcompress.network.classifier import dense_classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:LSTM with projections"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size"),
]
KINDS = {"lstm": TRLSTM, "gru": TRGRU, "rnn": TRRNN}


def modules_of(model):
    return {type(one).__name__ for one in model.modules()}


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_outputs_states_and_gradients_are_the_same(case):
    """Both compute what the cores mean, which float64 tells: a layer's own rounding is no part of a difference."""
    plain, exact = to_plain(case.layer), deepcopy(case.layer).double()
    assert not any(isinstance(one, CoreWeight) for one in plain.modules())
    assert plain.training is case.layer.training
    (ours, mine), (theirs, other) = (results(one, case.x, case.hx) for one in (plain, exact))
    tolerance = 1e-12 if tensors([case.x])[0].dtype == torch.float64 else 1e-6
    assert_close(ours, case.layer(case.x, case.hx), tolerance)
    assert_close([one.double() for one in tensors(ours)], theirs, tolerance)
    assert type(ours[0]) is type(theirs[0])
    assert_close([mine.double()], [other], tolerance)


def results(layer, x, hx):
    """What a layer gives, and all gradients in a row: of the input, the states and the parameters without cores."""
    dtype = next(layer.parameters()).dtype
    data = tensors([x])[0].detach().to(dtype).requires_grad_()
    hx = each(hx, lambda state: state.detach().to(dtype).requires_grad_())
    outputs = layer(x._replace(data=data) if isinstance(x, PackedSequence) else data, hx)
    kept = [one for name, one in layer.named_parameters() if ".core." not in name and not fed(name)]
    found = torch.autograd.grad(sum(one.square().sum() for one in tensors(outputs)), [data, *tensors([hx]), *kept])
    return outputs, torch.cat([one.flatten() for one in found])


def fed(name):
    """Whether a parameter multiplies the layer's input: cores in one, a bottleneck in the other."""
    return "weight_ih" in name or "entries" in name


@pytest.mark.parametrize("make", [TRLSTMCell, TRGRUCell, TRRNNCell])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(make, bias):
    torch.manual_seed(0)
    cell = make(24, 6, bias, shape="4x6:2x3", ranks=2, dtype=torch.float64)
    plain = to_plain(cell)
    assert "Linear" in modules_of(plain)
    for sizes in ((3,), ()):
        x, state = torch.randn(*sizes, 24, dtype=torch.float64), torch.randn(*sizes, 6, dtype=torch.float64)
        for hx in (None, (state, state + 1) if make is TRLSTMCell else state):
            assert_close([plain(x, hx)], [cell(x, hx)], 1e-12)
            assert_close([torch.jit.script(plain)(x, hx)], [cell(x, hx)], 1e-12)


@pytest.mark.parametrize("make", [TRLinear, TTLinear])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(make, bias):
    layer = make(24, 12, bias, shape="4x6:3x4", ranks=2, dtype=torch.float64)
    plain, x = to_plain(layer), torch.randn(2, 5, 24, dtype=torch.float64)
    assert modules_of(plain) <= {"Sequential", "Linear"}
    assert_close([plain(x)], [layer(x)], 1e-12)


def test_the_flagship_is_a_linear_and_a_stock_lstm():
    layer = TRLSTM(57600, 256, shape="4x2x5x8x6x5x3x2:4x4x2x4x2", ranks="5,10")
    plain = to_plain(layer)
    assert plain.rnn.entries[0].weight.shape == (50, 57600)
    assert plain.rnn.stages[0].weight_ih_l0.shape == (1024, 50)


def test_both_directions_share_one_linear():
    layer = TRLSTM(48, 16, bidirectional=True, shape="6x8:4x4", ranks=2)
    (entry,) = to_plain(layer).rnn.entries
    assert entry.weight.shape == (8, 48)


def test_what_has_fewer_values_dense_becomes_dense():
    assert type(to_plain(TRLSTM(64, 64, shape="8x8:8x8", ranks=9))) is nn.LSTM
    assert type(to_plain(TTLSTM(12, 8, shape="3x4:2x4", rank=2))) is nn.LSTM
    assert type(to_plain(TRGRUCell(12, 8, shape="3x4:2x4", ranks="full"))) is nn.GRUCell
    assert type(to_plain(TRLinear(12, 8, shape="3x4:2x4", ranks="full"))) is nn.Linear


def test_only_a_middle_layer_is_compressed():
    dense = nn.GRU(24, 24, 3, dropout=0.5, dtype=torch.float64)
    plans = Plan.of("4x6:4x6", "2").resolve(module_matrices(dense)[1:2])
    layer = TRGRU(24, 24, 3, dropout=0.5, weights={plans[0].name: plans[0]}, dtype=torch.float64)
    plain, x = to_plain(layer), torch.randn(5, 3, 24, dtype=torch.float64)
    assert [stage.num_layers for stage in plain.rnn.stages] == [1, 2]
    results = []
    for module in (layer, plain):
        torch.manual_seed(7)
        results.append(module(x))
    assert_close(*results, 1e-12)
    assert_close(plain.eval()(x), layer.eval()(x), 1e-12)


class Tagger(nn.Module):
    """A user's network: packed in, padded out, the layer used twice."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn
        self.again = nn.ModuleList([rnn])
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        output = self.rnn(packed)[0]
        padded, _ = pad_packed_sequence(output, batch_first=True)
        return self.head(padded)


def tagger(kind="lstm", layers=2):
    torch.manual_seed(0)
    rnn = KINDS[kind](24, 6, layers, batch_first=True, bidirectional=True, shape="4x6:2x3", ranks=1)
    return Tagger(rnn).eval()


def batch(size, steps):
    lengths = torch.randint(1, steps + 1, (size,))
    lengths[0] = steps
    return torch.randn(size, steps, 24), lengths


def test_a_model_is_copied_and_its_sharing_kept():
    model = tagger()
    plain, given_batch = to_plain(model), batch(3, 7)
    assert plain.again[0] is plain.rnn
    assert model.rnn is model.again[0]
    assert isinstance(model.rnn, TRLSTM)
    assert_close([plain(*given_batch)], [model(*given_batch)], 1e-6)
    twin = to_plain(plain)
    assert_close([twin(*given_batch)], [plain(*given_batch)], 0)
    assert pickle.loads(pickle.dumps(plain)).state_dict().keys() == plain.state_dict().keys()


def test_a_network_of_a_file_is_plain_too():
    network = dense_classifier(24, 5, hidden_size=6).module
    plain, (x, lengths) = to_plain(network), batch(3, 7)
    assert "forward" in vars(network.rnn)
    assert "forward" not in vars(plain.rnn)
    assert_close([plain(x, lengths)], [network(x, lengths)], 1e-5)


@pytest.mark.parametrize("make", [TRLSTM, TRLSTMCell])
def test_a_recurrent_weight_that_is_a_ring_becomes_dense(make):
    kind = nn.LSTMCell if make is TRLSTMCell else nn.LSTM
    dense = kind(12, 6, dtype=torch.float64)
    matrix = Matrix("weight_hh" if make is TRLSTMCell else "weight_hh_l0", "hh", 24, 6, 4, "lstm")
    (plan,) = Plan.of("2x3:2x3", "2").resolve([matrix])
    layer = from_dense(dense, {plan.name: plan})
    layer.get_submodule(plan.name).reset_parameters(0.1)
    x = torch.randn(3, 12, dtype=torch.float64)
    assert not any(isinstance(one, CoreWeight) for one in to_plain(layer).modules())
    assert_close(to_plain(layer)(x), layer(x), 1e-12)


def test_frozen_weights_stay_frozen():
    layer = TRGRU(24, 6, shape="4x6:2x3", ranks=1)
    layer.weight_ih_l0.requires_grad_(False)
    layer.bias_hh_l0.requires_grad_(False)
    frozen = {name for name, one in to_plain(layer).named_parameters() if not one.requires_grad}
    assert frozen == {"rnn.entries.0.weight", "rnn.stages.0.weight_ih_l0", "rnn.stages.0.bias_hh_l0"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 2])
def test_script_with_packed_sequences(kind, layers):
    model = tagger(kind, layers)
    scripted = torch.jit.script(to_plain(model))
    for size, steps in ((3, 7), (5, 4)):
        given_batch = batch(size, steps)
        assert_close([scripted(*given_batch)], [model(*given_batch)], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_script_of_a_layer_alone(kind):
    layer = tagger(kind).rnn
    plain, (x, lengths) = to_plain(layer), batch(3, 7)
    assert_close(torch.jit.script(plain)(x), layer(x), 1e-6)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    assert isinstance(plain(packed)[0], PackedSequence)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces_of_packed_sequences_serve_other_sizes(kind):
    model = tagger(kind)
    traced = torch.jit.trace(to_plain(model), batch(3, 7))
    for size, steps in ((3, 7), (5, 4), (1, 9)):
        given_batch = batch(size, steps)
        assert_close([traced(*given_batch)], [model(*given_batch)], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_onnx_of_packed_sequences(kind, tmp_path):
    """The exporter by tracing, the one that knows packed sequences."""
    model, file = tagger(kind), io.BytesIO()
    x, lengths = batch(3, 7)
    torch.onnx.export(
        to_plain(model),
        (x, lengths.sort(descending=True).values),
        file,
        dynamo=False,
        input_names=["x", "lengths"],
        dynamic_axes={"x": {0: "batch", 1: "steps"}, "lengths": {0: "batch"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    for size, steps in ((3, 7), (5, 4)):
        x, lengths = batch(size, steps)
        (got,) = session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})
        assert_close([torch.from_numpy(got)], [model(x, lengths).detach()], 1e-5)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_of_a_layer(kind, dynamo):
    layer, x, file = tagger(kind).rnn, torch.randn(3, 7, 24), io.BytesIO()
    shapes = {"dynamic_shapes": ({0: torch.export.Dim("batch", min=1, max=64)},)} if dynamo else {}
    if not dynamo:
        shapes = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch", 1: "steps"}}}
    torch.onnx.export(to_plain(layer), (x,), file, dynamo=dynamo, **shapes)
    session = onnxruntime.InferenceSession(file.getvalue())
    for size, steps in ((3, 7), (5, 7 if dynamo else 4)):
        x = torch.randn(size, steps, 24)
        got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close([torch.from_numpy(got[0])], [layer(x)[0].detach()], 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_export(kind):
    layer = tagger(kind).rnn
    sizes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    program = torch.export.export(to_plain(layer), (torch.randn(3, 7, 24),), dynamic_shapes=sizes)
    x = torch.randn(5, 7, 24)
    assert_close(program.module()(x), layer(x), 1e-6)
