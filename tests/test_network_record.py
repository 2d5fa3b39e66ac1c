"""The recorder: what reaches each layer of a live network, whatever form the network and its batches have."""

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves

from trcompress.errors import InputFileError, UsageError
from trcompress.network.batches import arguments_of
from trcompress.network.layerwise import Substitute, layer_by_layer
from trcompress.network.moments import EXACT_WIDTH
from trcompress.network.outputs import find_outputs
from trcompress.network.record import record
from trcompress.util.memory import peak_extra_bytes

OPTIONS = (
    {},
    {"bidirectional": True},
    {"batch_first": True},
    {"bias": False},
    {"proj_size": 3, "bidirectional": True},
)


def leaves(value):
    found = tree_leaves(value, is_leaf=lambda one: isinstance(one, PackedSequence))
    return [one.data if isinstance(one, PackedSequence) else one for one in found]


def factors(weight):
    u, s, vh = torch.linalg.svd(weight.detach().t(), full_matrices=False)
    return u * s, vh


def inputs_of(module, form):
    """Inputs and an initial state of a stack: padded, unbatched or packed."""
    x = {
        "padded": torch.randn(7, 7, 6),
        "unbatched": torch.randn(7, 6),
        "packed": pack_padded_sequence(torch.randn(7, 4, 6), torch.tensor([3, 4, 2, 1, 4, 4, 2]), True, False),
    }[form]
    count = module.num_layers * (2 if module.bidirectional else 1)
    size = (count, 6) if form == "unbatched" else (count, 7, 6)
    h = torch.randn(*size[:-1], getattr(module, "proj_size", 0) or 5)
    return x, (h, torch.randn(*size[:-1], 5)) if isinstance(module, nn.LSTM) else h


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", ["padded", "unbatched", "packed"])
def test_stacks_run_layer_by_layer_as_they_are(kind, options, form):
    if "proj_size" in options and kind is not nn.LSTM:
        options = {"bidirectional": True, "bias": False}
    torch.manual_seed(0)
    module = kind(6, 5, 3, **options)
    x, start = inputs_of(module, form)
    left, right = factors(module.weight_ih_l1)
    for state in (None, start):
        wanted = module(x, state)
        with layer_by_layer(module, {"weight_ih_l1": Substitute.of_factors(left, right)}, lambda *_: None):
            found = module(x, state)
        for one, other in zip(leaves(found), leaves(wanted), strict=True):
            assert one.shape == other.shape
            assert torch.allclose(one, other, atol=1e-5)
    assert "forward" not in vars(module)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_run_as_they_are(kind):
    torch.manual_seed(0)
    cell = kind(6, 5)
    shift = torch.randn(5 * {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}[kind])
    sub = Substitute.of_factors(*factors(cell.weight_ih), bias=cell.bias_ih.detach() + shift)
    moved = kind(6, 5)
    moved.load_state_dict(cell.state_dict() | {"bias_ih": cell.bias_ih.detach() + shift})
    for x in (torch.randn(4, 6), torch.randn(6)):
        with layer_by_layer(cell, {"weight_ih": sub}):
            found = cell(x)
        for one, other in zip(leaves(found), leaves(moved(x)), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


class Pronouncer(nn.Module):
    """What users write: an embedding, packed input, attention, and a decoder loop over a shared cell."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.rnn = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True)
        self.cell = self.alias = nn.GRUCell(10, 5)
        self.score, self.head = nn.Linear(10, 1), nn.Linear(5, 4)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        steps, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        focus = (torch.softmax(self.score(steps), 1) * steps).sum(1)
        hidden = torch.zeros(len(tokens), 5)
        for module in (self.cell, self.alias, self.cell):
            hidden = module(focus, hidden)
        return self.head(hidden)


def token_batches(count=6, examples=5):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(count):
        lengths = torch.randint(1, 9, (examples,), generator=generator)
        tokens = torch.randint(1, 20, (examples, int(lengths.max())), generator=generator)
        found.append((tokens, lengths, torch.zeros(examples)))
    return found


def test_every_layer_of_a_users_network_is_recorded():
    torch.manual_seed(0)
    model, batches = Pronouncer(), token_batches()
    seen = record(model, batches, seed=3)
    fitted = [batch for place, batch in enumerate(batches) if place % 4 != 1]
    assert [len(seen.fitted), len(seen.held_out)] == [len(fitted), 2]
    steps = sum(int(lengths.sum()) for _, lengths, _ in fitted)
    assert seen.inputs["rnn.weight_ih_l1_reverse"].count == steps
    assert seen.inputs["cell.weight_ih"].count == 3 * 5 * len(fitted)
    assert set(seen.tokens) == {"rnn.weight_ih_l0", "rnn.weight_ih_l0_reverse"}
    counts = seen.tokens["rnn.weight_ih_l0"].counts
    assert int(counts.sum()) == steps
    assert counts[0] == 0, "padding reaches no packed layer"
    below = torch.cat([model.rnn(_packed(model, *batch[:2]))[0].data for batch in fitted]).detach()
    top = seen.states["rnn.weight_ih_l1"]
    assert torch.allclose(top.mean, below[:, :5].double().mean(0), atol=1e-5)
    assert torch.allclose(top.rows.T @ top.rows, below[:, :5].double().T @ below[:, :5].double() / steps, atol=1e-5)
    assert model.training


def _packed(model, tokens, lengths):
    return pack_padded_sequence(model.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)


def test_inner_layers_are_fed_what_the_layers_below_give():
    torch.manual_seed(0)
    rnn, x = nn.GRU(5, 4, 3, bidirectional=True), [torch.randn(7, 3, 5) for _ in range(4)]
    first = nn.GRU(5, 4, 1, bidirectional=True)
    first.load_state_dict({name: rnn.state_dict()[name] for name in first.state_dict()})
    rows = torch.cat([first(x[place])[0].flatten(0, 1) for place in (0, 2, 3)]).double()
    seen = record(rnn, x).inputs["weight_ih_l1"]
    assert torch.allclose(seen.rows.T @ seen.rows, rows.T @ rows / len(rows), atol=1e-6)


class Model(nn.Module):
    """A forward of a given signature."""

    def __init__(self, forward):
        super().__init__()
        self.forward = forward


X, MASK, Y = torch.zeros(2), torch.ones(2), torch.ones(2).long()


@pytest.mark.parametrize(
    ("forward", "batch", "arguments", "named"),
    [
        (lambda x: 0, X, (X,), {}),
        (lambda x: 0, (X, Y), (X,), {}),
        (lambda x: 0, [X, Y], (X,), {}),
        (lambda x, lengths: 0, (X, MASK), (X, MASK), {}),
        (lambda x, lengths: 0, (X, MASK, Y), (X, MASK), {}),
        (lambda x, mask=None: 0, (X, MASK, Y), (X, MASK), {}),
        (lambda x, state=None: 0, (X, Y), (X,), {}),
        (lambda x, lengths: 0, ((X, MASK), Y), (X, MASK), {}),
        (lambda x, labels: 0, (X, Y), (X, Y), {}),
        (lambda *parts: 0, (X, MASK, Y), (X, MASK), {}),
        (lambda x, mask=None, labels=None: 0, {"x": X, "mask": MASK, "labels": Y, "id": 1}, (), ["x", "mask"]),
        (lambda **named: 0, {"x": X, "labels": Y}, (), ["x"]),
        (lambda x, y: 0, {"x": X, "y": Y}, (), ["x", "y"]),
        (lambda inputs: 0, {"x": X}, None, {}),
    ],
)
def test_labels_are_passed_only_where_forward_requires_them(forward, batch, arguments, named):
    found, keys = arguments_of(Model(forward), batch)
    wanted = (batch,) if arguments is None else arguments
    assert [id(one) for one in found] == [id(one) for one in wanted]
    assert list(keys) == list(named)


def test_only_known_class_scores_are_compared_by_divergence():
    scores, rnn = torch.randn(3, 4, requires_grad=True), nn.LSTM(2, 3)
    known = {
        "log_softmax": torch.log_softmax(scores, -1),
        "softmax": torch.softmax(scores, 1).unsqueeze(0),
        "called logits": {"loss": scores.sum(), "logits": scores},
    }
    for name, result in known.items():
        outputs = find_outputs(rnn, result, None)
        assert outputs.kind == "scores", name
        (rows,) = outputs.tensors(result)
        assert torch.allclose(torch.log_softmax(rows, -1), torch.log_softmax(scores, -1), atol=1e-6)
    assert find_outputs(rnn, (scores * 2, known["softmax"]), None).kind == "values"
    assert find_outputs(nn.ModuleList([rnn, nn.CrossEntropyLoss()]), scores, None).kind == "scores"
    assert find_outputs(rnn, scores, "scores").measure == "divergence of the class scores"
    assert find_outputs(rnn, torch.ones(3).long(), None).kind == "states"
    assert len(find_outputs(rnn, (scores, scores), lambda pair: pair).tensors((scores, scores))) == 2
    with pytest.raises(
        UsageError, match=r"outputs must be one of scores, values, states: got 'score' \(did you mean"
    ):
        find_outputs(rnn, scores, "score")
    with pytest.raises(UsageError, match="must name something to compare"):
        find_outputs(rnn, torch.ones(3).long(), "values")
    with pytest.raises(UsageError, match="must name something to compare: it gave Tensor without"):
        find_outputs(rnn, scores, lambda scores: scores.argmax(-1))


def test_an_output_of_several_is_named_with_those_that_are_not_compared():
    heads = {"age": torch.randn(3, 1), "kind": torch.randn(3, 4), "id": torch.ones(3).long()}
    found = find_outputs(nn.LSTM(2, 3), heads, None)
    assert found.measure == "relative squared distance of the output 'age'"
    assert found.why.endswith("; 'kind' is not compared")
    heads_and_scores = {**heads, "logits": torch.randn(3, 4)}
    assert find_outputs(nn.LSTM(2, 3), heads_and_scores, "values").measure.endswith("the output 'logits'")
    assert find_outputs(nn.LSTM(2, 3), {"age": heads["age"]}, None).measure.endswith("of the outputs")
    assert find_outputs(nn.LSTM(2, 3), heads, lambda all: list(all.values())).measure.endswith("of the outputs")


def test_the_axis_of_a_softmax_is_the_axis_of_the_classes():
    result = torch.log_softmax(torch.randn(2, 5, 7, requires_grad=True), 1)
    (rows,) = find_outputs(nn.LSTM(2, 3), result, None).tensors(result)
    assert rows.shape == (14, 5)
    assert torch.allclose(rows.exp().sum(-1), torch.ones(14))


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], InputFileError, "at least one batch"),
        ([torch.randn(2, 3, 9)], InputFileError, r"LSTM was called with \(float32 \(2, 3, 9\)\): RuntimeError"),
        ([torch.full((2, 3, 4), torch.nan)], InputFileError, "must be finite"),
    ],
)
def test_data_that_does_not_fit_is_refused_at_once(batches, error, message):
    with pytest.raises(error, match=message):
        record(nn.LSTM(4, 3), batches)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_what_is_not_finite_is_refused_on_either_side(held_out, wide):
    size = EXACT_WIDTH + 1 if wide else 4
    batches = [torch.randn(300, 5, size) for _ in range(4)]
    batches[1 if held_out else 0][0, 0, 0] = torch.inf
    with pytest.raises(InputFileError, match="must be finite"):
        record(nn.RNN(size, 2, batch_first=True), batches)


def test_a_token_that_is_not_finite_is_refused():
    embedding = nn.Embedding(5, 3)
    embedding.weight.data[2] = torch.nan
    tokens = [torch.arange(5).repeat(4, 1)] * 2
    with pytest.raises(InputFileError, match="must be finite"):
        record(nn.Sequential(embedding, nn.RNN(3, 2, batch_first=True)), tokens)


def test_values_whose_sum_is_beyond_their_type_are_finite():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.RNNCell(4, 2, dtype=torch.float16)

        def forward(self, x):
            return self.rnn(x)

    seen = record(Half(), [torch.full((64, 4), 3e4, dtype=torch.float16)] * 4)
    assert seen.inputs["rnn.weight_ih"].mean.tolist() == [3e4] * 4


def test_networks_without_a_recurrent_layer_that_runs_are_refused():
    with pytest.raises(UsageError, match=r"holds no nn\.LSTM"):
        record(nn.Linear(4, 3), [torch.randn(2, 4)])
    idle = nn.Sequential(nn.Linear(4, 3))
    idle.unused = nn.LSTM(4, 3)
    idle.forward = idle[0].forward
    with pytest.raises(UsageError, match="without calling unused"):
        record(idle, [torch.randn(2, 4)])


def test_a_single_batch_is_both_fitted_and_compared():
    seen = record(nn.LSTM(4, 3), iter([torch.randn(5, 2, 4)]))
    assert seen.fitted is seen.held_out
    assert any("nothing is held out" in note for note in seen.notes)


def test_randomness_in_the_loader_and_the_network_depends_on_the_seed_alone():
    torch.manual_seed(0)
    data = [(torch.randn(6, 4), 0) for _ in range(24)]
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True)
    rnn = nn.LSTM(4, 3, batch_first=True)
    means = []
    for noise, seed in product((1, 2), (0, 1)):
        torch.manual_seed(noise)
        means.append(record(rnn, loader, seed=seed).inputs["weight_ih_l0"].mean)
    assert torch.equal(means[0], means[2])
    assert torch.equal(means[1], means[3])
    assert not torch.equal(means[0], means[1])


def test_sums_are_kept_and_not_the_examples():
    rnn = nn.LSTM(40, 32, batch_first=True)
    batches = (torch.randn(64, 160, 40) for _ in range(60))
    record(rnn, [torch.randn(64, 160, 40)])
    extra = peak_extra_bytes(lambda: record(rnn, batches), torch.device("cpu"))
    assert extra is None or extra < 200 * 2**20


def test_batches_that_are_kept_are_counted_once(monkeypatch):
    """Those already kept were measured again at every batch: n^2 of them."""
    counted = []
    monkeypatch.setattr("trcompress.network.record.bytes_of", lambda batch: counted.append(batch) or 100)
    monkeypatch.setattr("trcompress.network.record.KEPT_BYTES", 2000)
    seen = record(nn.LSTM(4, 3), [torch.randn(2, 1, 4) for _ in range(60)])
    assert len(seen.fitted) == 20
    assert all(isinstance(one, torch.Tensor) for one in counted)
    assert len(counted) < 2 * 60
