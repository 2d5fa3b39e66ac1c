"""How a weight kept as cores is evaluated: its dense form, the cheapest contraction, and its execution."""

from trcompress.contract.expand import cores_to_dense, ring_factors

__all__ = ["cores_to_dense", "ring_factors"]
