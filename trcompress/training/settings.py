"""How a model is trained: every knob of the loop, typed, with its range. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from trcompress.errors import UsageError, nearest
from trcompress.util.strict import StrictModel

Weight = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _listed(value: Any) -> Any:
    """Accept `"hh,head"` for `("hh", "head")`, and an empty text for none."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _class_weights(value: Any) -> Any:
    """Accept `"1,2.5,1"` beside `"none"`, `"balanced"` and lists."""
    if isinstance(value, str) and value not in ("none", "balanced") and any(c.isdigit() for c in value):
        return tuple(value.split(","))
    return value


class DistillSettings(StrictModel):
    """Weights of the loss terms where a teacher is given; a weight of 0 leaves its term out.

    Attributes:
        labels: cross-entropy with the true labels.
        logits: divergence from the teacher's class probabilities, both softened by `temperature`.
        temperature: softening of the logits; the term is scaled by its square, so that its gradient keeps its size.
        hidden: relative squared distance of the hidden states, at every time step of every recurrent stack.
            None: 1 in `finetune` where the teacher has stacks of the same names and sizes, else 0.
    """

    labels: Weight = 1.0
    logits: Weight = 1.0
    temperature: Annotated[float, Field(gt=0, le=1000)] = 2.0
    hidden: Weight | None = None


class FinetuneSettings(StrictModel):
    """Everything that shapes a training run, apart from the model and the data.

    Attributes:
        epochs: passes over the training part.
        batch_size: sequences per batch, all processes together.
        lr: peak learning rate of AdamW.
        core_lr_scale: learning rate of cores relative to all other weights. None: 5 in `finetune` where it starts
            from an artifact's weights (cores are then further from their goal than what stayed dense), else 1.
        weight_decay: of weights and cores; biases have none.
        warmup_epochs: the learning rate rises linearly over these, then falls to 0 along a cosine.
        clip: largest norm of the whole gradient; 0 leaves it as it is.
        dropout: of the values that enter the head, and between layers.
        input_dropout: of the values that enter the network; the teacher sees them all.
        label_smoothing: share of the target spread over all classes.
        patience: stop after this many epochs without a better validation result; 0 never stops early.
        accumulate: batches per optimizer step; the gradient is that of one batch so many times as large.
        amp: run the network in "bf16" or "fp16" (with loss scaling); weights and losses stay float32.
        seed: of the order of the data, dropout, random frames and random starts.
        freeze: parts that keep their values: "hh" (recurrent weights), "head" (the classifier's last layer).
        class_weights: "balanced" weighs classes by 1 / frequency in the training part; or one number each.
        distill: loss weights where there is a teacher.
        start: "artifact" trains from the given weights; "scratch" draws all weights anew.
        rounding: train aware of few-bit storage, by straight-through gradients: "kept" as the artifact is stored;
            "int8" or "int4" store its matrices so; "none" trains without, and rounds at the end as the artifact is.
        device: "auto" is CUDA where there is one.
        teacher_device: where the teacher runs; "same" is the device of the model.

    Example:
        >>> FinetuneSettings(epochs=3).lr > 0
        True
    """

    epochs: Annotated[int, Field(ge=0, le=100_000)] = 30
    batch_size: Annotated[int, Field(ge=1, le=2**20)] = 32
    lr: Annotated[float, Field(gt=0, le=10)] = 2e-3
    core_lr_scale: Annotated[float, Field(gt=0, le=1000)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.01
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    clip: Annotated[float, Field(ge=0)] = 1.0
    dropout: Share = 0.1
    input_dropout: Share = 0.0
    label_smoothing: Share = 0.0
    patience: Annotated[int, Field(ge=0)] = 0
    accumulate: Annotated[int, Field(ge=1, le=2**16)] = 1
    amp: Literal["off", "bf16", "fp16"] = "off"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    freeze: Annotated[tuple[Literal["hh", "head"], ...], BeforeValidator(_listed)] = ()
    class_weights: Annotated[
        Literal["none", "balanced"] | tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_class_weights)
    ] = "none"
    distill: DistillSettings = DistillSettings()
    start: Literal["artifact", "scratch"] = "artifact"
    rounding: Literal["kept", "int8", "int4", "none"] = "kept"
    device: str = "auto"
    teacher_device: str = "same"


def read_settings(values: Mapping[str, Any]) -> FinetuneSettings:
    """Check settings that come from a command line or a file.

    Raises:
        UsageError: unknown names (with the nearest known one) or values out of range; all are listed.

    Example:
        >>> read_settings({"freeze": "hh", "distill": {"logits": 0.5}}).freeze
        ('hh',)
    """
    try:
        return FinetuneSettings.model_validate(dict(values))
    except ValidationError as error:
        faults = dict.fromkeys(_fault(fault) for fault in error.errors())
        raise UsageError(f"training settings must be known and within range: {'; '.join(faults)}") from error


def combined(settings: FinetuneSettings | None, named: Mapping[str, Any]) -> FinetuneSettings:
    """Lay settings given by name over a whole set; None leaves one as it is.

    Raises:
        UsageError: a value is out of range; all are listed.

    Example:
        >>> combined(FinetuneSettings(epochs=9), {"lr": 0.1, "epochs": None}).epochs
        9
    """
    given = {name: value for name, value in named.items() if value is not None}
    return read_settings({**(settings.model_dump() if settings else {}), **given})


def _fault(fault: Any) -> str:
    path = [str(part) for part in fault["loc"]]
    model = DistillSettings if path[:1] == ["distill"] and len(path) > 1 else FinetuneSettings
    if fault["type"] == "extra_forbidden":
        known = list(model.model_fields)
        return f"{'.'.join(path)} is unknown{nearest(path[-1], known)}"
    return f"{path[0] if model is FinetuneSettings else '.'.join(path[:2])}: {fault['msg']}, got {fault['input']!r}"
