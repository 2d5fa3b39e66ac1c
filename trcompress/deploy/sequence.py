"""What a file says of itself as one module to ship: embedding, recurrent stacks, one feeding the next, head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from trcompress.deploy.to_plain import to_plain
from trcompress.errors import InputFileError, UsageError, one_of
from trcompress.network.find_head import bias_of, find_chain, find_head, input_size, output_size
from trcompress.network.model_file import ModelFile

READOUTS = ("final", "last-step", "mean", "every")


class SequenceNetwork(nn.Module):
    """An embedding (or none), recurrent stacks, a linear head (or none), in modules of torch.nn.

    Args:
        embedding: turns tokens into what the first stack takes.
        stacks: batch-first modules of torch.nn, or chains of `to_plain`.
        head: on what `readout` takes.
        readout: "final", "last-step" and "mean" as in `Wiring`; "every": the head on every step.
    """

    def __init__(
        self, embedding: nn.Embedding | None, stacks: Sequence[nn.Module], head: nn.Linear | None, readout: str
    ) -> None:
        super().__init__()
        one_of("readout", readout, READOUTS)
        self.embedding, self.stacks, self.head = embedding, nn.ModuleList(stacks), head
        self.readout = readout

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        """Run over sequences.

        Args:
            x: (B, T, I), or tokens (B, T).
            lengths: (B,), valid steps of each; None: all.

        Returns:
            (scores,): (B, classes), or (B, T, classes) for "every"; without a head (output (B, T, D*H), h_n) and,
            of an LSTM, c_n. Output beyond a sequence's end is zero.
        """
        steps = x if self.embedding is None else self.embedding(x)
        sequence: Any = steps
        if lengths is not None:
            sequence = pack_padded_sequence(steps, lengths.cpu(), batch_first=True, enforce_sorted=False)
        state: Any = None
        for stack in self.stacks:
            sequence, state = stack(sequence)
        output = sequence
        if lengths is not None:
            output, _ = pad_packed_sequence(sequence, batch_first=True, total_length=steps.shape[1])
        states = (state,) if isinstance(state, Tensor) else tuple(state)
        if self.head is None:
            return (output, *states)
        return (self.head(self._read(output, states[0], lengths)),)

    def _read(self, output: Tensor, hidden: Tensor, lengths: Tensor | None) -> Tensor:
        if self.readout == "every":
            return output
        if self.readout == "final":
            last: Any = self.stacks[-1]
            directions = 2 if getattr(last, "rnn", last).bidirectional else 1
            return torch.cat(tuple(hidden[-directions:]), dim=-1)  # (B, D * H)
        count = torch.full((len(output),), output.shape[1]) if lengths is None else lengths
        count = count.to(output.device)
        if self.readout == "mean":
            return output.sum(1) / count.unsqueeze(1)
        return output[torch.arange(len(output), device=output.device), count - 1]


def read_sequence_network(
    file: ModelFile,
    *,
    stacks: Sequence[str] = (),
    head: str | None = None,
    embedding: str | None = None,
    readout: str = "final",
) -> tuple[SequenceNetwork, tuple[str, ...]]:
    """Build what a file says of itself, in float32 and modules of torch.nn.

    Args:
        file: an artifact or a dense checkpoint, opened.
        stacks: recurrent stacks in order; empty: found by sizes and names.
        head: key of the head's weight; None: found by its shape, "none": there is none.
        embedding: key of the embedding; None: found by its shape and a name with "emb" in it, or as many rows as
            the head (which it may be tied to); "none": there is none.
        readout: see `SequenceNetwork`.

    Returns:
        The network in eval mode, and how its parts were found, in words.

    Raises:
        UsageError: parts are ambiguous, or a name is not in the file.
        InputFileError: the file holds a layer that is no plain LSTM, GRU or RNN.
    """
    file.refuse_unknown()
    order, how = find_chain(file, tuple(stacks))
    built = [to_plain(file.build_stack(name, dropout=0.0)[0]) for name in order]
    notes = [*file.notes, f"recurrent stacks: {' -> '.join(name or '(root)' for name in order)}; {how}"]
    linear, note, head = _find_linear(file, output_size(file.stacks[order[-1]]), head)
    table, table_note = _find_table(file, input_size(file.stacks[order[0]]), embedding, head)
    network = SequenceNetwork(table, built, linear, readout)
    return network.float().eval(), (*notes, note, table_note)


def _find_linear(file: ModelFile, features: int, key: str | None) -> tuple[nn.Linear | None, str, str | None]:
    """The head, how it was found, and its weight's key."""
    if key == "none":
        return None, "no head: the outputs are the last stack's outputs and states", None
    try:
        found = find_head(file, features, None, key)
    except InputFileError:
        if key is not None:
            raise
        told = f"no matrix takes the {features} outputs: the outputs are the last stack's outputs and states"
        return None, told, None
    linear = nn.Linear(features, file.shapes[found.weight][0], bias=found.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(file.tensor(found.weight))
        if found.bias is not None:
            linear.bias.copy_(file.tensor(found.bias))
    return linear, f"head: {found.weight}: {found.note}", found.weight


def _find_table(file: ModelFile, width: int, key: str | None, head: str | None) -> tuple[nn.Embedding | None, str]:
    if key == "none":
        return None, "no embedding: the input is vectors"
    fits = [
        name
        for name, shape in file.shapes.items()
        if len(shape) == 2 and shape[1] == width and name not in file.recurrent_keys
    ]
    if key is not None:
        one_of("embedding", key, fits)
    plain = [name for name in fits if name != head and bias_of(file, name) is None]
    named = [key] if key else [name for name in plain if "emb" in name.lower()]
    rows = None if head is None else file.shapes[head][0]
    named = named or [name for name in plain if file.shapes[name][0] == rows]
    if len(named) > 1:
        raise UsageError(
            f"one matrix must be the embedding of the first stack: {', '.join(named)} fit; name it with "
            "`embedding`, or say `embedding=none`"
        )
    if not named:
        return None, f"no embedding: the input is vectors of {width:,}"
    return nn.Embedding.from_pretrained(
        file.tensor(named[0]).float()
    ), f"embedding: {named[0]}; the input is tokens"


def open_sequence_network(path: str | Path, **parts: Any) -> tuple[SequenceNetwork, tuple[str, ...]]:
    """Open a file and build what it says of itself; see `read_sequence_network`."""
    from trcompress.network.model_file import open_model

    file = open_model(path)
    network = read_sequence_network(file, **parts)
    file.refuse_changed()
    return network
