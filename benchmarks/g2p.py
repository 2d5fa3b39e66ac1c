"""The pretrained grapheme-to-phoneme network of the samples, run for real: greedy decoding and its error rate.

Any matrices may stand in for the two input weights.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

START, END, UNKNOWN = 2, 3, "<unk>"
MOST_SYMBOLS = 20


class Words:
    """Words with their accepted pronunciations, and the symbol tables.

    Args:
        folder: the sample folder `g2p`.
    """

    def __init__(self, folder: Path) -> None:
        symbols = json.loads((folder / "symbols.json").read_text(encoding="utf-8"))
        self.letters = {letter: number for number, letter in enumerate(symbols["graphemes"])}
        phonemes = {phoneme: number for number, phoneme in enumerate(symbols["phonemes"])}
        self.vowels = {
            number for phoneme, number in phonemes.items() if phoneme[-1].isdigit()
        }  # they carry a stress
        self.accepted: dict[str, list[list[int]]] = {}
        for line in (folder / "words.tsv").read_text(encoding="utf-8").splitlines():
            word, _, given = line.partition("\t")
            self.accepted[word] = [[phonemes[one] for one in text.split()] for text in given.split("|")]

    def tokens(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Letters and `</s>` as (N, T) int64, padded with 0, and lengths (N,)."""
        unknown = self.letters[UNKNOWN]
        rows = [[self.letters.get(letter, unknown) for letter in word] + [self.letters["</s>"]] for word in words]
        return padded(rows)

    def error_rate(self, words: Sequence[str], said: Sequence[Sequence[int]]) -> float:
        """Phoneme error rate in percent: edits over symbols, against the nearest accepted pronunciation."""
        edits = symbols = 0
        for word, symbols_said in zip(words, said, strict=True):
            distance, length = min(
                ((edit_distance(symbols_said, one), len(one)) for one in self.accepted[word]),
                key=lambda pair: pair[0] / pair[1],
            )
            edits, symbols = edits + distance, symbols + length
        return 100 * edits / symbols


def padded(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of numbers as one array, padded with 0, and their lengths."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    tokens = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for place, row in enumerate(rows):
        tokens[place, : len(row)] = row
    return tokens, lengths


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Insertions, deletions and substitutions that turn one sequence into the other."""
    previous = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        current = [i]
        for j, right in enumerate(other, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (left != right)))
        previous = current
    return previous[-1]


@torch.no_grad()
def decode(tensors: Mapping[str, Tensor], tokens: np.ndarray, lengths: np.ndarray) -> list[list[int]]:
    """Pronounce words greedily.

    Args:
        tensors: of the network, by the names in its checkpoint; compressed weights expanded.
        tokens: (N, T) letters.
        lengths: (N,).
    """
    tensors = {key: value.float() for key, value in tensors.items()}
    letters, ends = torch.from_numpy(tokens), torch.from_numpy(lengths)
    hidden = torch.zeros(len(letters), tensors["enc_w_hh"].shape[1])
    for step in range(letters.shape[1]):
        moved = _gru(tensors, "enc", tensors["enc_emb"][letters[:, step]], hidden)
        hidden = torch.where((step < ends).unsqueeze(1), moved, hidden)
    symbol = torch.full((len(letters),), START)
    said = []
    for _ in range(MOST_SYMBOLS):
        hidden = _gru(tensors, "dec", tensors["dec_emb"][symbol], hidden)
        symbol = (hidden @ tensors["fc_w"].t() + tensors["fc_b"]).argmax(1)
        said.append(symbol)
    return [row[: row.index(END)] if END in row else row for row in torch.stack(said, 1).tolist()]


def decoder_inputs(said: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """What the decoder was fed while it said this: `<s>`, then every symbol but the last."""
    return padded([[START, *row][:MOST_SYMBOLS] for row in said])


def _gru(tensors: Mapping[str, Tensor], side: str, x: Tensor, hidden: Tensor) -> Tensor:
    size = hidden.shape[1]
    given = x @ tensors[f"{side}_w_ih"].t() + tensors[f"{side}_b_ih"]
    own = hidden @ tensors[f"{side}_w_hh"].t() + tensors[f"{side}_b_hh"]
    reset, update = torch.sigmoid(given[:, : 2 * size] + own[:, : 2 * size]).chunk(2, dim=1)
    new = torch.tanh(given[:, 2 * size :] + reset * own[:, 2 * size :])
    return (1 - update) * new + update * hidden
