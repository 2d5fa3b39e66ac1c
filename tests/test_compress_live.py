"""`compress_` and `search_plan` on networks as users write them: a goal, a DataLoader, refinement, one call."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

import trcompress
from trcompress.errors import UsageError
from trcompress.passes.budgeted import budgeted


class Tagger(nn.Module):
    """An embedding, packed input, two layers, attention."""

    def __init__(self, tokens=30, width=16, hidden=12, classes=4):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=0)
        self.rnn = nn.LSTM(width, hidden, 2, batch_first=True, bidirectional=True)
        self.attention, self.head = nn.Linear(2 * hidden, 1), nn.Linear(2 * hidden, classes)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        steps, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        weights = torch.softmax(self.attention(steps), 1)
        return torch.log_softmax(self.head((weights * steps).sum(1)), -1)


def trained_tagger():
    """A network whose weights are as large as trained ones."""
    torch.manual_seed(0)
    model = Tagger()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "weight_ih" in name or "head.weight" in name:
                parameter.mul_(4)
    return model.eval()


def loader(count=96, seed=0, labels=True):
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for _ in range(count):
        length = int(torch.randint(3, 9, (1,), generator=generator))
        tokens = torch.randint(1, 30, (8,), generator=generator)
        tokens[length:] = 0
        parts = (tokens, torch.tensor(length))
        examples.append((*parts, torch.tensor(0)) if labels else parts)
    return DataLoader(examples, batch_size=8, shuffle=True)


def agreement(one, other, batches):
    same = [one(x, n).argmax(-1) == other(x, n).argmax(-1) for x, n, _ in batches]
    return float(torch.cat(same).float().mean())


def test_one_call_compresses_calibrates_and_refines():
    dense, model = trained_tagger(), trained_tagger()
    result = trcompress.compress_(model, target_ratio=4, calibrate=loader(), refine=60, effort="low")
    assert type(model.rnn).__name__ == "TRLSTM"
    assert result.compression_ratio >= 4
    facts = result.facts
    assert facts["measure"] == "divergence of the class scores"
    assert facts["difference_refined"] < facts["difference_chosen"] <= facts["difference_plain"]
    plain = trained_tagger()
    trcompress.compress_(plain, target_ratio=4, effort="low")
    unseen = list(loader(seed=1))
    assert agreement(dense, model, unseen) > agreement(dense, plain, unseen)
    printed = repr(result)
    assert "divergence of the class scores, held out:" in printed
    assert "refined" in printed
    assert sum(row.distance for row in result.rows) < sum(row.distance_plain for row in result.rows)
    assert result.report().compression_ratio >= 4


def test_calibrated_model_is_saved_and_loaded(tmp_path):
    model = trained_tagger()
    result = trcompress.compress_(model, target_ratio=3, calibrate=loader(), effort="low")
    path = result.save(tmp_path / "model.safetensors")
    again = trcompress.load_(path, trained_tagger())
    x, lengths, _ = next(iter(loader()))
    assert torch.allclose(again(x, lengths), model(x, lengths), atol=1e-5)
    (step,) = trcompress.read_artifact(path).header.lineage
    assert step.settings["calibration"]["measure"] == "divergence of the class scores"


def test_the_same_seed_gives_the_same_cores_whatever_else_is_random():
    states = []
    for noise in (1, 2):
        model = trained_tagger()
        torch.manual_seed(noise)
        trcompress.compress_(model, target_ratio=4, calibrate=loader(), refine=6, effort="low", seed=5)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_network_is_left_as_it_was_by_a_search():
    model = trained_tagger().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = trcompress.search_plan(model, target_ratio=4, calibrate=loader(), effort="low")
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert "forward" not in vars(model.rnn)
    assert found.measure == "divergence of the class scores"
    total = sum(one.parameters for one in (*found.dense, *(one.chosen.weight for one in found.weights)))
    whole = sum(value.numel() for key, value in before.items() if "weight_ih" in key)
    assert whole / total >= 4
    chosen = trcompress.compress_(model, found)
    assert chosen.compression_ratio >= 1
    assert chosen.facts["measure"] == found.measure, "what the search recorded is used again"


def test_forward_and_outputs_are_the_users():
    model, seen = trained_tagger(), []

    def forward(model, batch):
        seen.append(len(batch))
        return {"scores": model(batch[0], batch[1]), "lengths": batch[1]}

    result = trcompress.compress_(
        model,
        target_ratio=3,
        calibrate=loader(labels=False),
        forward=forward,
        outputs=lambda result: result["scores"],
        effort="low",
    )
    assert set(seen) == {2}
    assert result.facts["measure"] == "divergence of the class scores"
    assert any("log_softmax" in note for note in result.notes)


class Decoder(nn.Module):
    """A cell in a loop, and numbers at the end."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(10, 8), nn.Linear(8, 10)

    def forward(self, x):
        hidden, steps = x.new_zeros(len(x), 8), []
        for _ in range(4):
            hidden = self.cell(x, hidden)
            x = x + self.out(hidden)
            steps.append(x)
        return torch.stack(steps, 1)


def test_cells_in_loops_are_refined_towards_numbers():
    torch.manual_seed(0)
    model, batches = Decoder(), [torch.randn(16, 10) for _ in range(8)]
    with torch.no_grad():
        model.cell.weight_ih.mul_(3)
    result = trcompress.compress_(model, target_ratio=2, calibrate=batches, refine=60, effort="low")
    assert type(model.cell).__name__ == "TRGRUCell"
    assert result.facts["measure"] == "relative squared distance of the outputs"
    assert result.facts["difference_refined"] < result.facts["difference_chosen"]


class Answers(Decoder):
    """Gives whole numbers alone."""

    def forward(self, x):
        return super().forward(x).argmax(-1)


@pytest.mark.parametrize(("build", "options"), [(Decoder, {"outputs": "states"}), (Answers, {})])
def test_hidden_states_are_compared_where_asked_or_where_nothing_else_is(build, options):
    torch.manual_seed(0)
    model, batches = build(), [torch.randn(16, 10) for _ in range(8)]
    with torch.no_grad():
        model.cell.weight_ih.mul_(3)
    result = trcompress.compress_(model, target_ratio=2, calibrate=batches, refine=20, effort="low", **options)
    assert result.facts["measure"] == "relative squared distance of the hidden states"
    assert 0 < result.facts["difference_refined"] < result.facts["difference_chosen"] < 1


def test_shared_modules_and_tied_weights_are_calibrated_once():
    torch.manual_seed(0)
    model = nn.Module()
    model.left = model.right = nn.LSTM(12, 8, batch_first=True)
    model.third = nn.LSTM(12, 8, batch_first=True)
    model.third.weight_ih_l0 = model.left.weight_ih_l0
    model.forward = lambda x: model.left(x)[0] + model.right(x.flip(1))[0] + model.third(x)[0]
    result = trcompress.compress_(
        model, target_ratio=3, calibrate=[torch.randn(4, 5, 12) for _ in range(4)], effort="low"
    )
    assert len(result.rows) == 1
    assert model.left is model.right
    assert type(model.third).__name__ == "TRLSTM"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"target_ratio": 3, "max_error": 0.1}, "exactly one"),
        ({"target_ratio": 3, "refine": 5}, "`refine` goes with `calibrate`"),
        ({"target_ratio": 3, "effort": "lo"}, "effort must be one of low, normal, high"),
        ({"target_ratio": 3, "layers": "lstm*"}, "matches none of: rnn.weight_ih_l0"),
        ({"target_ratio": 3, "plan": trcompress.Plan.of("4x4:4x3", "2")}, "both set the size"),
    ],
)
def test_calls_that_do_not_fit_are_refused_before_anything_slow(options, message):
    with pytest.raises(UsageError, match=message):
        trcompress.compress_(trained_tagger(), **options)


def test_outputs_without_gradients_cannot_be_refined():
    torch.manual_seed(0)
    model = Decoder()
    plan = trcompress.Plan.of("10:24", "1,2")
    forward = torch.no_grad()(lambda model, x: model(x))
    with pytest.raises(UsageError, match="needs gradients"):
        budgeted(model, plan, calibrate_on=[torch.randn(4, 10)] * 4, refine=2, forward=forward)


def test_arrays_are_batches_like_tensors_and_gradients_stay_as_they_were():
    results = []
    for as_batch in (torch.Tensor.numpy, lambda x: (x.numpy(), x.numpy()[:, 0]), lambda x: {"x": x.numpy()}, None):
        torch.manual_seed(0)
        model = Decoder()
        batches = [torch.randn(4, 10) for _ in range(4)]
        model(batches[0]).sum().backward()
        before = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        given = batches if as_batch is None else [as_batch(one) for one in batches]
        trcompress.compress_(model, target_ratio=2, calibrate=given, refine=3, effort="low")
        kept = {name: one.grad for name, one in model.named_parameters() if name in before}
        assert len(kept) > 1
        assert all(torch.equal(kept[name], before[name]) for name in kept)
        results.append(model.state_dict())
    for one in results[:-1]:
        assert all(torch.equal(value, results[-1][key]) for key, value in one.items())
