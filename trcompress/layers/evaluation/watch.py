"""Notice every change of a set of parameters: by value, by place, by replacement.

Autograd's version counters see in-place operations, `copy_` and `load_state_dict`; addresses see `.to()` and
`p.data = ...`. Neither sees `p.data.mul_(2)`, so a watched parameter counts how often its `.data` is handed out,
and nothing is remembered while somebody still holds it. (Writes through a NumPy view remain unseen.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn


class Watched(nn.Parameter):
    """A parameter that knows when its values can be changed behind autograd's back."""

    _touches = 0
    _handed: tuple[ref[Tensor], ...] = ()

    @property
    def data(self) -> Any:
        """The values, outside autograd and outside its version counter."""
        alias = super().data
        self._touches += 1
        self._handed = (*(held for held in self._handed if held() is not None), ref(alias))
        return alias

    @data.setter
    def data(self, value: Tensor) -> None:
        self._touches += 1
        nn.Parameter.data.__set__(self, value)  # type: ignore[attr-defined]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a plain parameter."""
        return torch._utils._rebuild_parameter, (super().data, self.requires_grad, OrderedDict())

    @property
    def exposed(self) -> bool:
        """Whether somebody still holds a `.data` that was handed out."""
        return any(held() is not None for held in self._handed)


def watch(parameters: Sequence[Any]) -> bool:
    """Make plain parameters watched ones.

    Returns:
        Whether a `Stamp` can tell all changes of them: not those of tracers' and transforms' stand-ins, of tensors
        without values, and of parameters whose `.data` is in somebody's hands.
    """
    for parameter in parameters:
        if parameter.__class__ is nn.Parameter:
            parameter.__class__ = Watched
        if parameter.__class__ is not Watched or parameter.is_meta or parameter.is_inference():
            return False
        if parameter._handed and parameter.exposed:
            return False
    return True


class Stamp:
    """What a set of watched parameters was when something was computed from it."""

    def __init__(self, parameters: Sequence[Watched], aliases: list[Tensor] | None = None) -> None:
        # Detached aliases keep the memory alive: a freed address could come back with other values.
        self.aliases = [parameter.detach() for parameter in parameters] if aliases is None else aliases
        self._seen = [(one, one.data_ptr(), one._version, one._touches, one.requires_grad) for one in parameters]

    def holds(self, parameters: Sequence[Any]) -> bool:
        """Whether these are the same parameters with the same values in the same place."""
        if len(parameters) != len(self._seen):
            return False
        for one, (seen, pointer, version, touches, trained) in zip(parameters, self._seen, strict=True):
            if one is not seen or one._version != version or one._touches != touches:
                return False
            if one.data_ptr() != pointer or one.requires_grad is not trained:
                return False
        return True

    def renewed(self, parameters: Sequence[Watched]) -> Stamp | None:
        """Return a stamp of the values as they are now if these are the same parameters in the same place."""
        for one, (seen, pointer, _, touches, _), alias in zip(parameters, self._seen, self.aliases, strict=True):
            if one is not seen or one.data_ptr() != pointer:
                return None
            if one._touches != touches and one.shape != alias.shape:  # only a new `.data` can have another shape
                return None
        return Stamp(parameters, self.aliases)
