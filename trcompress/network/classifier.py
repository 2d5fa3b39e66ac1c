"""A classifier: recurrent stacks, one feeding the next, and a linear head, with its tensors' names in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from trcompress.artifact.storage import Rounding
from trcompress.errors import UsageError, one_of
from trcompress.layers import dense_class
from trcompress.layers.padded_lstm import use_padded_kernel
from trcompress.model.kinds import KINDS

READOUTS = ("final", "last-step", "mean", "every")


@dataclass(frozen=True)
class Wiring:
    """How the parts of a file form a classifier, where the file alone does not tell.

    Attributes:
        stacks: recurrent stacks in order; empty: found by their sizes and names.
        head: key of the head's weight; None: found by its shape.
        readout: what the head sees: "final" = the last states of all directions (each direction at its own
            end), "last-step" = the output at the last valid step, "mean" = the mean output over valid steps,
            "every" = the output at each step, one answer a step.
        model: `package.module:factory` of the user's own network instead of a chain.
        kind: how to read a dense checkpoint; see `read_checkpoint`, as for the next two.
        skip_objects: leave out Python objects beside the weights.
        ignore_unknown: keys or globs of tensors in a layer's own module that take no part in its steps.
    """

    stacks: tuple[str, ...] = ()
    head: str | None = None
    readout: str = "final"
    model: str | None = None
    kind: str | None = None
    skip_objects: bool = False
    ignore_unknown: tuple[str, ...] = ()

    @property
    def reading(self) -> dict[str, Any]:
        """Arguments of `open_model`."""
        return {name: getattr(self, name) for name in ("kind", "skip_objects", "ignore_unknown")}

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise UsageError(f"readout must be one of {', '.join(READOUTS)}: got {self.readout!r}")
        if self.model is not None and (self.stacks or self.readout != "final"):
            raise UsageError(
                "`stacks` and `readout` would not be used with `model`: it builds the network; leave them out"
            )


@dataclass(frozen=True)
class Classifier:
    """A network that turns sequences into class scores, and its tensors' names in the file.

    Args:
        module: called with (x (B, T, I) or tokens (B, T), lengths (B,) or None) and other inputs by name; gives
            (B, classes), or (B, T, classes) where it labels steps.
        keys: for each name in the module's state, the key in the file.
        recurrent: recurrent modules by stack name.
        plans: structure of every compressed weight, by key.
        head: names in the module's state that belong to the head.
        input_size: values per step, or None where the network does not tell.
        classes: scores, or None where the network does not tell.
        notes: how the parts were found, what is not used.
        storage: how what a file holds in few bits is rounded, by name in the module's state.
        vocabulary: rows of the embedding in front, or None where there is none.
    """

    module: nn.Module
    keys: Mapping[str, str]
    recurrent: Mapping[str, nn.Module]
    head: tuple[str, ...]
    input_size: int | None
    classes: int | None
    notes: tuple[str, ...] = ()
    storage: Mapping[str, Rounding] = field(default_factory=dict)
    vocabulary: int | None = None

    def file_tensors(self) -> dict[str, Tensor]:
        """Return copies of the current values, by key in the file."""
        return {self.keys[name]: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}


class Chain(nn.Module):
    """Recurrent stacks and a head at the places their names in the file give them.

    Args:
        stacks: modules by their path, in order; batch first.
        head: the linear layer.
        head_path: its path.
        dropout: of what enters the head, and between stacks.
        readout: one of `READOUTS`.
        embedding: its path, and the module that looks tokens up.
    """

    def __init__(
        self,
        stacks: Mapping[str, nn.Module],
        head: nn.Linear,
        head_path: str,
        *,
        dropout: float,
        readout: str,
        embedding: tuple[str, nn.Embedding] | None = None,
    ) -> None:
        super().__init__()
        self._dropout, self._readout = nn.Dropout(dropout), readout
        modules: dict[str, nn.Module] = {path: use_padded_kernel(one) for path, one in stacks.items()}
        modules[head_path] = head
        if embedding is not None:
            modules[embedding[0]] = embedding[1]
        placed = {path: _place(self, path, modules[path]) for path in sorted(modules, key=len)}
        self._order = tuple(placed[path] for path in stacks)
        self._head = placed[head_path]
        self._embedding = placed[embedding[0]] if embedding is not None else None

    def path_of(self, module: nn.Module) -> str:
        """Where a module was placed."""
        return next(path for path, one in self.named_modules() if one is module)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, mask: Tensor | None = None, **more: Tensor
    ) -> Tensor:
        """Score sequences: x (B, T, I) or tokens (B, T), lengths (B,) -> (B, classes), or (B, T, classes).

        Raises:
            UsageError: inputs that a chain of a file's parts does not take.
        """
        if more or (mask is not None and lengths is None and not bool(mask.all())):
            named = ", ".join(more) or "a mask with gaps"
            raise UsageError(
                f"the network that a file's parts form takes x and lengths: the data also holds {named}; "
                "give the network's code with `model=package.module:factory`"
            )
        if self._embedding is not None:
            x = self.get_submodule(self._embedding)(x)
        elif not x.is_floating_point():
            x = x.unsqueeze(-1).float()
        sequence: Tensor | PackedSequence = x
        if lengths is not None:
            sequence = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        for number, path in enumerate(self._order):
            if number:
                sequence = self._dropped(sequence)
            sequence, state = self.get_submodule(path)(sequence)
        features = self._read(sequence, state, path, x.shape[1])
        return self.get_submodule(self._head)(self._dropout(features))

    def _dropped(self, sequence: Tensor | PackedSequence) -> Tensor | PackedSequence:
        if isinstance(sequence, PackedSequence):
            return sequence._replace(data=self._dropout(sequence.data))
        return self._dropout(sequence)

    def _read(
        self, sequence: Tensor | PackedSequence, state: Tensor | tuple[Tensor, ...], path: str, total: int
    ) -> Tensor:
        if self._readout == "final":
            hidden = state if isinstance(state, Tensor) else state[0]
            directions = 2 if self.get_submodule(path).bidirectional else 1
            return torch.cat(tuple(hidden[-directions:]), dim=-1)  # (B, D * H)
        if isinstance(sequence, PackedSequence):
            steps, lengths = pad_packed_sequence(sequence, batch_first=True, total_length=total)
            lengths = lengths.to(steps.device)
        else:
            steps, lengths = sequence, torch.full((len(sequence),), sequence.shape[1], device=sequence.device)
        if self._readout == "every":
            return steps
        if self._readout == "mean":
            return steps.sum(1) / lengths.unsqueeze(1)  # padding is zero
        return steps[torch.arange(len(steps), device=steps.device), lengths - 1]


def dense_classifier(
    input_size: int,
    classes: int,
    *,
    kind: str = "lstm",
    hidden_size: int = 128,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    readout: str = "final",
) -> Classifier:
    """Build a dense classifier to be trained from scratch: `rnn` (nn.LSTM, nn.GRU or nn.RNN) and `fc`.

    Raises:
        UsageError: an unknown kind.

    Example:
        >>> sorted(dense_classifier(6, 4, hidden_size=8).file_tensors())[:2]
        ['fc.bias', 'fc.weight']
    """
    rnn = dense_class(one_of("kind", kind, KINDS))(
        input_size,
        hidden_size,
        layers,
        batch_first=True,
        bidirectional=bidirectional,
        dropout=dropout if layers > 1 else 0.0,
    )
    head = nn.Linear(hidden_size * (2 if bidirectional else 1), classes)
    chain = Chain({"rnn": rnn}, head, "fc", dropout=dropout, readout=Wiring(readout=readout).readout)
    keys = {name: name for name in chain.state_dict()}
    return Classifier(chain, keys, {"rnn": rnn}, ("fc.weight", "fc.bias"), input_size, classes)


def _place(root: nn.Module, path: str, module: nn.Module) -> str:
    """Add a module at a dotted path, or at a free name where PyTorch does not allow the path."""
    *parents, leaf = path.split(".")
    holder = root
    for part in parents:
        if part not in holder._modules:
            if not part or hasattr(holder, part):
                return _place(root, "placed_" + path.replace(".", "_"), module)
            holder.add_module(part, nn.Module())
        holder = holder.get_submodule(part)
    if not leaf or hasattr(holder, leaf):
        return _place(root, "placed_" + path.replace(".", "_"), module)
    holder.add_module(leaf, module)
    return path
