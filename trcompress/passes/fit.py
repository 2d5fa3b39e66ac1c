"""What a budget for the whole file asks of a network: so many bytes, or so many times fewer than it has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from trcompress.errors import UsageError
from trcompress.network.batches import Forward, default_forward
from trcompress.passes.whole import Whole, whole_
from trcompress.util.arguments import check_numbers
from trcompress.util.figures import read_size


def fit_(
    model: nn.Module,
    calibrate: Iterable[Any] | None,
    *,
    target_size: int | str | None = None,
    target_ratio_model: float | None = None,
    plan: object = None,
    forward: Forward | None = None,
    **settings: Any,
) -> Whole:
    """Make a network fit a file of a size, or so many times fewer bytes; what `compress_` does with such a goal.

    Raises:
        UsageError: two goals, a plan beside one, or no data.
    """
    if plan is not None:
        raise UsageError("a plan, `target_size` and `target_ratio_model` each set the size of the file: give one")
    before = sum(one.nbytes for one in distinct_tensors(model))
    target = budget_bytes(before, target_size, target_ratio_model)
    if calibrate is None:
        raise UsageError("`target_size` and `target_ratio_model` need `calibrate`: batches to measure damage on")
    found = whole_(model, calibrate, target_bytes=target, forward=forward or default_forward, **settings)
    if not found.reached:
        warnings.warn(
            f"the budget of {target:,} bytes cannot be met: {found.nbytes:,} is the least that the allowed passes "
            "reach, and what the result holds; its `reached` is False",
            UserWarning,
            stacklevel=3,
        )
    return found


def budget_bytes(before: int, target_size: int | str | None, target_ratio_model: float | None) -> int:
    """Return the bytes that a file may have, given as such or as so many times fewer than its tensors have.

    Args:
        before: bytes of the dense model's tensors.
        target_size: bytes, or text such as "330KB".
        target_ratio_model: `before` over the bytes that the file may have.

    Raises:
        UsageError: both are given, or none; or a size or ratio that is none.

    Example:
        >>> budget_bytes(9_000, "1KB", None), budget_bytes(9_000, None, 6)
        (1000, 1500)
    """
    if target_size is not None and target_ratio_model is None:
        return read_size(target_size)
    if target_size is None and target_ratio_model is not None:
        check_numbers({"target_ratio_model": 1.0}, target_ratio_model=target_ratio_model)
        return int(before / target_ratio_model)
    raise UsageError("give one budget for the whole file: `target_size` or `target_ratio_model`")


def distinct_tensors(model: nn.Module) -> list[Tensor]:
    """Return every tensor of a network's state, tied ones once."""
    return list({(one.data_ptr(), one.shape): one for one in model.state_dict().values()}.values())
