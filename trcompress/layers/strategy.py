"""How a layer's compressed weights are evaluated: shown, and overridden by the user."""

from __future__ import annotations

from torch import nn

from trcompress.layers.core_weight import CoreWeight
from trcompress.layers.evaluation import check_strategy


class Strategy(str):
    """One of "auto", "ring", "merged" and "dense", with what it came to.

    Args:
        name: what was asked for.
        chosen: by weight, the form of the latest evaluation in words; empty before the first.
    """

    chosen: dict[str, str]

    def __new__(cls, name: str, chosen: dict[str, str]) -> Strategy:
        made = super().__new__(cls, name)
        made.chosen = chosen
        return made


class Evaluated(nn.Module):
    """A module whose children may be `CoreWeight`s, with a say in how they are evaluated."""

    _strategy = "auto"

    @property
    def strategy(self) -> Strategy:
        """How the compressed weights are evaluated; may be set to

        * "auto": the cheapest way for the batch at hand, by the cost model of `trcompress.layers.evaluation.cost`;
        * "ring": from the cores at each call, so that nothing but the cores stays in memory;
        * "merged": with the input cores merged into one matrix;
        * "dense": with the weight materialised.

        `strategy.chosen` tells what was done last, by weight.

        Raises:
            UsageError: (when set) another value.
        """
        forms = {name: weight.last_form for name, weight in self._core_weights().items()}
        return Strategy(self._strategy, {name: str(form) for name, form in forms.items() if form is not None})

    @strategy.setter
    def strategy(self, strategy: str) -> None:
        self._strategy = check_strategy(str(strategy))
        for weight in self._core_weights().values():
            weight.forget()

    def _core_weights(self) -> dict[str, CoreWeight]:
        return {name: child for name, child in self._modules.items() if isinstance(child, CoreWeight)}
