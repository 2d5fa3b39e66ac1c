"""The one base of what is read from files and given as options."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen table that refuses keys it does not know, and numbers that are not finite.

    Example:
        >>> class Point(StrictModel):
        ...     x: float
        >>> Point(x=1).x
        1.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
