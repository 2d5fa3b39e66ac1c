"""A head may have more rows than labels occur: the last of a vocabulary that no sequence uses."""

import numpy as np
import pytest
import torch
from command import run as trcompress
from torch import nn

from trcompress.data import from_arrays, load_data
from trcompress.errors import InputFileError
from trcompress.network.classifier import Wiring
from trcompress.passes.runnable import open_runnable
from trcompress.passes.trained import compress_and_train
from trcompress.training.display import NoDisplay
from trcompress.training.evaluate import evaluate
from trcompress.training.settings import FinetuneSettings

ROWS, USED = 8, 6
NAMED = ["--readout", "every", "--head", "decoder.weight"]


@pytest.fixture
def files(tmp_path):
    """A language model of 8 symbols, and sequences that use the first 6."""
    torch.manual_seed(0)
    parts = {"embedding": nn.Embedding(ROWS, 12), "rnn": nn.LSTM(12, 16), "decoder": nn.Linear(16, ROWS)}
    torch.save(nn.ModuleDict(parts).state_dict(), tmp_path / "lm.pt")
    tokens = np.random.default_rng(0).integers(0, USED, (60, 10))
    tokens[0, :USED] = range(USED)
    x, y = tokens[:, :-1], tokens[:, 1:]
    np.savez(tmp_path / "lm.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return tmp_path


def test_a_named_head_may_have_scores_that_never_occur(files):
    options = {"wiring": Wiring(readout="every", head="decoder.weight")}
    found = evaluate(files / "lm.pt", files / "lm.npz", teacher=files / "lm.pt", **options)
    assert len(found.classes) == ROWS
    assert found.agreement == 1.0
    assert [one.sequences for one in found.per_class[USED:]] == [0, 0]
    assert any(f"gives {ROWS} scores, the data has {USED} classes" in one for one in found.notes)


def test_fewer_scores_than_labels_and_a_teacher_of_other_scores_are_refused(files):
    torch.manual_seed(0)
    for rows in (ROWS + 1, USED - 1):
        parts = {"embedding": nn.Embedding(ROWS, 12), "rnn": nn.LSTM(12, 16), "decoder": nn.Linear(16, rows)}
        torch.save(nn.ModuleDict(parts).state_dict(), files / f"{rows}.pt")
    options = ["--data", "lm.npz", *NAMED]
    told = trcompress("evaluate", f"{USED - 1}.pt", *options, cwd=files)
    assert f"must have a row a class: decoder.weight has {USED - 1} for data of {USED} classes" in told.stderr
    wiring = Wiring(readout="every", head="decoder.weight")
    with pytest.raises(InputFileError, match=rf"has {ROWS}, .*gives {ROWS + 1} scores"):
        evaluate(files / "lm.pt", files / "lm.npz", teacher=files / f"{ROWS + 1}.pt", wiring=wiring)


def test_data_of_as_many_classes_as_scores_stays_as_it_is():
    x, y = np.zeros((4, 3, 2), np.float32), np.array([0, 1, 2, 0])
    data = from_arrays({"x_train": x, "y_train": y, "x_test": x, "y_test": y})
    assert all(data.with_scores(count) is data for count in (None, 2, 3))
    assert data.with_scores(5).classes == ("0", "1", "2", "3", "4")


def test_finetune_and_compress_take_it_too(files):
    done = trcompress(
        "decompose", "lm.pt", "--shape", "3x4:8x8", "--ranks", "2", "-o", "ring.safetensors", cwd=files
    )
    assert done.code == 0, done.stderr
    tune = ("finetune", "ring.safetensors", "--data", "lm.npz", "--teacher", "lm.pt", "-o", "tuned.safetensors")
    small = ("compress", "lm.pt", "--target-ratio-model", "2", "--calibrate", "lm.npz", "-o", "small.safetensors")
    for words in (tune, (*small, "--finetune", "lm.npz")):
        done = trcompress(*words, "--epochs", "1", *NAMED, cwd=files)
        assert done.code == 0, done.stderr
    for name in ("tuned", "small"):
        told = trcompress("evaluate", f"{name}.safetensors", "--data", "lm.npz", *NAMED, cwd=files)
        assert f"gives {ROWS} scores" in told.stderr


def test_training_that_ends_early_leaves_no_state_that_nothing_can_go_on_from(files):
    class Stopping(NoDisplay):
        def epoch(self, record):
            if record["epoch"] == 1:
                raise KeyboardInterrupt

    runnable = open_runnable(
        files / "lm.pt", files / "lm.npz", wiring=(wiring := Wiring(readout="every", head="decoder.weight"))
    )
    given = {"target_bytes": 5000, "wiring": wiring, "settings": FinetuneSettings(epochs=3)}
    with pytest.raises(KeyboardInterrupt):
        compress_and_train(
            runnable,
            load_data(files / "lm.npz"),
            files / "o.safetensors",
            teacher=files / "lm.pt",
            display=Stopping(),
            **given,
        )
    found = compress_and_train(
        runnable, load_data(files / "lm.npz"), files / "o.safetensors", teacher=files / "lm.pt", **given
    )
    assert found.training.epochs == 3
