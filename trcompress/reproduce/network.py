"""The network of a recipe: one recurrent layer, dense or with cores, and a linear head; nothing is trained yet."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from trcompress.data import DataSet
from trcompress.errors import UsageError
from trcompress.layers import RING_OF, dense_class
from trcompress.network.classifier import Chain, Classifier
from trcompress.reproduce.recipe_schema import Model


def build_classifier(model: Model, data: DataSet, *, dropout: float = 0.0, seed: int = 0) -> Classifier:
    """Build a recipe's network for a data set, with fresh weights.

    Args:
        model: kind, sizes, structure.
        data: gives the classes; its steps must have the model's input size.
        dropout: of what enters the head.
        seed: of the weights; the caller's generators stay as they are.

    Raises:
        UsageError: the data has another input size.
    """
    check_input_size(model, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = build_layer(model)
        head = nn.Linear(model.hidden_size, len(data.classes))
        chain = Chain({"rnn": layer}, head, "fc", dropout=dropout, readout=model.readout)
    keys = {name: name for name in chain.state_dict()}
    return Classifier(chain, keys, {"rnn": layer}, ("fc.weight", "fc.bias"), model.input_size, len(data.classes))


def check_input_size(model: Model, data: DataSet) -> None:
    """Refuse data of another input size than the recipe's network.

    Raises:
        UsageError: it has another.
    """
    if data.input_size != model.input_size:
        raise UsageError(
            f"the recipe's network takes {model.input_size:,} values per step, {data.name} has "
            f"{data.input_size:,}: set model.input_size and model.shape to fit, or the data's options"
        )


def build_layer(model: Model) -> nn.Module:
    """Build the recurrent layer alone, batch first."""
    dense = dense_class(model.network)
    plan = model.weight_plan()
    if plan is None:
        return dense(model.input_size, model.hidden_size, batch_first=True)
    local = replace(plan, matrix=replace(plan.matrix, key="weight_ih_l0", stack=""))
    return RING_OF[dense](model.input_size, model.hidden_size, batch_first=True, weights={"weight_ih_l0": local})


def input_parameters(layer: nn.Module) -> int:
    """Count the values of the input-to-hidden weight of a built layer, cores or dense."""
    return sum(value.numel() for name, value in layer.named_parameters() if name.startswith("weight_ih_l0"))
