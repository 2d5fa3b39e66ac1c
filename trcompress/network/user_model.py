"""The user's own network as a classifier: built by their code, its recurrent layers swapped, its tensors loaded."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.artifact.file import Artifact
from trcompress.artifact.load import load_
from trcompress.data.factory import call_factory
from trcompress.errors import UsageError, nearest
from trcompress.layers import is_recurrent
from trcompress.model.header import Header
from trcompress.network.classifier import Classifier, Wiring
from trcompress.network.model_file import ModelFile
from trcompress.util.user_code import faults_told


class UserNetwork(nn.Module):
    """Calls a user's network as `network(x)`, or as `network(x, lengths)` where it takes lengths.

    Args:
        model: gives class scores (B, classes), alone or first in a tuple.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        taken = inspect.signature(model.forward).parameters
        self._open = any(one.kind == inspect.Parameter.VAR_KEYWORD for one in taken.values())
        self._taken = [name for name, one in taken.items() if one.kind not in _STARRED][1:]
        self._lengths = next((name for name in self._taken if "length" in name), None)
        self._mask = next((name for name in self._taken if "mask" in name), None)

    def forward(self, x: Tensor, lengths: Tensor | None = None, **more: Tensor) -> Tensor:
        """Score sequences: x (B, T, I) or tokens (B, T), lengths (B,), other inputs by name -> (B, classes)."""
        named = self._named(x, lengths, more)
        with faults_told(f"{type(self.model).__name__}.forward"):
            answer: Any = self.model(x, **named)
        scores = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
        if not isinstance(scores, Tensor):
            raise UsageError(
                f"the network must return class scores, alone or first in a tuple: got {type(scores).__name__}"
            )
        return scores

    def _named(self, x: Tensor, lengths: Tensor | None, more: dict[str, Tensor]) -> dict[str, Tensor]:
        """Choose what the network's forward takes, by the names of its arguments."""
        mask = more.pop("mask", None)
        if lengths is not None and mask is None and self._mask:
            mask = torch.arange(x.shape[1], device=x.device) < lengths.to(x.device).unsqueeze(1)
        ragged = lengths is not None or (mask is not None and not bool(mask.all()))
        if ragged and not (self._lengths and lengths is not None) and not self._mask:
            raise UsageError(
                "the data has sequences of different lengths: the network's forward must take (x, lengths), or a "
                f"mask; {type(self.model).__name__}.forward takes {', '.join(self._taken) or 'x alone'}"
            )
        unknown = [name for name in more if name not in self._taken and not self._open]
        if unknown:
            held, takes = ", ".join(f"input_{name}" for name in unknown), ", ".join(self._taken) or "x alone"
            raise UsageError(
                f"the data holds {held}: the network's forward must take arguments of these names; "
                f"{type(self.model).__name__}.forward takes {takes}"
            )
        named = dict(more)
        if self._mask and mask is not None:
            named[self._mask] = mask
        if self._lengths and lengths is not None:
            named[self._lengths] = lengths
        return named


_STARRED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def load_user_model(file: ModelFile, spec: str) -> nn.Module:
    """Build the network that `package.module:factory` names, and load a file into it; this runs the user's code.

    Raises:
        UsageError: there is no such function, it takes arguments, or it does not return a module.
        UserCodeError: it raised something.
        InputFileError: the file's tensors are not the network's; all differences are named.
    """
    module = call_factory(spec, {}, "a model factory")
    if not isinstance(module, nn.Module):
        raise UsageError(f"{spec} must return a torch.nn.Module: got {type(module).__name__}")
    artifact = file.artifact
    if artifact is None:
        tensors = {key: file.tensor(key) for key in file.shapes}
        artifact = Artifact(tensors, Header(layers=(), weights=()), file.path)
    return load_(artifact, module)


def build_user_model(file: ModelFile, wiring: Wiring) -> Classifier:
    """Build the network that `wiring.model` names and load the file into it.

    Raises:
        UsageError: there is no such function, or it does not return a module.
        InputFileError: the file's tensors are not the network's; all differences are named.
    """
    spec = str(wiring.model)
    model = load_user_model(file, spec)
    network = UserNetwork(model.float())
    recurrent = {
        name: one for name, one in model.named_modules() if is_recurrent(one) and hasattr(one, "num_layers")
    }
    return Classifier(
        module=network,
        keys={f"model.{name}": name for name in model.state_dict()},
        recurrent=recurrent,
        head=_head_names(model, wiring.head),
        input_size=None,
        classes=None,
        notes=(f"classifier: {type(model).__name__} from {spec}",),
    )


def _head_names(model: nn.Module, head: str | None) -> tuple[str, ...]:
    if head is None:
        return ()
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if name == head or name.startswith(f"{head}.")]
    if not found:
        raise UsageError(f"`head` must name a parameter or a module of the network: {head!r}{nearest(head, names)}")
    return tuple(f"model.{name}" for name in found)
