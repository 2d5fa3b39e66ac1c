"""A file without code as one nn.Module: stacks that feed each other or start from another's last state, and heads.

Everything that calibrates, shares or refines takes live networks; this is how a file becomes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from trcompress.errors import InputFileError, UsageError
from trcompress.layers import recurrent_kind
from trcompress.network.calibration_data import CalibrationData
from trcompress.network.feeds import TokenFeed
from trcompress.network.find_head import find_chain, find_head, input_size, output_size
from trcompress.network.model_file import ModelFile
from trcompress.network.outputs import Outputs

COMPARED = ("final", "every")


@dataclass(frozen=True)
class End:
    """How the output of one stack is looked at.

    Args:
        stack: its name.
        head: key of the matrix over it, or None where its hidden states are the output.
        bias: key of the head's bias.
        compare: "final" compares the last state of a sequence, "every" each step.
        tokens: whether the head has one row for each token that the stack is fed: then it gives class scores.
        note: how the head was found, in words.
    """

    stack: str
    head: str | None
    bias: str | None
    compare: str
    tokens: bool
    note: str


class FileNetwork(nn.Module):
    """The recurrent part of a dense file, its embeddings and heads.

    Args:
        file: the file.
        data: which stacks are fed by data, and which start from another's last state.
        head: key of the linear layer over the last stack; None finds it by its shape, "" gives hidden states.
        compare: "final", "every", or None: each step where tokens are fed, else the final state of a sequence.

    Attributes:
        weights: for each tensor of a stack that can run, by its key in the file, its name in this module.
        unfed: stacks that neither data nor another stack is known to feed.
        notes: what was decided, in words.

    Raises:
        UsageError: `head` or `compare` does not exist.
    """

    def __init__(
        self, file: ModelFile, data: CalibrationData, head: str | None = None, compare: str | None = None
    ) -> None:
        super().__init__()
        if compare is not None and compare not in COMPARED:
            raise UsageError(f"compare must be one of {', '.join(COMPARED)}: got {compare!r}")
        self._below, notes = _links(file, data)
        self._starts = {stack: one for stack, one in data.states.items() if isinstance(one, str)}
        self._order = _order(file, data, self._below)
        self.unfed = tuple(stack for stack in file.stacks if stack not in self._order)
        self.stacks = nn.ModuleList()
        self.weights: dict[str, str] = {}
        for place, stack in enumerate(self._order):
            module, keys = file.build_stack(stack, batch_first=True)
            self.stacks.append(module)
            self.weights |= {key: f"stacks.{place}.{local}" for local, key in keys.items()}
        self.embeddings, self._tables = nn.ModuleDict(), {}
        for stack, feed in data.feeds.items():
            if isinstance(feed, TokenFeed) and stack in self._order:
                name = str(self._order.index(stack))
                self.embeddings[name] = nn.Embedding.from_pretrained(feed.embedding)
                self._tables[name] = feed.embedding_key
        self._ends = tuple(_end(file, data, stack, head, compare) for stack in self._last_stacks())
        self.heads = nn.ModuleList(_head(file, one) for one in self._ends)
        self.requires_grad_(False)
        self.notes = (*file.notes, *data.notes, *notes, *(one.note for one in self._ends))

    @property
    def file_keys(self) -> dict[str, str]:
        """For each name in the state dict, the key in the file."""
        keys = {name: key for key, name in self.weights.items()}
        keys |= {f"embeddings.{place}.weight": key for place, key in self._tables.items()}
        for place, end in enumerate(self._ends):
            parts = {"weight": end.head, "bias": end.bias}
            keys |= {f"heads.{place}.{part}": key for part, key in parts.items() if key}
        return keys

    @property
    def outputs(self) -> Outputs:
        """What is known of what forward gives: class scores only where the heads have a row for each token."""
        if all(one.tokens for one in self._ends):
            return Outputs("scores", _all, why="the head has one row for each token that the stack is fed")
        label = "" if all(one.head for one in self._ends) else "hidden states"
        return Outputs("values", _all, why="nothing says that they are class scores", label=label)

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """Run all stacks.

        Args:
            batch: as `CalibrationData.batches` gives it: by stack, what it is fed and the states it starts from.

        Returns:
            For each stack that feeds no other: rows of its head's outputs, or of its hidden states.
        """
        outputs: dict[str, Any] = {}
        states: dict[str, Any] = {}
        for place, stack in enumerate(self._order):
            fed = outputs[self._below[stack]] if stack in self._below else self._fed(place, batch["fed"][stack])
            outputs[stack], states[stack] = self.stacks[place](fed, self._start(place, stack, batch, states))
        return tuple(
            head(self._read(one, outputs[one.stack], states[one.stack]))
            for one, head in zip(self._ends, self.heads, strict=True)
        )

    def _fed(self, place: int, given: tuple[Tensor, Tensor | None]) -> Tensor | PackedSequence:
        entries, lengths = given
        if str(place) in self.embeddings:
            entries = self.embeddings[str(place)](entries)
        if lengths is None:
            return entries
        return pack_padded_sequence(entries, lengths.cpu(), batch_first=True, enforce_sorted=False)

    def _start(self, place: int, stack: str, batch: Mapping[str, Any], states: Mapping[str, Any]) -> Any:
        """The initial state of a stack, or None for zeros."""
        paired = recurrent_kind(self.stacks[place]).states == 2
        if stack in self._starts:
            state = states[self._starts[stack]]
            hidden = state[0] if isinstance(state, tuple) else state
            if not paired:
                return hidden
            return state if isinstance(state, tuple) else (hidden, torch.zeros_like(hidden))
        hidden = batch["states"].get(stack)
        return (hidden, torch.zeros_like(hidden)) if paired and hidden is not None else hidden

    def _read(self, end: End, output: Any, state: Any) -> Tensor:
        if end.compare == "every":
            return output.data if isinstance(output, PackedSequence) else output.flatten(0, 1)
        hidden = state[0] if isinstance(state, tuple) else state
        module = self.stacks[self._order.index(end.stack)]
        return torch.cat(tuple(hidden[-2 if module.bidirectional else -1 :]), dim=-1)

    def _last_stacks(self) -> list[str]:
        inner = set(self._below.values()) | set(self._starts.values())
        return [stack for stack in self._order if stack not in inner]


def _all(result: Any) -> Any:
    return result


def _head(file: ModelFile, end: End) -> nn.Module:
    """The linear layer over a stack, or what leaves hidden states as they are."""
    if end.head is None:
        return nn.Identity()
    rows, columns = file.shapes[end.head]
    head = nn.utils.skip_init(nn.Linear, columns, rows, bias=end.bias is not None)  # draws no random numbers
    with torch.no_grad():
        head.weight.copy_(file.tensor(end.head))
        if end.bias is not None:
            head.bias.copy_(file.tensor(end.bias))
    return head


def _end(file: ModelFile, data: CalibrationData, stack: str, head: str | None, compare: str | None) -> End:
    name, feed = stack or "the network", data.feeds.get(stack)
    found, note = None, f"{name}: hidden states are compared"
    if head != "":
        try:
            found = find_head(file, output_size(file.stacks[stack]), key=head)
            note = f"{name}: outputs of {found.weight} are compared ({found.note})"
        except (UsageError, InputFileError) as error:
            if head is not None:
                raise
            note = f"{name}: hidden states are compared, since no head was found ({error})"
    fed_tokens = isinstance(feed, TokenFeed)
    looked = compare or ("every" if fed_tokens or found is None else "final")
    note += ", each step" if looked == "every" else ", the final state"
    if found is None:
        return End(stack, None, None, looked, False, note)
    tokens = isinstance(feed, TokenFeed) and file.shapes[found.weight][0] == len(feed.embedding)
    return End(stack, found.weight, found.bias, looked, tokens, note)


def _links(file: ModelFile, data: CalibrationData) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which stack takes the output of which, for those that data does not feed."""
    if len(data.feeds) == len(file.stacks):
        return {}, ()
    try:
        order, how = find_chain(file)
    except (UsageError, InputFileError):
        order, how = (), ""
    links = {
        after: before
        for before, after in pairwise(order)
        if after not in data.feeds and output_size(file.stacks[before]) == input_size(file.stacks[after])
    }
    return links, tuple(f"{after} is fed what {before} gives ({how})" for after, before in links.items())


def _order(file: ModelFile, data: CalibrationData, below: Mapping[str, str]) -> list[str]:
    """The stacks that can run, each after those it depends on."""
    placed: list[str] = []
    while True:
        ready = [stack for stack in file.stacks if stack not in placed and _is_fed(stack, data, below, placed)]
        if not ready:
            return placed
        placed += ready


def _is_fed(stack: str, data: CalibrationData, below: Mapping[str, str], placed: Sequence[str]) -> bool:
    start = data.states.get(stack)
    fed = stack in data.feeds or (stack in below and below[stack] in placed)
    return fed and (not isinstance(start, str) or start in placed)
