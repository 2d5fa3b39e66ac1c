"""A network as users write them: how many syllables a word has, read letter by letter."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from g2p import Words
from measured_call import measured
from samples import find_sample
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

import trcompress

TRAINED_ON, CALIBRATED_ON = 1600, 1200
MOST_SYLLABLES = 3


class SyllableCounter(nn.Module):
    """Embedding, bidirectional LSTM over packed letters, attention, linear head."""

    def __init__(self, letters: int, width: int = 128, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        self.rnn = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.attention = nn.Linear(2 * hidden, 1)
        self.head = nn.Linear(2 * hidden, MOST_SYLLABLES)

    def forward(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Score padded words (B, T) of these lengths (B,) -> (B, MOST_SYLLABLES) log-probabilities."""
        packed = pack_padded_sequence(self.embedding(letters), lengths, batch_first=True, enforce_sorted=False)
        steps, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        inside = torch.arange(steps.shape[1]) < lengths.unsqueeze(1)
        scores = self.attention(steps).squeeze(-1).masked_fill(~inside, -torch.inf)
        weights = torch.softmax(scores, dim=1).unsqueeze(-1)
        return torch.log_softmax(self.head((weights * steps).sum(1)), dim=-1)


def run_syllables(given: argparse.Namespace) -> list[dict[str, Any]] | None:
    """Compress ten times over all W_ih, before and after refinement, for every draw of the calibration words."""
    sample = find_sample("g2p")
    if sample is None:
        return None
    examples, letters = _examples(Words(sample))
    seen, unseen = examples[:TRAINED_ON], examples[TRAINED_ON:]
    dense = _trained(SyllableCounter(letters), seen)
    rows: list[dict[str, Any]] = [{"way": "dense", "accuracy": _accuracy(dense, unseen)}]
    for draw in (int(one) for one in given.draws.split(",")):
        chosen = torch.randperm(len(seen), generator=torch.Generator().manual_seed(draw))[:CALIBRATED_ON]
        loader = DataLoader([seen[place] for place in chosen.tolist()], 32, collate_fn=_collate)
        for steps in dict.fromkeys((0, given.refine)):
            model = copy.deepcopy(dense)
            result, cost = measured(
                lambda model=model, loader=loader, steps=steps: trcompress.compress_(
                    model, target_ratio=10, calibrate=loader, refine=steps
                )
            )
            found = {"agreement": _agreement(dense, model, unseen), "accuracy": _accuracy(model, unseen)}
            ratio = {"ratio": result.compression_ratio, "draw": draw}
            rows.append({"way": f"refined, {steps} steps" if steps else "calibrated", **ratio, **found, **cost})
    for way in dict.fromkeys(row["way"] for row in rows[1:]):
        agreements = [row["agreement"] for row in rows if row["way"] == way and row["draw"] != "median"]
        rows.append({"way": way, "draw": "median", "agreement": median(agreements)})
    return rows


Example = tuple[list[int], int]


def _examples(words: Words) -> tuple[list[Example], int]:
    """Letters and the number of syllables less one; vowels are the symbols that carry a stress."""
    vowels = words.vowels
    found = []
    for word, pronunciations in words.accepted.items():
        (letters,), _ = words.tokens([word])
        syllables = sum(symbol in vowels for symbol in pronunciations[0])
        found.append((letters.tolist(), min(max(1, syllables), MOST_SYLLABLES) - 1))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
    return [found[place] for place in order], 1 + max(max(letters) for letters, _ in found)


def _collate(examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([len(letters) for letters, _ in examples])
    padded = nn.utils.rnn.pad_sequence([torch.tensor(letters) for letters, _ in examples], batch_first=True)
    return padded, lengths, torch.tensor([label for _, label in examples])


def _trained(model: nn.Module, examples: Sequence[Example], epochs: int = 12) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    loader = DataLoader(examples, 32, shuffle=True, collate_fn=_collate)  # type: ignore[arg-type]
    for _ in range(epochs):
        for letters, lengths, labels in loader:
            optimizer.zero_grad()
            nn.functional.nll_loss(model(letters, lengths), labels).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def _agreement(one: nn.Module, other: nn.Module, examples: Sequence[Example]) -> float:
    """Share of words on which two networks give the same answer, in percent."""
    letters, lengths, _ = _collate(examples)
    return 100 * float((one(letters, lengths).argmax(1) == other(letters, lengths).argmax(1)).float().mean())


@torch.no_grad()
def _accuracy(model: nn.Module, examples: Sequence[Example]) -> float:
    letters, lengths, labels = _collate(examples)
    return 100 * float((model(letters, lengths).argmax(1) == labels).float().mean())
