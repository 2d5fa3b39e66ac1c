"""How good a model is on data: accuracy, figures per class, confusion, agreement, loss; and gates on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trcompress.data import DataSet, Split, load_data
from trcompress.errors import InputFileError, QualityGateError, UsageError, nearest
from trcompress.network.classifier import Classifier, Wiring
from trcompress.network.model_file import ModelFile, check_reading
from trcompress.network.read_classifier import read_classifier
from trcompress.training.distributed import Team, team
from trcompress.training.measure import measure_split
from trcompress.training.tally import Figures, required_accuracy
from trcompress.training.teacher import Teacher


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class.

    Args:
        name: the class.
        sequences: how many are of this class.
        precision: share of the answers "this class" that are right; None if it was never answered.
        recall: share of this class's sequences that were found; None if it has none.
        f1: harmonic mean of both; None where both are unknown.
    """

    name: str
    sequences: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Evaluation:
    """What `trcompress evaluate` prints.

    Args:
        model: the file.
        data: the data set.
        split: its part: "test", "validation" or "train".
        sequences: how many were measured; for labelling, steps.
        accuracy: share of right answers; None for regression.
        top5: share whose class is among the five best scores; None below six classes.
        loss: mean cross-entropy, or mean squared error.
        classes: names, in label order.
        confusion: counts, (true class, answer).
        per_class: figures of each class.
        agreement: share of answers that are the teacher's; None without one.
        notes: how the classifier was found, how the data was divided.
        task: "classification", "labelling" or "regression".
        rmse: root of the mean squared error, for regression.
        r2: share of the variance that is explained, for regression.
    """

    model: str
    data: str
    split: str
    sequences: int
    accuracy: float | None
    top5: float | None
    loss: float
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[ClassFigures, ...]
    agreement: float | None = None
    notes: tuple[str, ...] = ()
    task: str = "classification"
    rmse: float | None = None
    r2: float | None = None

    @property
    def right(self) -> float:
        """The accuracy, of data that has classes; see `required_accuracy`."""
        return required_accuracy(self.accuracy)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return asdict(self)


def evaluate(
    model: str | Path | Classifier,
    data: str | Path | DataSet,
    *,
    split: str = "test",
    teacher: str | Path | Classifier | None = None,
    wiring: Wiring | None = None,
    batch_size: int = 128,
    device: str = "auto",
    data_options: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure an artifact or a dense checkpoint on a part of a data set.

    Args:
        model: the file, or a classifier.
        data: what `trcompress.data.load_data` takes, or a data set.
        split: "test", "validation" or "train".
        teacher: a model to compare answers with.
        wiring: how the file's parts form a classifier, where the file does not tell.
        batch_size: sequences at a time, all processes together.
        device: "auto", "cpu", "cuda".
        data_options: of `load_data`.

    Raises:
        UsageError: no such part, or the model does not fit the data.
        InputFileError: a file cannot be read, or the model's scores are not finite.

    Example:
        >>> evaluate("model.tr.safetensors", "data.npz").accuracy  # doctest: +SKIP
        0.975
    """
    check_reading((wiring or Wiring()).reading, model, teacher)
    with team(device) as crew:
        data = data if isinstance(data, DataSet) else load_data(data, **dict(data_options or {}))
        part = choose_split(data, split)
        classifier = _ready(model, wiring, data, crew)
        data = fitted(data, classifier, _name(model))
        other = None if teacher is None else Teacher(_ready(teacher, wiring, data, crew), crew.device)
        if other is not None:
            check_fits(other.classifier, data, _name(teacher))
        figures = measure_split(
            classifier.module,
            part,
            crew,
            classes=len(data.classes),
            batch_size=batch_size,
            teacher=other,
            kind=data.task,
        )
    notes = (*classifier.notes, data.split_note, *data.notes)
    name = type(model.module).__name__ if isinstance(model, Classifier) else str(model)
    return describe(figures, name, data, split, notes)


def choose_split(data: DataSet, name: str) -> Split:
    """Return a part of a data set that holds rows.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in data.splits:
        raise UsageError(
            f"the data has no {name} part{nearest(name, list(data.splits))}: "
            f"{data.name} has {', '.join(data.splits)}"
        )
    return data.splits[name]


def fitted(data: DataSet, classifier: Classifier, what: str = "the model") -> DataSet:
    """Return the data with a class for every score of a network, which may be more than occur.

    Raises:
        InputFileError: the network was not made for this data; see `check_fits`.
    """
    data = data.with_scores(classifier.classes)
    check_fits(classifier, data, what)
    return data


def check_fits(classifier: Classifier, data: DataSet, what: str = "the model") -> None:
    """Refuse data that the network was not made for.

    Raises:
        InputFileError: another number of values per step, or of classes.
    """
    if classifier.vocabulary is None and classifier.input_size not in (None, data.input_size):
        raise InputFileError(
            f"the data must have {what}'s input size: {data.name} has {data.input_size:,} values per step, "
            f"{what} takes {classifier.input_size:,}; check `data_options=steps=...`, or use the data of the model"
        )
    if classifier.vocabulary is not None:
        _check_tokens(classifier.vocabulary, data, what)
    if classifier.classes not in (None, len(data.classes)):
        raise InputFileError(
            f"the data must have {what}'s classes: {data.name} has {len(data.classes)}, "
            f"{what} gives {classifier.classes} scores"
        )


def _check_tokens(vocabulary: int, data: DataSet, what: str) -> None:
    for part in data.splits.values():
        low, high = part.source.token_range
        if low < 0 or high >= vocabulary:
            raise InputFileError(
                f"tokens must be 0..{vocabulary - 1}, the rows of {what}'s embedding: {data.name} has {low}..{high}"
            )


def check_gates(
    evaluation: Evaluation,
    *,
    min_accuracy: float | None = None,
    baseline: Evaluation | None = None,
    max_drop: float | None = None,
) -> None:
    """Hold an evaluation against what the user asks of it.

    Args:
        evaluation: the model's.
        min_accuracy: the accuracy must reach this share.
        baseline: the dense model's, on the same data.
        max_drop: the accuracy may be this much below the baseline's, as a share (0.01 is one point).

    Raises:
        QualityGateError: a gate is missed; all missed ones are named.
        UsageError: `max_drop` without a baseline.
    """
    if max_drop is not None and baseline is None:
        raise UsageError("`max_drop` needs the model to compare with: give `baseline`")
    if evaluation.accuracy is None or (baseline is not None and baseline.accuracy is None):
        if min_accuracy is not None or max_drop is not None:
            raise UsageError("gates on the accuracy are for data with classes: this data holds numbers to be met")
        return
    missed = []
    if min_accuracy is not None and evaluation.accuracy < min_accuracy:
        missed.append(f"accuracy {evaluation.accuracy:.4f} is below `min_accuracy={min_accuracy}`")
    if max_drop is not None and baseline is not None and baseline.accuracy is not None:
        drop = baseline.accuracy - evaluation.accuracy
        if drop > max_drop + 1e-12:
            missed.append(
                f"accuracy {evaluation.accuracy:.4f} is {drop:.4f} below the baseline's {baseline.accuracy:.4f}, "
                f"more than `max_drop={max_drop}`"
            )
    if missed:
        raise QualityGateError("; ".join(missed))


def describe(figures: Figures, model: str, data: DataSet, split: str, notes: tuple[str, ...] = ()) -> Evaluation:
    """Turn counts into the figures that are printed."""
    columns = tuple(zip(*figures.confusion, strict=True))
    per_class = tuple(
        _class_figures(name, figures.confusion[k][k], sum(figures.confusion[k]), sum(columns[k]))
        for k, name in enumerate(data.classes)
        if figures.confusion
    )
    return Evaluation(
        model=model,
        data=data.name,
        split=split,
        sequences=figures.sequences,
        accuracy=figures.accuracy,
        top5=figures.top5,
        loss=figures.loss,
        classes=data.classes,
        confusion=figures.confusion,
        per_class=per_class,
        agreement=figures.agreement,
        notes=notes,
        task=data.task,
        rmse=figures.rmse,
        r2=figures.r2,
    )


def _class_figures(name: str, right: int, true: int, answered: int) -> ClassFigures:
    precision = right / answered if answered else None
    recall = right / true if true else None
    f1 = 2 * right / (true + answered) if true + answered else None
    return ClassFigures(name, true, precision, recall, f1)


def classifier_for(
    data: DataSet, path: str | Path | ModelFile, wiring: Wiring | None, dropout: float = 0.0
) -> Classifier:
    """Read a network for a data set: one answer a step for labelling, an embedding in front for tokens."""
    wiring = wiring or Wiring()
    if data.task == "labelling" and wiring.model is None:
        wiring = replace(wiring, readout="every")
    return read_classifier(path, wiring, classes=len(data.classes), dropout=dropout, tokens=data.holds_tokens)


def _ready(model: str | Path | Classifier, wiring: Wiring | None, data: DataSet, crew: Team) -> Classifier:
    found = model if isinstance(model, Classifier) else classifier_for(data, model, wiring)
    found.module.to(crew.device)
    return found


def _name(model: str | Path | Classifier | None) -> str:
    return "the model" if isinstance(model, Classifier) else str(model)
