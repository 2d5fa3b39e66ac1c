"""What all tests share."""

import os
import signal

# Two workers on two cores: a thread each, in them and in what they start. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

from hypothesis import HealthCheck, settings

# Child processes must import the installed package: the checkout's own folder, which lacks `trcompress.cli`, would
# come first on their path if they were started with `-m` inside it.
os.environ["PYTHONSAFEPATH"] = "1"

# Shells start background jobs with Ctrl-C ignored, and children inherit that; what tests interrupt must hear it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test may fail for being slow on a busy machine; the settings of a single test still count.
settings.register_profile("no-deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-deadline")
