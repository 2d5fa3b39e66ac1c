"""Rings that fit W exactly: what the search does beyond ALS where one may exist. `finish` is the one call."""

from trcompress.decomposition.planted.finish import finish

__all__ = ["finish"]
