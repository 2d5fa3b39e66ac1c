"""What a training run leaves: its values rounded as the file stores them, measured so, and described."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trcompress.artifact.changed import noted
from trcompress.artifact.file import Artifact
from trcompress.artifact.write import file_bytes
from trcompress.model.header import Step
from trcompress.network.classifier import Classifier
from trcompress.training.job import Evaluations, TrainingJob
from trcompress.training.run_state import RunState
from trcompress.training.straight_through import round_as_stored

ROUNDS = 4
"""Of rounding and measuring, until a file is small enough."""

METRICS_BYTES = 700
"""Of figures that a header holds of a training, usually."""


def finished(
    job: TrainingJob,
    state: RunState,
    artifact: Artifact,
    before: Classifier,
    step: Step,
    most_bytes: int | None,
) -> tuple[Artifact, dict[str, Any], Evaluations]:
    """Round what was trained and measure it; again and more coarsely where its history makes the file too large.

    Args:
        job: its student holds the best weights, and afterwards those of the file.
        state: of the run.
        artifact: that was trained.
        before: the network as it was.
        step: for the lineage.
        most_bytes: that the file may take, if there is such a limit.

    Returns:
        What to write, its figures, and what each network does with every class.
    """
    student = job.student
    trained_values = {name: one.clone() for name, one in student.module.state_dict().items()}
    room = (
        None if most_bytes is None else most_bytes - _history_bytes(artifact, _updated(artifact, student, step, {}))
    )
    for _ in range(ROUNDS):
        stored = round_as_stored(student, artifact, room)
        metrics, evaluations = job.metrics(state, before)
        found = replace(_updated(artifact, student, step, metrics), stored=stored)
        over = 0 if most_bytes is None else file_bytes(found) - most_bytes
        if room is None or over <= 0:
            break
        room -= over
        student.module.load_state_dict(trained_values)
    return found, metrics, evaluations


def _history_bytes(artifact: Artifact, updated: Artifact) -> int:
    """What the record of a training takes in the header, but for its figures; these by their usual length."""
    same = replace(artifact, header=updated.header)
    more = file_bytes(same) - file_bytes(artifact)
    return more + METRICS_BYTES if more else 0  # a compact header holds no history


def _updated(artifact: Artifact, student: Classifier, step: Step, metrics: dict[str, Any]) -> Artifact:
    """Put trained values, in the file's own dtypes, in place of the ones given; all else stays as it is."""
    trained = student.file_tensors()
    for group in artifact.header.shared:
        source = next((key for key in group if key in trained), None)
        if source is not None:
            trained |= dict.fromkeys(group, trained[source])
    tensors = artifact.tensors | {key: value.to(artifact.tensors[key].dtype) for key, value in trained.items()}
    header = artifact.header.model_copy(
        update={
            "lineage": (*artifact.header.lineage, step),
            "metrics": {**artifact.header.metrics, **metrics},
            "weights": noted(artifact.header.weights, artifact.tensors, tensors),
        }
    )
    return Artifact(tensors, header, packed=artifact.packed)
