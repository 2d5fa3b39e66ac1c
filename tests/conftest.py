"""What all tests share."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

# Two workers on two cores: a thread each, in them and in what they start. Set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of `small_task`, where a module makes none of its own."""
    from small_task import write_files

    return write_files(tmp_path_factory.mktemp("task"))


@pytest.fixture
def tune(files, tmp_path):
    """Fine-tune the ring of `small_task`; returns (result, output path)."""
    from small_task import FAST, data_set

    from trcompress.training.finetune import finetune
    from trcompress.training.settings import FinetuneSettings

    def run(data=None, name="out.safetensors", ring=None, **options):
        settings = FinetuneSettings(**(FAST | options.pop("settings", {})))
        data = data_set() if data is None else data
        return finetune(ring or files["ring"], data, tmp_path / name, settings=settings, **options)

    return run


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> tuple[Path, Path]:
    """The dense checkpoint and the data of `step_task`."""
    from step_task import write_step_task

    return write_step_task(tmp_path_factory.mktemp("task"))


@pytest.fixture
def disk(tmp_path):
    """A file system of 256 kB; for those who may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("this user may not mount a file system")
    yield place
    subprocess.run(["umount", "-l", place], check=True)
