"""What the user sees while a model trains."""

import io

import small_task
from rich.console import Console

from trcompress.training.dense import train_dense
from trcompress.training.display import LineDisplay, LiveDisplay, Progress, make_display
from trcompress.training.settings import FinetuneSettings

RECORD = {
    "phase": "end-to-end",
    "loss": 0.51234,
    "accuracy": 0.875,
    "validation_accuracy": 0.9,
    "validation_loss": 0.4,
    "sequences_per_s": 1234.5,
}
START = {"phase": "start", "epoch": 0, "validation_accuracy": 0.5, "validation_loss": 1.0}


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=150, color_system=None)


def test_terminals_get_a_live_line_and_files_get_plain_ones():
    assert isinstance(make_display(console(True), 3), LiveDisplay)
    assert isinstance(make_display(console(False), 3), LineDisplay)


def test_plain_lines_hold_loss_accuracy_throughput_and_time_left(monkeypatch):
    clock = iter([0.0, 0.0, 10.0, 20.0, 20.0])
    monkeypatch.setattr("trcompress.training.display.time.perf_counter", lambda: next(clock))
    out = console(False)
    display = LineDisplay(out, 8)
    display.epoch(START)
    display.epoch(RECORD | {"epoch": 1})
    display.close()
    first, second = out.file.getvalue().splitlines()
    assert first.split() == ["start", "validation", "50.0%", "(loss", "1.0000)"]
    assert second == (
        "epoch 1/8  loss 0.5123  accuracy 87.5%  validation 90.0% (loss 0.4000)  1,234 seq/s  1:10 left"
    )


def test_live_line_moves_within_an_epoch():
    out = console(True)
    display = LiveDisplay(out, 8)
    display.epoch(START)
    progress = Progress(2, 8, 0.25, 0.123, 0.5, 99.0)
    display.batch(progress)
    display.epoch(RECORD | {"epoch": 2})
    display.close()
    text = out.file.getvalue()
    assert "epoch 2/8  25%  loss 0.1230  accuracy 50.0%  99 seq/s" in text
    assert "epoch 2/8  loss 0.5123" in text


def test_a_run_reports_its_pace_while_an_epoch_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr("trcompress.training.epoch.LOOK_EVERY_S", 0.0)
    seen = []

    class Watching(LineDisplay):
        def batch(self, progress):
            seen.append(progress)

    settings = FinetuneSettings(epochs=2, batch_size=16, device="cpu")
    display = Watching(console(False), 2)
    out = tmp_path / "m.safetensors"
    train_dense(small_task.data_set(), out, hidden_size=4, settings=settings, display=display)
    assert [one.epoch for one in seen] == [1, 1, 1, 2, 2, 2]
    assert [round(one.share, 2) for one in seen[:3]] == [0.36, 0.71, 1.0]
    assert all(one.sequences_per_s > 0 and one.accuracy is not None for one in seen)


def test_a_note_on_every_weight_is_told_once(capsys):
    from dataclasses import replace

    from trcompress import TRLSTM
    from trcompress.artifact.save import to_artifact
    from trcompress.cli.render import print_decomposition

    artifact = to_artifact(TRLSTM(12, 8, bidirectional=True, shape="4x3:4x2", ranks="2"))
    weights = tuple(
        one.model_copy(update={"notes": ("shared", f"of {one.name}")}) for one in artifact.header.weights
    )
    header = artifact.header.model_copy(update={"weights": weights})
    print_decomposition(replace(artifact, header=header), "human")
    told = capsys.readouterr().out
    assert told.count("note: shared") == 1
    assert "note: of weight_ih_l0\n" in told
    assert "note: of weight_ih_l0_reverse" in told
