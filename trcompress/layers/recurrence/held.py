"""The inputs of a node until its backward pass: parameters by reference, everything else saved by autograd."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Held:
    """Tells parameters, which are there anyway, from tensors that somebody computed.

    What autograd saves, hooks may copy, move or count; a parameter is none of that, so it is only referred to, with
    the check that autograd makes of what it saves.

    Args:
        inputs: of the node; None where there is none.
    """

    def __init__(self, *inputs: Tensor | None) -> None:
        self._parameters = [one if isinstance(one, nn.Parameter) else None for one in inputs]
        self._versions = [None if one is None else one._version for one in self._parameters]

    @staticmethod
    def computed(*inputs: Tensor | None) -> list[Tensor | None]:
        """Return the others, for autograd to save."""
        return [one for one in inputs if not isinstance(one, nn.Parameter)]

    def restore(self, saved: Sequence[Tensor | None]) -> tuple[list[Tensor | None], Sequence[Tensor | None]]:
        """Return all inputs, from what was saved of `computed`, and what was saved after them.

        Raises:
            RuntimeError: a parameter was modified in place since.
        """
        for parameter, version in zip(self._parameters, self._versions, strict=True):
            if parameter is not None and parameter._version != version:
                raise RuntimeError(
                    "a weight of a recurrent layer was modified by an inplace operation between its forward pass "
                    "and this backward pass; run the forward pass again"
                )
        count = sum(one is None for one in self._parameters)
        rest = iter(saved[:count])
        return [next(rest) if one is None else one for one in self._parameters], saved[count:]
