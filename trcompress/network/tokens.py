"""Which recurrent layers are fed rows of an embedding as they are, and how often each row reaches them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

BLOCK_VALUES = 1 << 20
"""Values that are hashed at once."""
KEY_SEED = 0x5EED


@dataclass
class TokenUse:
    """Rows of one embedding that reach one layer.

    Args:
        embedding: its name in the network.
        table: (V, I).
        counts: (V,) how often each row came.
    """

    embedding: str
    table: Tensor
    counts: Tensor


class TokenTables:
    """Recognise rows of a network's embeddings by their bits.

    Args:
        model: the network.

    Example:
        >>> embedding = nn.Embedding(5, 3)
        >>> tables = TokenTables(nn.Sequential(embedding))
        >>> tables.add("rnn.weight_ih_l0", embedding(torch.tensor([4, 1, 4])).detach())
        >>> tables.uses["rnn.weight_ih_l0"].counts.tolist()
        [0.0, 1.0, 0.0, 0.0, 2.0]
    """

    def __init__(self, model: nn.Module) -> None:
        self.embeddings = {name: one for name, one in model.named_modules() if isinstance(one, nn.Embedding)}
        self.uses: dict[str, TokenUse] = {}
        self._others: set[str] = set()
        self._sorted: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, weight: str, rows: Tensor) -> None:
        """Take in rows (n, I) that reach a layer: a layer that once got something else is fed no tokens."""
        if weight in self._others or not len(rows):
            return
        candidates = [self.uses[weight].embedding] if weight in self.uses else list(self.embeddings)
        for name in candidates:
            table = self.embeddings[name].weight
            places = self.places(name, rows) if table.shape[1] == rows.shape[1] else None
            if places is not None:
                if weight not in self.uses:
                    self.uses[weight] = TokenUse(name, table.detach(), torch.zeros(len(table), dtype=torch.float64))
                self.uses[weight].counts += torch.bincount(places, minlength=len(table)).cpu()
                return
        self.uses.pop(weight, None)
        self._others.add(weight)

    def places(self, name: str, rows: Tensor) -> Tensor | None:
        """The row of the table that each row is, or None where one is not among them."""
        if name not in self._sorted:
            keys, order = _keys(self.embeddings[name].weight.detach()).sort()
            self._sorted[name] = keys, order
        keys, order = self._sorted[name]
        mine = _keys(rows.detach())
        found = torch.searchsorted(keys, mine).clamp_max(len(keys) - 1)
        return order[found] if bool((keys[found] == mine).all()) else None


def _keys(rows: Tensor) -> Tensor:
    """A number for each row that depends on its bits alone: whole numbers add up alike in any order."""
    generator = torch.Generator().manual_seed(KEY_SEED)
    factors = torch.randint(1, 2**62, (rows.shape[1],), generator=generator).to(rows.device)
    blocks = rows.split(max(1, BLOCK_VALUES // rows.shape[1]))
    return torch.cat([(block.float().view(torch.int32).long() * factors).sum(1) for block in blocks])


def row_places(table: Tensor, rows: Tensor) -> Tensor:
    """Find which row of a table each of these is, (n,); they must all be among them."""
    keys, order = _keys(table).sort()
    return order[torch.searchsorted(keys, _keys(rows.detach())).clamp_max(len(keys) - 1)]
