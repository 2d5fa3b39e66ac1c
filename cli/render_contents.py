"""What an artifact holds, on the terminal."""

from __future__ import annotations

from trcompress.artifact.contents import Contents, TensorContents
from trcompress.cli.console import is_verbose, out
from trcompress.cli.tables import make_table
from trcompress.util.figures import count, ratio, size

MOST_ROWS = 24
"""Tensors in the short list, the largest first; --verbose lists all."""


def print_contents(held: Contents) -> None:
    """Print layers, tensors with their bytes, storage, and where the file comes from."""
    head = f"{held.path}: trcompress artifact, header version {held.version}, {size(held.file_bytes)}"
    out.print(head, markup=False)
    layers = [[name, kind, sizes] for name, kind, sizes in held.layers]
    out.print(make_table(["!layer", "kind", ">sizes"], layers, title="recurrent layers"))
    ranked = sorted(held.tensors, key=lambda one: -one.nbytes)
    shown = ranked if is_verbose() else ranked[:MOST_ROWS]
    columns = ["!tensor", ">shape", "!form", "stored as", ">bytes"]
    out.print(make_table(columns, [_row(one) for one in shown], title="tensors, the largest first"))
    if len(shown) < len(ranked):
        out.print(f"and {count(len(ranked) - len(shown))} more; -v lists them", markup=False)
    for line in _lines(held):
        out.print(line, markup=False)


def _row(one: TensorContents) -> list[str]:
    shape = " x ".join(map(str, one.shape)) or "scalar"
    return [one.name, shape, one.form, ", ".join(one.storage), count(one.nbytes)]


def _lines(held: Contents) -> list[str]:
    types = ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in held.storage.items())
    lines = [f"stored: {types}; {size(held.tensor_bytes)} of tensors in a file of {size(held.file_bytes)}"]
    if held.packed:
        lines[0] += f", entropy-coded ({', '.join(held.packed)})"
    if held.passes:
        lines.append("passes: " + ", ".join(f"{kind} ({number})" for kind, number in held.passes.items()))
    if held.baseline:
        name, nbytes = held.baseline["file"], held.baseline["tensor_bytes"]
        whole = "" if held.model_bytes_ratio is None else f", {ratio(held.model_bytes_ratio)} of the whole model"
        lines.append(f"from {name} ({size(nbytes)} of tensors){whole}")
    if not held.history:
        lines.append("history: not in this file, and none beside it; `compress --sidecar` keeps it for small files")
    return [*lines, *(f"  {command}" for command in held.lineage)]
