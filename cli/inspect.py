"""`trcompress inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trcompress.cli.options import format_option, kind_option, path_argument


@click.command()
@path_argument("checkpoint", "CKPT")
@kind_option
@format_option
def inspect(checkpoint: Path, kind: str | None, format_: str) -> None:
    """List the recurrent layers of a checkpoint, and what else is in it.

    Reads .pt, .pth, .safetensors and .npz without running any code from the file, and suggests a
    `decompose` line.

    Example: trcompress inspect model.pt
    """
    from trcompress.checkpoint import inspect as look
    from trcompress.checkpoint import read_checkpoint
    from trcompress.cli.console import print_json

    found = look(read_checkpoint(checkpoint, kind=kind))
    if format_ == "json":
        print_json(found.to_dict())
    else:
        _print(found)


def _print(found: Any) -> None:
    raise NotImplementedError
