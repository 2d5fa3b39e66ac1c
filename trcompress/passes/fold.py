"""Fold what is exact: an embedding into the recurrent layer that alone reads it, and an LSTM's two biases into one.

With V words, E (V, I) and W_ih (G*H, I): x_t = E[w], so W_ih x_t = (W_ih E')[:, w]. Where V < I the product is the
smaller matrix, and the embedding becomes the identity of V words.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from trcompress.layers import RING_OF, recurrent_kind
from trcompress.layers.swaps import Swaps, swapped
from trcompress.network.batches import Forward, evaluating
from trcompress.passes.compare import distance

TOLERANCE = 1e-9
"""Relative squared difference of the outputs that rounding alone explains: 3e-5 of their norm in float32."""


def fold_embeddings(model: nn.Module, batches: Sequence[Any], forward: Forward) -> Swaps:
    """Find the embeddings that feed only recurrent layers, and fold them.

    Each fold is tried on the network and kept where its outputs stay equal: nothing is assumed of the network's
    code.

    Args:
        model: any module, unchanged.
        batches: inputs to check with.
        forward: `forward(model, batch)`.

    Returns:
        Smaller modules by name: an `nn.Embedding` of V values a word and recurrent layers of V inputs, for
        every embedding of V words and more than V values; empty where nothing can be folded.
    """
    wanted = _answers(model, batches, forward)
    found: dict[str, nn.Module] = {}
    for name, embedding in model.named_modules():
        if not isinstance(embedding, nn.Embedding) or not _narrows(embedding) or _is_tied(model, embedding):
            continue
        readers = [
            one
            for one, module in model.named_modules()
            if type(module) in RING_OF and module.input_size == embedding.embedding_dim and one not in found
        ]
        for chosen in _subsets(readers):
            swaps: dict[str, nn.Module] = {name: _identity(embedding)}
            swaps |= {one: _folded(model.get_submodule(one), embedding.weight) for one in chosen}
            if _equal(model, {**found, **swaps}, batches, forward, wanted):
                found |= swaps
                break
    return found


def merge_biases(layer: nn.Module) -> nn.Module:
    """Put an LSTM's or an RNN's input bias and hidden bias into the first; the second becomes zero.

    A GRU's new gate reads its hidden bias alone, so there only the reset and update gates' are merged.

    Returns:
        A copy of the layer whose outputs are equal.
    """
    merged, kind = deepcopy(layer), recurrent_kind(layer)
    with torch.no_grad():
        for name, bias in merged.named_parameters():
            if name.startswith("bias_hh"):
                rows = len(bias) * kind.joined_biases // kind.gates
                merged.get_parameter(name.replace("bias_hh", "bias_ih"))[:rows] += bias[:rows]
                bias[:rows] = 0
    return merged


def _narrows(module: nn.Embedding) -> bool:
    """Whether this is an embedding of more values than words, looked up as it is."""
    if type(module) is not nn.Embedding or module.max_norm is not None or module.scale_grad_by_freq:
        return False
    return module.num_embeddings < module.embedding_dim


def _is_tied(model: nn.Module, embedding: nn.Embedding) -> bool:
    """Whether something else holds the same table, as a tied decoder does: two tables would not fit it again."""
    every = model.named_parameters(remove_duplicate=False)
    return sum(one.data_ptr() == embedding.weight.data_ptr() for _, one in every) > 1


def _subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Sets of readers to try: one first, then more, none beyond sixty-four tries."""
    tries = [chosen for size in range(1, len(names) + 1) for chosen in combinations(names, size)]
    return tries[:64]


def _identity(embedding: nn.Embedding) -> nn.Embedding:
    words, weight = embedding.num_embeddings, embedding.weight
    values = torch.eye(words, dtype=weight.dtype, device=weight.device)
    folded = nn.Embedding(words, words, padding_idx=embedding.padding_idx, _weight=values, sparse=embedding.sparse)
    folded.weight.requires_grad_(False)  # it is a lookup; what is learned lies in the layer
    return folded.train(embedding.training)


def _folded(layer: nn.Module, table: Tensor) -> nn.Module:
    """A copy of a recurrent layer that reads one-hot words instead of rows of the table (V, I)."""
    folded: Any = deepcopy(layer)
    folded.input_size = len(table)
    with torch.no_grad():
        for name in ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse"):
            if isinstance(weight := getattr(layer, name, None), Tensor):
                values = (weight.double() @ table.double().T).to(weight.dtype)
                setattr(folded, name, nn.Parameter(values, requires_grad=weight.requires_grad))
    return folded


def _answers(model: nn.Module, batches: Sequence[Any], forward: Forward) -> list[Any]:
    with evaluating(model), torch.no_grad():
        return [forward(model, batch) for batch in batches]


def _equal(model: nn.Module, swaps: Swaps, batches: Sequence[Any], forward: Forward, wanted: list[Any]) -> bool:
    """Whether the network with these swaps runs and gives the same."""
    try:
        with swapped(model, swaps) as changed:
            return distance(_answers(changed, batches, forward), wanted) <= TOLERANCE
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False  # something else reads the embedding, at its old width
