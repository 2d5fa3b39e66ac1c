"""The pretrained grapheme-to-phoneme network as its users run it: a live module, greedy decoding, error rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from g2p import END, MOST_SYMBOLS, START, Words, decoder_inputs
from torch import Tensor, nn


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


class SpokenWords(Words):
    """Words as tensors, said by a live network."""

    def letters_of(self, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Letters and `</s>` as (N, T), and lengths (N,)."""
        return tensors(self.tokens(words))

    def batches(self, model: G2P, words: Sequence[str], size: int = 50) -> list[tuple[Tensor, ...]]:
        """Calibration batches: letters, and what the network itself says of them; never the right answers."""
        found = []
        for start in range(0, len(words), size):
            letters, lengths = self.letters_of(words[start : start + size])
            found.append((letters, lengths, *tensors(decoder_inputs(model.say(letters, lengths)))))
        return found

    def error_rate_of(self, model: G2P, words: Sequence[str]) -> float:
        """Phoneme error rate in percent, against the nearest accepted pronunciation."""
        return self.error_rate(words, model.say(*self.letters_of(words)))


def run(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Run the network on a calibration batch."""
    return model(*batch)


def tensors(arrays: Sequence[np.ndarray]) -> tuple[Tensor, ...]:
    """Turn arrays into tensors that share their memory."""
    return tuple(torch.from_numpy(array) for array in arrays)
