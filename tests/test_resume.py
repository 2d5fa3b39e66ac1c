"""Runs survive: whatever stops them, whenever, a resumed run ends bit for bit where an undisturbed one ends."""

import json
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import small_task
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.training.dense import train_dense
from trcompress.training.display import NoDisplay
from trcompress.training.finetune import finetune
from trcompress.training.run_state import RunFolder, RunInterruptedError, RunState
from trcompress.training.settings import FinetuneSettings

SETTINGS = {
    "epochs": 6,
    "batch_size": 16,
    "lr": 1e-2,
    "dropout": 0.3,
    "patience": 3,
    "device": "cpu",
    "distill": {"hidden": 0.5},
}


class StopAt(NoDisplay):
    """Sends a signal to this process after an epoch, as a user or a scheduler would."""

    def __init__(self, epoch, number=signal.SIGTERM):
        self.at, self.number = epoch, number

    def epoch(self, record):
        if record["epoch"] == self.at:
            os.kill(os.getpid(), self.number)


def tune(files, out, *, settings=None, **options):
    settings = FinetuneSettings(**(SETTINGS | (settings or {})))
    return finetune(files["ring"], small_task.data_set(), out, teacher=files["dense"], settings=settings, **options)


def timeless(history):
    return [{k: v for k, v in one.items() if k not in ("epoch_s", "sequences_per_s")} for one in history]


def same_files(one, two):
    first, second = load_file(one), load_file(two)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("extra", [{}, {"amp": "fp16"}, {"accumulate": 2, "class_weights": "balanced"}], ids=str)
def test_resumed_run_is_bit_identical(files, tmp_path, extra):
    whole = tune(files, tmp_path / "whole.safetensors", settings=extra)
    out = tmp_path / "parts.safetensors"
    for epoch, number in ((0, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM), (5, signal.SIGINT)):
        with pytest.raises(RunInterruptedError, match=r"whole epochs are saved in .*parts.run: .* `resume=True`"):
            tune(files, out, settings=extra, resume=epoch > 0, display=StopAt(epoch, number))
        assert not out.exists()
        assert not list(tmp_path.glob("**/.*.part"))
    result = tune(files, out, settings=extra, resume=True)
    assert same_files(out, tmp_path / "whole.safetensors")
    assert timeless(result.history) == timeless(whole.history)
    assert result.metrics == whole.metrics
    lines = (result.run_folder / "metrics.jsonl").read_text().splitlines()
    assert timeless(map(json.loads, lines)) == timeless(whole.history)


def test_an_interrupt_in_the_middle_of_an_epoch_loses_that_epoch_only(files, tmp_path, monkeypatch):
    whole = tune(files, tmp_path / "whole.safetensors")
    from trcompress.data import Split

    read, calls = Split.batch, []

    def interrupting(self, indices, **options):
        calls.append(indices)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return read(self, indices, **options)

    out = tmp_path / "out.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(Split, "batch", interrupting)
        with pytest.raises(RunInterruptedError):
            tune(files, out)
    done = RunFolder(tmp_path / "out.run").load().epoch
    assert 0 < done < 6
    result = tune(files, out, resume=True)
    assert same_files(out, tmp_path / "whole.safetensors")
    assert result.epochs == whole.epochs


def test_a_stop_after_training_but_before_writing_is_resumed(files, tmp_path, monkeypatch):
    whole = tune(files, tmp_path / "whole.safetensors")
    out = tmp_path / "out.safetensors"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trcompress.training.finetune.write_artifact", stop)
        with pytest.raises(RunInterruptedError):
            tune(files, out)
    assert tune(files, out, resume=True).metrics == whole.metrics
    assert same_files(out, tmp_path / "whole.safetensors")


def test_state_is_safetensors_and_json(files, tmp_path):
    with pytest.raises(RunInterruptedError):
        tune(files, tmp_path / "out.safetensors", display=StopAt(3))
    path = tmp_path / "out.run" / "state.safetensors"
    with safe_open(path, framework="pt") as stream:
        state = json.loads(stream.metadata()["trcompress-run"])
        groups = {key.partition("/")[0] for key in stream.keys()}  # noqa: SIM118 - not a dict
    assert groups == {"model", "best", "optimizer"}
    assert state["epoch"] == 3
    assert state["identity"]["epochs"] == 6


def test_resuming_another_run_is_refused_and_says_what_differs(files, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(RunInterruptedError):
        tune(files, out, display=StopAt(1))
    with pytest.raises(UsageError, match=r"lr was 0.01, is 0.02; seed was 0, is 1; give the same options"):
        tune(files, out, resume=True, settings={"lr": 0.02, "seed": 1})
    with pytest.raises(UsageError, match="data_sha256 was"):
        finetune(files["ring"], small_task.data_set(rows=60), out, teacher=files["dense"], resume=True,
                 settings=FinetuneSettings(**SETTINGS))  # fmt: skip
    with pytest.raises(OutputFileError, match=r"was interrupted.*`resume=True`.*`overwrite=True`"):
        tune(files, out)
    assert tune(files, out, overwrite=True).epochs == 6


def test_resume_without_a_state_starts(files, tmp_path):
    assert tune(files, tmp_path / "out.safetensors", resume=True).epochs == 6


def test_a_damaged_state_is_named(files, tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(RunInterruptedError):
        tune(files, out, display=StopAt(1))
    path = tmp_path / "out.run" / "state.safetensors"
    whole = path.read_bytes()
    other = whole.replace(b'"version\\": 2', b'"version\\": 9')
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])  # a bit of a weight
    assert whole not in (other, flipped)
    for damage in (whole[: len(whole) // 2], b"", other, flipped):
        path.write_bytes(damage)
        with pytest.raises(InputFileError, match=r"state.safetensors cannot be read .* without `resume`"):
            tune(files, out, resume=True)


def test_a_failing_save_leaves_the_state_before(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.save(RunState(epoch=1, groups={"model": {"w": torch.ones(3)}}))

    def full(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trcompress.training.run_state.save_tensors", full)
    with pytest.raises(OutputFileError, match=r"state.safetensors: No space left on device; free some space"):
        folder.save(RunState(epoch=2, groups={"model": {"w": torch.zeros(3)}}))
    state = folder.load()
    assert state.epoch == 1
    assert torch.equal(state.groups["model"]["w"], torch.ones(3))
    assert [path.name for path in folder.path.iterdir()] == ["state.safetensors"]


def test_dense_training_resumes_too(tmp_path):
    settings = FinetuneSettings(epochs=3, batch_size=16, lr=1e-2, device="cpu")
    data = small_task.data_set(variable=True)
    train_dense(data, tmp_path / "whole.safetensors", hidden_size=8, settings=settings)
    out = tmp_path / "parts.safetensors"
    with pytest.raises(RunInterruptedError):
        train_dense(data, out, hidden_size=8, settings=settings, display=StopAt(2))
    with pytest.raises(UsageError, match="network was"):
        train_dense(data, out, hidden_size=9, settings=settings, resume=True)
    train_dense(data, out, hidden_size=8, settings=settings, resume=True)
    assert same_files(out, tmp_path / "whole.safetensors")


# ---- the command, stopped from outside


def command(files, out, *more, epochs=400):
    words = ["-m", "trcompress", "finetune", files["ring"], "--data", files["data"], "--teacher", files["dense"],
             "-o", out, "--epochs", epochs, "--batch-size", 16, "--device", "cpu", *more]  # fmt: skip
    return [sys.executable, *map(str, words)]


def start(files, out, *more, epochs=400):
    """Start a long run and wait until some epochs are saved."""
    process = subprocess.Popen(command(files, out, *more, epochs=epochs), stderr=subprocess.PIPE, text=True)
    log = out.with_suffix(".run") / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and len(log.read_text().splitlines()) > 3:
            return process
        time.sleep(0.05)
    raise AssertionError(f"the run did not get going: {process.communicate()[1]}")


def test_a_stopped_and_then_a_killed_run_lose_at_most_an_epoch(files, tmp_path):
    out, run = tmp_path / "out.safetensors", tmp_path / "out.run"
    process = start(files, out)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=300)[1]
    assert process.returncode == 130
    assert "go on with --resume" in stderr
    assert "Traceback" not in stderr
    before = RunFolder(run).load().epoch
    assert before >= 3
    (run / "metrics.jsonl").unlink()
    process = start(files, out, "--resume")
    process.kill()
    process.communicate()
    logged = len((run / "metrics.jsonl").read_text().splitlines()) - 1
    assert RunFolder(run).load().epoch in (logged, logged + 1)
    assert logged >= before
    assert not out.exists()


def test_a_full_disk_is_one_line_and_the_state_before_remains(files, tmp_path):
    out, epochs = tmp_path / "out.safetensors", 6
    settings = FinetuneSettings(epochs=epochs, batch_size=16, device="cpu")
    whole = tmp_path / "whole.safetensors"
    finetune(files["ring"], str(files["data"]), whole, teacher=files["dense"], settings=settings)
    with pytest.raises(RunInterruptedError):
        finetune(
            files["ring"], str(files["data"]), out, teacher=files["dense"], display=StopAt(3), settings=settings
        )
    before = (tmp_path / "out.run" / "state.safetensors").read_bytes()

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    done = subprocess.run(command(files, out, "--resume", epochs=epochs), preexec_fn=small_files,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.run" / "state.safetensors").read_bytes() == before
    assert not out.exists()
    finetune(files["ring"], str(files["data"]), out, teacher=files["dense"], resume=True, settings=settings)
    assert same_files(out, tmp_path / "whole.safetensors")
