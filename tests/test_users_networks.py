"""Networks and batches as users have them, each compressed in one call; what they get wrong is told in one line."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

import trcompress
from trcompress.errors import InputFileError, UsageError

torch.manual_seed(0)
X = [torch.randn(8, 7, 12) for _ in range(8)]


class Convolved(nn.Module):
    """A convolution in front, attention behind."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(12, 24, 3, padding=1)
        self.rnn = nn.LSTM(24, 16, 2, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        steps = self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.head(self.attention(steps, steps, steps)[0].mean(1))


class Decoder(nn.Module):
    """An encoder and a loop that feeds back what it chose."""

    def __init__(self):
        super().__init__()
        self.encoder, self.cell = nn.GRU(12, 16, batch_first=True), nn.LSTMCell(24, 16)
        self.embedding, self.head = nn.Embedding(5, 8), nn.Linear(16, 5)

    def forward(self, x):
        context = self.encoder(x)[1][0]
        state, token, scores = (context, torch.zeros_like(context)), torch.zeros(len(x), dtype=torch.long), []
        for _ in range(4):
            state = self.cell(torch.cat([self.embedding(token), context], 1), state)
            scores.append(self.head(state[0]))
            token = scores[-1].argmax(1)
        return torch.stack(scores, 1)


class Twice(nn.Module):
    """One GRU called twice a forward; a tuple comes out."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(12, 12, batch_first=True), nn.Linear(12, 2)

    def forward(self, x, weight=None):
        steps = self.rnn(x)[0]
        return self.head(self.rnn(steps)[0][:, -1]), steps.mean()


class Packed(nn.Module):
    """Layers in a ModuleDict, packed and unsorted; a regression output in a dict."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({name: nn.LSTM(12, 16, batch_first=True) for name in "ab"})
        self.head = nn.Linear(32, 1)

    def forward(self, x, lengths, **more):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        means = [pad_packed_sequence(one(packed)[0], batch_first=True)[0].mean(1) for one in self.parts.values()]
        return {"prediction": self.head(torch.cat(means, 1)).squeeze(-1), "loss": None}


class Siamese(nn.Module):
    """One layer under two names, two inputs."""

    def __init__(self):
        super().__init__()
        self.rnn = self.twin = nn.LSTM(12, 16, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, one, other):
        return self.head(self.rnn(one)[1][0][-1] - self.twin(other)[1][0][-1])


def plain():
    return nn.Sequential(nn.LSTM(12, 16, batch_first=True))


def lengths():
    return torch.arange(8) % 7 + 1


CASES = {
    "convolution and attention": (Convolved, lambda: X),
    "decoder loop": (Decoder, lambda: X),
    "several calls, a tuple": (Twice, lambda: X),
    "a generator that runs once": (Twice, lambda: (x for x in X)),
    "an empty batch among others": (Twice, lambda: [*X, X[0][:0]]),
    "a single batch": (Twice, lambda: X[:1]),
    "packed, dicts": (Packed, lambda: [{"x": x, "lengths": lengths(), "label": 1, "id": ["a"] * 8} for x in X]),
    "two inputs and labels": (Siamese, lambda: [((x, x.flip(0)), torch.zeros(8)) for x in X]),
    "wrapped": (lambda: nn.DataParallel(Twice()), lambda: X),
    "a DataLoader": (plain, lambda: DataLoader(TensorDataset(torch.cat(X), torch.zeros(64).cfloat()), 8)),
    "labels in words": (plain, lambda: [(x, ["cat"] * 8) for x in X]),
    "no labels": (plain, lambda: [(x, None) for x in X]),
    "arrays of NumPy": (Twice, lambda: [x.numpy() for x in X]),
}


@pytest.mark.parametrize("case", CASES)
def test_users_networks_are_compressed_in_one_call(case):
    build, batches = CASES[case]
    torch.manual_seed(0)
    model = build()
    kept = {name: value.clone() for name, value in model.state_dict().items() if "_ih" not in name}
    result = trcompress.compress_(model, target_ratio=3, calibrate=batches(), refine=4, effort="low")
    assert result.compression_ratio >= 3
    assert model.training
    facts = result.facts
    assert facts["difference_refined"] <= facts["difference_chosen"] <= facts["difference_plain"]
    for name, value in kept.items():
        assert torch.equal(model.state_dict()[name], value), "only input weights and biases change"


def half_way():
    yield from X[:5]
    yield X[5][:, :, :11]


@pytest.mark.parametrize(
    ("batches", "error", "words"),
    [
        (list, InputFileError, "at least one batch"),
        (half_way, InputFileError, r"\(float32 \(8, 7, 11\)\).*this is batch 5, those before it fitted"),
        (lambda: [X[0], X[1] * torch.nan, X[2]], InputFileError, "^what reaches .* must be finite"),
        (lambda: [X[0], X[1], X[2] / 0], InputFileError, "must be finite"),
        (lambda: torch.cat(X), UsageError, "must be batches"),
        (lambda: half_way, UsageError, "must be batches"),
        (lambda: TensorDataset(torch.cat(X)), UsageError, r"got a TensorDataset.*give DataLoader\(dataset, batch"),
        (lambda: [x.double() for x in X], InputFileError, "Twice was called with"),
    ],
)
def test_batches_that_do_not_fit_are_told_and_nothing_changes(batches, error, words):
    model = Twice()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(error, match=words):
        trcompress.compress_(model, target_ratio=3, calibrate=batches(), effort="low")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.training


def under_inference(build):
    with torch.inference_mode():
        return build()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: under_inference(Twice), "outside of it"),
        (lambda: torch.jit.script(nn.Sequential(nn.LSTM(12, 16))), "what TorchScript made of it"),
    ],
)
def test_networks_that_cannot_be_changed_are_refused(build, words):
    with pytest.raises(UsageError, match=words):
        trcompress.compress_(build(), target_ratio=3, calibrate=X)


def test_batches_made_for_inference_are_differentiated_too():
    batches = under_inference(lambda: [x + 0 for x in X])
    assert trcompress.compress_(Twice(), target_ratio=3, calibrate=batches, refine=2, effort="low").facts
    with torch.inference_mode(), pytest.raises(UsageError, match="outside of it"):
        trcompress.compress_(Twice(), target_ratio=3, calibrate=X)


class InPlace(Twice):
    """Changes what gradients would need."""

    def forward(self, x):
        steps = self.rnn(x)[0].sigmoid()
        squares = steps * steps
        steps.mul_(2)
        return self.head(squares.mean(1))


def eight_bits():
    return torch.ao.quantization.quantize_dynamic(Twice().eval(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("build", [InPlace, eight_bits])
def test_networks_without_gradients_are_compressed_and_not_refined(build):
    with pytest.raises(UsageError, match="`refine` needs gradients"):
        trcompress.compress_(build(), target_ratio=3, calibrate=X, refine=2)
    result = trcompress.compress_(build(), target_ratio=3, calibrate=X, effort="low")
    assert any("all gates weigh alike" in note for note in result.notes)


def test_what_a_users_loader_raises_reaches_the_user():
    def broken():
        yield X[0]
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        trcompress.compress_(Twice(), target_ratio=3, calibrate=broken())


def test_outputs_that_are_not_finite_are_named():
    class Masked(Twice):
        def forward(self, x):
            scores = super().forward(x)[0]
            return scores.masked_fill(torch.tensor([False, True]), -torch.inf)

    with pytest.raises(InputFileError, match="what the dense network gives must be finite"):
        trcompress.compress_(Masked(), target_ratio=3, calibrate=X)
    result = trcompress.compress_(Masked(), target_ratio=3, calibrate=X, outputs=lambda scores: scores[:, :1])
    assert result.facts["difference_chosen"] < 2
