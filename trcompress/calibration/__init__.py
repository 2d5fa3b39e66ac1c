"""Choosing the cores by what they do to the outputs of a live network, without labels.

live, sensitivity -> metrics -> solve -> select -> rank_curves, share -> run (refine, examples)
"""

from trcompress.calibration.live import LiveNetwork
from trcompress.calibration.run import Calibrated, calibrate

__all__ = ["Calibrated", "LiveNetwork", "calibrate"]
