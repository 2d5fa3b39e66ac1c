"""Measured results that lie beside an artifact as JSON files: evaluations, training records, benchmarks.

`trcompress finetune` writes `NAME.metrics.json` beside `NAME.safetensors`; `evaluate` and `bench` print JSON. They
come from files, so they are read strictly as to types and sizes; keys that a report does not show are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from trcompress.errors import InputFileError, UsageError
from trcompress.model.header import Header
from trcompress.util.bounded_json import check_parts
from trcompress.util.inputs import note_input

MAX_BYTES = 16 * 2**20
MAX_CLASSES = 4096
MAX_NAMES = 1 << 20

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class _Result(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class ClassResult(_Result):
    """Figures of one class, as `Evaluation` holds them."""

    name: str
    sequences: Count
    precision: Share | None = None
    recall: Share | None = None
    f1: Share | None = None


class EvaluationResult(_Result):
    """What the verb `evaluate` prints of one model as JSON."""

    model: str
    data: str
    split: str
    sequences: Count
    accuracy: Share
    top5: Share | None = None
    loss: float
    agreement: Share | None = None
    classes: Annotated[tuple[str, ...], Field(max_length=MAX_NAMES)]
    confusion: Annotated[tuple[tuple[Count, ...], ...], Field(max_length=MAX_CLASSES)]
    per_class: Annotated[tuple[ClassResult, ...], Field(max_length=MAX_CLASSES)]


class Comparison(EvaluationResult):
    """An evaluation beside that of the dense model."""

    baseline: EvaluationResult | None = None


class EpochResult(_Result):
    """One epoch of a training run; epoch 0 is before training."""

    epoch: Count
    phase: str = ""
    loss: float | None = None
    accuracy: Share | None = None
    validation_loss: float | None = None
    validation_accuracy: Share | None = None


class TrainingResult(_Result):
    """`NAME.metrics.json`, as `trcompress finetune` writes it."""

    model: str = ""
    metrics: dict[str, Any]
    identity: dict[str, Any] = {}
    evaluations: dict[Literal["before", "after", "teacher"], EvaluationResult] = {}
    history: Annotated[tuple[EpochResult, ...], Field(max_length=100_000)]


class TimingResult(_Result):
    """One timed pair."""

    stack: str
    what: str
    batch: Count
    baseline_ms: Annotated[float, Field(gt=0)]
    artifact_ms: Annotated[float, Field(gt=0)]
    speedup: float
    baseline_onnx_ms: Annotated[float, Field(gt=0)] | None = None
    artifact_onnx_ms: Annotated[float, Field(gt=0)] | None = None


class BenchResult(_Result):
    """What the verb `bench` prints as JSON."""

    artifact: str
    baseline: str
    device: str
    threads: Count
    steps: Count
    machine: dict[str, Any]
    timings: Annotated[tuple[TimingResult, ...], Field(max_length=10_000)]


class MeasuredResults(BaseModel):
    """All that was measured of one artifact.

    Attributes:
        evaluations: by role: "dense", "decomposed" (before fine-tuning), "compressed" (the artifact itself).
        curves: one entry per epoch of fine-tuning.
        latency: the benchmark, if there is one.
    """

    model_config = ConfigDict(frozen=True)

    evaluations: dict[str, EvaluationResult] = {}
    curves: tuple[EpochResult, ...] = ()
    latency: BenchResult | None = None


ROLES: dict[Literal["before", "after", "teacher"], str] = {
    "teacher": "dense",
    "before": "decomposed",
    "after": "compressed",
}
"""What the networks of a training run are to the finished artifact."""

_ANY: TypeAdapter[TrainingResult | BenchResult | Comparison] = TypeAdapter(
    TrainingResult | BenchResult | Comparison
)


def read_measured(artifact: Path | None, header: Header, results: Iterable[str | Path] = ()) -> MeasuredResults:
    """Collect what was measured of an artifact.

    Args:
        artifact: its path; the training record beside it is read where it is of this very run.
        header: its header.
        results: JSON files that `evaluate`, `bench` and `finetune` made; those of other artifacts are left out.

    Raises:
        InputFileError: a result is not such a file.
    """
    found = MeasuredResults()
    if artifact is None:
        return found
    beside = artifact.with_suffix(".metrics.json")
    if beside.is_file():
        record = _read(beside)
        if isinstance(record, TrainingResult) and _is_of(record, header):
            found = _with(found, record)
    for path in results:
        result = _read(Path(path))
        if name_of(result) == artifact.name:
            found = _with(found, result)
    return found


def check_all_used(results: Iterable[str | Path], artifacts: Iterable[Path]) -> None:
    """Refuse results that are of none of the artifacts.

    Raises:
        UsageError: a result was measured on another file.
    """
    names = sorted({path.name for path in artifacts})
    for path in results:
        name = name_of(_read(Path(path)))
        if name not in names:
            raise UsageError(
                f"a result must be of an artifact that is reported on: {path} was measured on {name!r}, "
                f"the report is on {', '.join(names)}"
            )


def name_of(result: TrainingResult | BenchResult | Comparison) -> str:
    """Return the file name of the artifact that a result was measured on."""
    return Path(result.artifact if isinstance(result, BenchResult) else result.model).name


def _read(path: Path) -> TrainingResult | BenchResult | Comparison:
    note_input(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputFileError(f"a result file must be under {MAX_BYTES >> 20} MiB: {path} is larger")
        text = path.read_bytes()
        check_parts(text, MAX_BYTES // 2)
        return _ANY.validate_json(text)
    except OSError as error:
        raise InputFileError(f"cannot read {path}: {error.strerror or error}") from error
    except InputFileError:
        raise
    except (ValueError, RecursionError) as error:  # pydantic's own among them
        raise InputFileError(
            f"{path} is not a result of trcompress: it must be what `evaluate` or `bench` print as JSON, or the "
            "metrics file of `finetune`"
        ) from error


def _is_of(record: TrainingResult, header: Header) -> bool:
    """Return True where a training record is of the artifact's last step, not of an older file of this name."""
    return bool(header.lineage) and header.lineage[-1].settings == record.identity


def _with(found: MeasuredResults, result: TrainingResult | BenchResult | Comparison) -> MeasuredResults:
    if isinstance(result, BenchResult):
        return found.model_copy(update={"latency": result})
    if isinstance(result, TrainingResult):
        named = {ROLES[role]: evaluation for role, evaluation in result.evaluations.items()}
        return found.model_copy(
            update={"evaluations": found.evaluations | named, "curves": result.history or found.curves}
        )
    named = {"compressed": EvaluationResult.model_validate(result.model_dump(exclude={"baseline"}))}
    if result.baseline is not None:
        named["dense"] = result.baseline
    return found.model_copy(update={"evaluations": found.evaluations | named})
