"""Choosing the cores by what they do to the network's outputs on the user's own data, without labels.

reading -> network -> sketch, sensitivity -> metrics -> solve -> select -> share, refine
"""

from trcompress.calibration.bench import Bench
from trcompress.calibration.reading import CalibrationData, read_calibration
from trcompress.calibration.run import Calibrated, calibrate

__all__ = [
    "Bench",
    "Calibrated",
    "CalibrationData",
    "calibrate",
    "read_calibration",
]
