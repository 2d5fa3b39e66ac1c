"""Training a dense classifier from scratch, by the same loop as fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trcompress.data import DataSet, load_data
from trcompress.network.classifier import Wiring, dense_classifier
from trcompress.training.display import Display
from trcompress.training.distributed import team
from trcompress.training.finetune import FinetuneResult, close
from trcompress.training.job import OutputPaths, TrainingJob, describe_run, resumable
from trcompress.training.parameters import redraw
from trcompress.training.run_state import write_tensors
from trcompress.training.settings import FinetuneSettings


def train_dense(
    data: str | Path | DataSet,
    out: str | Path,
    *,
    kind: str = "lstm",
    hidden_size: int = 128,
    layers: int = 1,
    bidirectional: bool = False,
    readout: str = "final",
    settings: FinetuneSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    data_options: Mapping[str, Any] | None = None,
) -> FinetuneResult:
    """Train a dense classifier from scratch: `rnn` (torch.nn.LSTM, GRU or RNN) and `fc`, by the same loop.

    Args:
        data: what `trcompress.data.load_data` takes, or a data set.
        out: the checkpoint, a `.safetensors` file of plain tensors.
        kind: "lstm", "gru" or "rnn".
        hidden_size: hidden units per direction.
        layers: recurrent layers.
        bidirectional: both directions.
        readout: what the head sees, see `Wiring`; it is not kept in the file.
        settings: how to train; distillation and starts do not apply.
        resume: go on where an interrupted run to the same `out` stopped.
        overwrite: replace `out`, and the state of an interrupted run.
        display: what is shown meanwhile.
        data_options: of `load_data`.

    Raises:
        UsageError, InputFileError, OutputFileError, RunInterruptedError: see `finetune`.
    """
    settings, outputs = settings or FinetuneSettings(), OutputPaths(Path(out))
    outputs.check([data], resume=resume, overwrite=overwrite)
    shape = {"kind": kind, "hidden_size": hidden_size, "layers": layers, "bidirectional": bidirectional}
    wiring = Wiring(readout=readout)
    with resumable(outputs), team(settings.device) as crew:
        data = data if isinstance(data, DataSet) else load_data(data, **dict(data_options or {}))
        student = dense_classifier(
            data.input_size,
            len(data.classes),
            kind=kind,
            hidden_size=hidden_size,
            layers=layers,
            bidirectional=bidirectional,
            dropout=settings.dropout,
            readout=readout,
        )
        redraw(student, settings.seed)
        student.module.to(crew.device)
        identity = describe_run(settings, data, wiring) | {"network": shape}
        job = TrainingJob(student, data, settings, crew, outputs, identity, None, resume, display)
        state = job.train()
        metrics, evaluations = job.metrics(state)
        if crew.writes:
            write_tensors(outputs.model, student.file_tensors(), {"format": "pt"})
        return close(job, state, metrics, evaluations)
