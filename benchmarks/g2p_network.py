"""The pretrained grapheme-to-phoneme network as its users run it: a live module, greedy decoding, error rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

START, END, UNKNOWN = 2, 3, "<unk>"
MOST_SYMBOLS = 20


class G2P(nn.Module):
    """Encoder and decoder of GRU cells, each behind its embedding, and a linear head over the phonemes.

    `forward(letters, lengths, symbols)` gives scores of the next symbol after each symbol that the decoder is fed.
    """

    def __init__(self, letters: int, symbols: int, size: int = 256) -> None:
        super().__init__()
        self.enc_emb, self.dec_emb = nn.Embedding(letters, size), nn.Embedding(symbols, size)
        self.enc, self.dec = nn.GRU(size, size, batch_first=True), nn.GRU(size, size, batch_first=True)
        self.fc = nn.Linear(size, symbols)

    @classmethod
    def pretrained(cls, folder: Path) -> G2P:
        """Load the sample's weights."""
        with np.load(folder / "checkpoint20.npz", allow_pickle=False) as file:
            values = {key: torch.from_numpy(file[key]) for key in file.files}
        model = cls(len(values["enc_emb"]), len(values["dec_emb"]))
        state = {f"{side}_emb.weight": values[f"{side}_emb"] for side in ("enc", "dec")}
        for side in ("enc", "dec"):
            for role in ("w_ih", "w_hh", "b_ih", "b_hh"):
                name = role.replace("w_", "weight_").replace("b_", "bias_")
                state[f"{side}.{name}_l0"] = values[f"{side}_{role}"]
        model.load_state_dict(state | {"fc.weight": values["fc_w"], "fc.bias": values["fc_b"]})
        return model.eval()

    def encode(self, letters: Tensor, lengths: Tensor) -> Tensor:
        """Return the last state of every word, (1, B, H)."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.enc_emb(letters), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        return self.enc(packed)[1]

    def forward(self, letters: Tensor, lengths: Tensor, symbols: Tensor, sizes: Tensor) -> Tensor:
        """Score the next symbol: letters (B, T), symbols (B, S), sizes (B,) -> (sum of sizes, symbols)."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dec_emb(symbols), sizes.cpu(), batch_first=True, enforce_sorted=False
        )
        return self.fc(self.dec(packed, self.encode(letters, lengths))[0].data)

    @torch.no_grad()
    def say(self, letters: Tensor, lengths: Tensor) -> list[list[int]]:
        """Pronounce words greedily."""
        hidden = self.encode(letters, lengths)
        symbol, said = torch.full((len(letters), 1), START), []
        for _ in range(MOST_SYMBOLS):
            states, hidden = self.dec(self.dec_emb(symbol), hidden)
            symbol = self.fc(states[:, -1]).argmax(1, keepdim=True)
            said.append(symbol)
        rows = torch.cat(said, 1).tolist()
        return [row[: row.index(END)] if END in row else row for row in rows]


class Words:
    """Words with their accepted pronunciations.

    Args:
        folder: the sample folder `g2p`.
    """

    def __init__(self, folder: Path) -> None:
        symbols = json.loads((folder / "symbols.json").read_text(encoding="utf-8"))
        self._letters = {letter: number for number, letter in enumerate(symbols["graphemes"])}
        phonemes = {phoneme: number for number, phoneme in enumerate(symbols["phonemes"])}
        self.accepted: dict[str, list[list[int]]] = {}
        for line in (folder / "words.tsv").read_text(encoding="utf-8").splitlines():
            word, _, given = line.partition("\t")
            self.accepted[word] = [[phonemes[one] for one in text.split()] for text in given.split("|")]

    def letters(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Letters and `</s>` as (N, T), and lengths (N,)."""
        unknown = self._letters[UNKNOWN]
        rows = [[*(self._letters.get(one, unknown) for one in word), self._letters["</s>"]] for word in words]
        return padded(rows)

    def batches(self, model: G2P, words: Sequence[str], size: int = 50) -> list[tuple[Tensor, ...]]:
        """Calibration batches: letters, and what the network itself says of them; never the right answers."""
        found = []
        for start in range(0, len(words), size):
            letters, lengths = self.letters(words[start : start + size])
            fed = padded([[START, *row][:MOST_SYMBOLS] for row in model.say(letters, lengths)])
            found.append((letters, lengths, *fed))
        return found

    def error_rate(self, model: G2P, words: Sequence[str]) -> float:
        """Phoneme error rate in percent, against the nearest accepted pronunciation."""
        edits = symbols = 0
        for word, said in zip(words, model.say(*self.letters(words)), strict=True):
            pairs = [(edit_distance(said, one), len(one)) for one in self.accepted[word]]
            distance, length = min(pairs, key=lambda pair: pair[0] / pair[1])
            edits, symbols = edits + distance, symbols + length
        return 100 * edits / symbols


def run(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Run the network on a calibration batch."""
    return model(*batch)


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of numbers as one tensor, padded with 0, and their lengths."""
    lengths = torch.tensor([len(row) for row in rows])
    values = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        values[place, : len(row)] = torch.tensor(row)
    return values, lengths


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Insertions, deletions and substitutions that turn one sequence into the other."""
    previous = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        current = [i]
        for j, right in enumerate(other, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (left != right)))
        previous = current
    return previous[-1]
