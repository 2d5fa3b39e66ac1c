"""`trcompress finetune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from trcompress.cli.options import command_line, format_option, out_option, overwrite_option, path_argument
from trcompress.cli.task_options import open_data, path_option, read_wiring, task_options
from trcompress.training.settings import DistillSettings, FinetuneSettings, read_settings

# option -> (metavar, what --help says); the library holds defaults, ranges and meanings
_SETTINGS = {
    "epochs": ("N", "Passes over the training part."),
    "batch-size": ("N", "Sequences per batch, all processes together."),
    "lr": ("RATE", "Peak learning rate of AdamW."),
    "core-lr-scale": ("X", "Learning rate of cores, relative to all other weights."),
    "weight-decay": ("W", "Of weights and cores."),
    "warmup-epochs": ("N", "Linear warm-up; then a cosine to zero."),
    "clip": ("NORM", "Largest norm of the gradient; 0 is off."),
    "dropout": ("P", "Before the head, and between layers."),
    "input-dropout": ("P", "Of the inputs, in training."),
    "label-smoothing": ("P", "Share of the target spread over all classes."),
    "patience": ("N", "Stop after N epochs without a better validation result; 0 is off."),
    "accumulate": ("N", "Batches per optimizer step."),
    "amp": ("TYPE", "off, bf16 or fp16."),
    "seed": ("N", "Seed of everything random."),
    "freeze": ("PARTS", "hh, head or hh,head."),
    "class-weights": ("W", "none, balanced, or one number per class."),
    "start": ("HOW", "artifact (the weights as they are); scratch (drawn anew)."),
    "rounding": ("HOW", "Of few-bit storage while training: kept, int8, int4 or none."),
    "device": ("NAME", "auto, cpu, cuda, cuda:1, ..."),
    "teacher-device": ("NAME", "Where the teacher runs; same: with the model."),
}
_DISTILL = {
    "logits": ("W", "Weight of the teacher's class scores."),
    "temperature": ("T", "Softening of the class scores."),
    "hidden": ("W", "Weight of the teacher's hidden states."),
    "labels": ("W", "Weight of the true labels beside the teacher."),
}


def settings_options(command: Any) -> Any:
    """Add one option per training setting."""
    for name, (metavar, text) in reversed(_DISTILL.items()):
        option = name if name == "temperature" else f"distill-{name}"
        default = _default(DistillSettings(), name)
        command = click.option(
            f"--{option}", f"distill_{name}", metavar=metavar, help=f"{text} [default: {default}]"
        )(command)
    for name, (metavar, text) in reversed(_SETTINGS.items()):
        default = _default(FinetuneSettings(), name.replace("-", "_"))
        command = click.option(f"--{name}", metavar=metavar, help=f"{text} [default: {default}]")(command)
    return command


def _default(settings: Any, name: str) -> Any:
    value = getattr(settings, name)
    return "auto" if value is None else "none" if value == () else value


def settings_from(given: dict[str, Any]) -> Any:
    """Collect the settings that were given."""
    names = [name.replace("-", "_") for name in _SETTINGS]
    values = {name: given[name] for name in names if given[name] is not None}
    distill = {name: given[f"distill_{name}"] for name in _DISTILL if given[f"distill_{name}"] is not None}
    return read_settings(values | ({"distill": distill} if distill else {}))


@click.command()
@path_argument("artifact", "ARTIFACT")
@task_options
@path_option("--teacher", "CKPT", "The dense checkpoint to learn from.")
@settings_options
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@click.option("--tensorboard", metavar="DIR", type=click.Path(path_type=Path), help="Also log for TensorBoard.")
@out_option("ARTIFACT with the ending .tuned.safetensors")
@overwrite_option
@format_option
def finetune(artifact: Path, **given: Any) -> None:
    """Train an artifact end to end on the target data.

    Cross-entropy with the labels, and with --teacher also the dense network's class scores, hidden states or
    gate inputs. Keeps the best epoch by validation accuracy, never by test. The state is saved after every epoch:
    after Ctrl-C, SIGTERM or a crash, run the same command with --resume. Under torchrun the processes share the
    batches: torchrun --nproc-per-node 2 -m -- trcompress finetune ... (without the -- torchrun takes --start for
    an option of its own).

    Functions named M:F, with examples: docs/your-code.md.

    Example: trcompress finetune model.tr.safetensors --data data.npz --teacher model.pt
    """
    from trcompress.cli.console import spelled
    from trcompress.training.finetune import finetune as train
    from trcompress.training.run_state import RunInterruptedError

    settings = settings_from(given)
    try:
        result = train(
            artifact,
            open_data(given),
            given["out"],
            teacher=given["teacher"],
            settings=settings,
            wiring=read_wiring(given),
            resume=given["resume"],
            overwrite=given["overwrite"],
            command=command_line(),
            display=_display(settings, given["tensorboard"]),
        )
    except RunInterruptedError as stop:
        click.echo(f"\n{spelled(str(stop))}", err=True)
        sys.exit(130)
    _print(result, given["format_"])


def _display(settings: Any, tensorboard: Path | None) -> Any:
    import os

    from trcompress.cli.console import err, is_quiet
    from trcompress.training.display import TensorBoardDisplay, make_display

    if os.environ.get("RANK", "0") != "0" or is_quiet():
        return None
    shown = make_display(err, settings.epochs)
    return shown if tensorboard is None else TensorBoardDisplay(tensorboard, shown)


def _print(result: Any, format_: str) -> None:
    import os

    from trcompress.cli.console import print_json
    from trcompress.cli.render_evaluation import print_training

    if os.environ.get("RANK", "0") != "0":
        return
    if format_ == "json":
        print_json(result.to_dict())
    else:
        print_training(result)
