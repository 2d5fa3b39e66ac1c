"""Compression bars as Fig. 7 (a) has them, and beside each the whole network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trcompress.reproduce.plots import Curve, Plot

BARS = ("input-to-hidden (Eq. 7)", "whole network, parameters", "whole network, file bytes")
"""What is how many times smaller."""


def compression_bars(file: str, title: str, networks: Mapping[str, Sequence[float | None]]) -> Plot:
    """Draw how many times smaller each network is.

    Args:
        file: stem of the picture's files.
        title: over it.
        networks: by name, the ratios in the order of `BARS`; None where one is not known.
    """
    curves = tuple(
        Curve(name=f"{name}: {what}", x=(0.0,), y=(ratio,), group=name)
        for name, ratios in networks.items()
        for what, ratio in zip(BARS, ratios, strict=True)
        if ratio
    )
    label = "times smaller (logarithmic)"
    return Plot(file=file, title=title, x_label="", y_label=label, curves=curves, kind="bars", log_y=True)
