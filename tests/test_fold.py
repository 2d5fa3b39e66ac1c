"""Folding keeps every output, and only where it may."""

from copy import deepcopy

import pytest
import torch
from torch import nn

import trcompress
from trcompress.layers.swaps import swapped
from trcompress.passes.fold import fold_embeddings, merge_biases


class Text(nn.Module):
    """Embedding, recurrent layer, head; `also` makes something else read the embedding."""

    def __init__(self, kind: str, words: int, size: int, two_way: bool = False, also: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size, padding_idx=0)
        self.rnn = getattr(nn, kind)(size, 6, 2, batch_first=True, bidirectional=two_way)
        self.head = nn.Linear(6 * (1 + two_way), 3)
        self.gate = nn.Linear(size, 3) if also else None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        scores = self.head(self.rnn(x)[0][:, -1])
        return scores if self.gate is None else scores + self.gate(x.mean(1))


def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("two_way", [False, True])
def test_a_wide_embedding_becomes_as_wide_as_its_words(kind: str, two_way: bool) -> None:
    torch.manual_seed(0)
    model, tokens = Text(kind, 5, 20, two_way).eval(), torch.randint(0, 5, (4, 7))
    others = torch.randint(0, 5, (8, 9))
    wanted, unseen = model(tokens), model(others)
    swaps = fold_embeddings(model, [tokens], forward)
    assert set(swaps) == {"embedding", "rnn"}
    assert swaps["rnn"].input_size == swaps["embedding"].embedding_dim == 5
    torch.testing.assert_close(model(tokens), wanted)  # the model itself is unchanged
    with swapped(model, swaps) as folded:
        torch.testing.assert_close(folded(others), unseen, rtol=1e-4, atol=1e-5)


def test_what_something_else_reads_is_left() -> None:
    torch.manual_seed(0)
    assert not fold_embeddings(Text("LSTM", 5, 20, also=True), [torch.randint(0, 5, (4, 7))], forward)


def test_an_embedding_of_more_words_than_values_is_left() -> None:
    assert not fold_embeddings(Text("LSTM", 50, 20), [torch.randint(0, 5, (4, 7))], forward)


def test_one_embedding_may_feed_two_layers() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.one, self.other = nn.Embedding(4, 9), nn.GRU(9, 3), nn.LSTM(9, 2)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.table(tokens)
            return torch.cat((self.one(x)[0], self.other(x)[0]), -1)

    torch.manual_seed(0)
    model, tokens = Two(), torch.randint(0, 4, (5, 2))
    wanted = model(tokens)
    swaps = fold_embeddings(model, [tokens], forward)
    assert set(swaps) == {"table", "one", "other"}
    with swapped(model, swaps) as folded:
        torch.testing.assert_close(folded(tokens), wanted)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_merged_biases_give_the_same(kind: str) -> None:
    torch.manual_seed(0)
    layer, x = getattr(nn, kind)(4, 6, bidirectional=True).double(), torch.randn(5, 3, 4).double()
    merged = merge_biases(layer)
    torch.testing.assert_close(merged(x)[0], layer(x)[0])
    zeros = sum(int((bias == 0).sum()) for name, bias in merged.named_parameters() if "bias_hh" in name)
    assert zeros == 2 * 6 * {"LSTM": 4, "GRU": 2, "RNN": 1}[kind]


@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_an_entropy_coded_file_holds_one_bias_a_layer(kind: str) -> None:
    """Rounding moves the mean of what weight_hh loses into the bias that stays, so that the other stays zero."""
    torch.manual_seed(0)
    model = nn.Sequential(getattr(nn, kind)(40, 32, batch_first=True))
    batches = [torch.randn(8, 6, 40) for _ in range(4)]
    wanted = deepcopy(model)(batches[0])[0]
    whole = trcompress.compress_(
        model, target_ratio_model=4, calibrate=batches, packed=True, passes=("fold", "rounding")
    )
    assert not whole.model[0].bias_hh_l0.any()
    assert whole.stored
    torch.testing.assert_close(whole.model(batches[0])[0], wanted, atol=0.1, rtol=0)
