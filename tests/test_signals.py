"""A signal ends a command, wherever its exception was raised."""

import subprocess
import sys

LOST = """
import os, signal, time
from trcompress.cli.faults import stop_on_signals, was_stopped

class Closed:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})

stop_on_signals()
Closed()
try:
    for _ in range(600):
        time.sleep(0.1)
except KeyboardInterrupt:
    print("stopped", was_stopped())
"""

SWALLOWED = """
import os, signal, sys
from trcompress.cli import main

def swallow(**options):
    try:
        os.kill(os.getpid(), signal.{name})
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape")

main.cli.get_command(None, "doctor").callback = swallow
sys.argv = ["trcompress", "doctor"]
main.main()
"""


def run(script: str, name: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", script.format(name=name)]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)


def test_a_signal_that_a_finalizer_swallowed_is_sent_again():
    for name in ("SIGINT", "SIGTERM"):
        done = run(LOST, name)
        assert (done.stdout, done.stderr) == ("stopped True\n", "")


def test_a_signal_that_a_library_turned_into_its_own_error_ends_as_interrupted():
    for name in ("SIGINT", "SIGTERM"):
        done = run(SWALLOWED, name)
        assert done.returncode == 130
        assert done.stderr.strip().splitlines()[-1] == "error: interrupted"
