"""`trcompress bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trcompress.cli.options import device_option, format_option, path_argument, reading_options


@click.command()
@path_argument("artifact", "ARTIFACT")
@click.option(
    "--baseline", type=click.Path(path_type=Path), required=True, metavar="CKPT", help="Its dense original."
)
@click.option("--batch", default="1,16,64", show_default=True, metavar="N,N,...", help="Batch sizes.")
@click.option("--steps", type=int, default=16, show_default=True, help="Time steps of a sequence.")
@click.option("--train", is_flag=True, help="Time a training step (forward, backward, SGD update) too.")
@click.option("--threads", type=int, help="Threads of PyTorch [default: as many as it takes].")
@click.option(
    "--seconds", type=float, default=2.0, show_default=True, help="Time for each stack, batch size and mode."
)
@click.option("--onnx", is_flag=True, help="Time both as ONNX files in onnxruntime too.")
@reading_options
@device_option
@format_option
def bench(artifact: Path, batch: str, device: str, format_: str, **given: Any) -> None:
    """Time a compressed model against its dense original, on this machine.

    Both are run in turn, round after round, so that a busy moment of the machine meets both; medians are shown:
    latency and peak memory for each batch size, memory held between calls, bytes on disk, and how each compressed
    weight was evaluated (ring, merged or dense).

    Example: trcompress bench model.tr.safetensors --baseline model.pt --batch 1,16,64 --train
    """
    from trcompress.cli.console import print_json
    from trcompress.cli.options import resolve_device
    from trcompress.timing.bench import bench as measure

    found = measure(artifact, batches=_numbers(batch), device=resolve_device(device), **given)
    if format_ == "json":
        print_json(found.to_dict())
    else:
        from trcompress.cli.render_bench import print_bench

        print_bench(found)


def _numbers(text: str) -> list[int]:
    from trcompress.errors import UsageError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--batch takes numbers with commas between them, 1,16,64: got {text!r}") from error
