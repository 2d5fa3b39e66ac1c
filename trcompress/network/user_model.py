"""The user's own network as a classifier: built by their code, its recurrent layers swapped, its tensors loaded."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from trcompress.artifact.file import Artifact
from trcompress.artifact.load import load_
from trcompress.data.factory import find_function
from trcompress.errors import UsageError, nearest
from trcompress.layers import is_recurrent
from trcompress.model.header import Header
from trcompress.network.classifier import Classifier, Wiring
from trcompress.network.model_file import ModelFile


class UserNetwork(nn.Module):
    """Calls a user's network as `network(x)`, or as `network(x, lengths)` where it takes lengths.

    Args:
        model: gives class scores (B, classes), alone or first in a tuple.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._takes_lengths = _takes_lengths(model)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Score sequences: x (B, T, I), lengths (B,) -> (B, classes)."""
        if lengths is not None and not self._takes_lengths:
            raise UsageError(
                "the data has sequences of different lengths: the network's forward must take (x, lengths); "
                f"{type(self.model).__name__}.forward takes x alone"
            )
        answer: Any = self.model(x, lengths) if self._takes_lengths else self.model(x)
        scores = answer[0] if isinstance(answer, (tuple, list)) and answer else answer
        if not isinstance(scores, Tensor):
            raise UsageError(
                f"the network must return class scores, alone or first in a tuple: got {type(scores).__name__}"
            )
        return scores


def build_user_model(file: ModelFile, wiring: Wiring) -> Classifier:
    """Build the network that `wiring.model` names and load the file into it.

    Raises:
        UsageError: there is no such function, or it does not return a module.
        InputFileError: the file's tensors are not the network's; all differences are named.
    """
    spec = str(wiring.model)
    module = find_function(spec, "a model factory")()
    if not isinstance(module, nn.Module):
        raise UsageError(f"{spec} must return a torch.nn.Module: got {type(module).__name__}")
    artifact = file.artifact
    if artifact is None:
        tensors = {key: file.tensor(key) for key in file.shapes}
        artifact = Artifact(tensors, Header(layers=(), weights=()), file.path)
    model = load_(artifact, module)
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


def _takes_lengths(model: nn.Module) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [one for one in inspect.signature(model.forward).parameters.values() if one.kind in kinds]
    return len(taken) > 1 and "length" in taken[1].name


def _head_names(model: nn.Module, head: str | None) -> tuple[str, ...]:
    if head is None:
        return ()
    names = [name for name, _ in model.named_parameters()]
    found = [name for name in names if name == head or name.startswith(f"{head}.")]
    if not found:
        raise UsageError(f"`head` must name a parameter or a module of the network: {head!r}{nearest(head, names)}")
    return tuple(f"model.{name}" for name in found)
