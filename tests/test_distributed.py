"""Several processes: together they compute what one computes, and one of them writes."""

import json
import os
import subprocess
import sys

import command
import numpy as np
import pytest
import small_task
import torch
from safetensors.torch import load_file

from trcompress.errors import UsageError
from trcompress.training.batches import ordered_requests, read_batches, shuffled_requests
from trcompress.training.distributed import Team, choose_device

CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_parts_of_every_batch_add_up_to_the_batch(size, batch_size):
    data = small_task.data_set()
    requests = shuffled_requests(data.train, batch_size, seed=1, epoch=2)
    teams = [list(read_batches(data.train, requests, Team(rank, size, CPU))) for rank in range(size)]
    seen = []
    for number, request in enumerate(requests):
        parts = [batches[number] for batches in teams]
        kept = np.concatenate([part.indices[part.mask.numpy() > 0] for part in parts])
        assert kept.tolist() == request.indices.tolist()
        assert all(len(part.y) >= 1 for part in parts)
        counts = [int(part.mask.sum()) for part in parts]
        assert max(counts) - min(counts) <= 1
        seen.extend(kept)
    assert sorted(seen) == list(range(len(data.train)))


def test_order_depends_on_seed_and_epoch_alone():
    data = small_task.data_set()

    def order(seed, epoch):
        return np.concatenate([one.indices for one in shuffled_requests(data.train, 8, seed=seed, epoch=epoch)])

    assert order(1, 2).tolist() == order(1, 2).tolist()
    assert order(1, 2).tolist() != order(1, 3).tolist()
    assert order(1, 2).tolist() != order(2, 2).tolist()


def test_ordered_requests_cover_the_split_in_order():
    data = small_task.data_set()
    assert np.concatenate([one.indices for one in ordered_requests(data.train, 7)]).tolist() == list(
        range(len(data.train))
    )


def test_devices_that_are_not_there_are_refused():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UsageError, match="no device 'tpu9'"):
        choose_device("tpu9")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    paths = small_task.write_files(folder)
    np.savez(folder / "variable.npz", **small_task.arrays(variable=True))
    return paths | {"variable": folder / "variable.npz"}


def run(processes, *words):
    """Run the command in one process, in this one, or in several by torchrun; returns what it prints, once."""
    words = [str(word) for word in words]
    if processes == 1:
        return command.run(*words).json
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, "-m", "--", "trcompress", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def tune(files, out, processes, *words):
    return run(processes, "finetune", files["ring"], "--teacher", files["dense"], "-o", out, "--format", "json",
               "--dropout", 0, "--device", "cpu", *words)  # fmt: skip


def test_two_processes_give_the_single_process_result(files, tmp_path):
    words = ["--data", files["variable"], "--data-option", "validation_fraction=0.25", "--epochs", 3,
             "--batch-size", 15, "--accumulate", 2, "--class-weights", "1,2,3", "--label-smoothing", 0.1,
             "--distill-hidden", 1, "--lr", 0.01]  # fmt: skip
    one = tune(files, tmp_path / "one.safetensors", 1, *words)
    two = tune(files, tmp_path / "two.safetensors", 2, *words)
    first, second = load_file(tmp_path / "one.safetensors"), load_file(tmp_path / "two.safetensors")
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=1e-5)
    assert one["best_epoch"] == two["best_epoch"]
    for record, other in zip(one["history"], two["history"], strict=True):
        for name in ("loss", "accuracy", "validation_accuracy", "validation_loss"):
            assert (name in other) == (name in record)
            assert other.get(name, 0) == pytest.approx(record.get(name, 0), rel=1e-4)
    for name in ("accuracy_after", "accuracy_teacher", "loss_after"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4)
    assert len((tmp_path / "two.run" / "metrics.jsonl").read_text().splitlines()) == 4


ABORTS_AT_THE_END = """
import atexit, os, sys
from trcompress.cli.main import main
atexit.register(os.abort)
sys.argv[0] = "trcompress"
main()
"""


def test_what_happens_at_the_end_of_the_interpreter_fails_no_process(files, tmp_path):
    """Threads of gloo outlive its group, and have aborted processes whose work was done."""
    (tmp_path / "ends.py").write_text(ABORTS_AT_THE_END)
    words = ["finetune", files["ring"], "--data", files["data"], "--epochs", 1, "--device", "cpu", "-o",
             tmp_path / "out.safetensors", "--format", "json"]  # fmt: skip
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "ends.py"), *map(str, words)], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["history"]


@pytest.mark.slow
def test_evaluation_by_two_processes_counts_every_row_once(files):
    words = ["evaluate", files["ring"], "--data", files["data"], "--batch-size", 7, "--teacher", files["dense"],
             "--format", "json", "--device", "cpu"]  # fmt: skip
    one, two = run(1, *words), run(2, *words)
    assert one["confusion"] == two["confusion"]
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-6)
    assert one["agreement"] == two["agreement"]
