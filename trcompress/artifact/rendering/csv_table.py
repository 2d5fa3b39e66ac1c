"""The report as a table for a spreadsheet: the model, its matrices, its tensors. No cell can be a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any

from trcompress.artifact.document import accuracy_of, reports_of
from trcompress.util.text import visible

COLUMNS = (
    "artifact",
    "level",
    "name",
    "form",
    "ranks",
    "parameters_before",
    "parameters_after",
    "ratio",
    "bytes_before",
    "bytes_after",
    "bytes_ratio",
    "error",
    "bound",
    "accuracy_dense",
    "accuracy",
    "error_of",
)
FORMULA_STARTS = ("=", "+", "-", "@", "|", "%")


def render_csv(document: Mapping[str, Any]) -> str:
    """Write one row for the model, one for every compressed matrix and one for every tensor.

    Args:
        document: see `trcompress.artifact.document.report_document`.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for _, report in reports_of(document):
        for row in _rows(report):
            writer.writerow({key: safe_cell(value) for key, value in row.items()})
    return stream.getvalue()


def safe_cell(value: Any) -> Any:
    """Put an apostrophe before a text that a spreadsheet would run as a formula; numbers stay numbers.

    Example:
        >>> safe_cell("=1+1"), safe_cell(-1.5), safe_cell(None)
        ("'=1+1", -1.5, '')
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = visible(value)  # a terminal shows tables, too
    return f"'{text}" if text.lstrip(" ").startswith(FORMULA_STARTS) else text


def _rows(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    same = {"artifact": report["artifact"]}
    after = report["file_bytes_after"]
    yield same | {
        "level": "model",
        "parameters_before": report["parameters_before"],
        "parameters_after": report["parameters_after"],
        "ratio": report["model_ratio"],
        "bytes_before": report["tensor_bytes_before"],
        "bytes_after": report["tensor_bytes_after"] if after is None else after,
        "bytes_ratio": report["bytes_ratio"],
        "accuracy_dense": accuracy_of(report, "dense"),
        "accuracy": accuracy_of(report, "compressed"),
    }
    for one in report["weights"]:
        yield same | {
            "level": "matrix",
            "name": one["name"],
            "form": f"{one['format']} {one['shape']}",
            "ranks": " ".join(map(str, one["ranks"])),
            "parameters_before": one["parameters_before"],
            "parameters_after": one["parameters_after"],
            "ratio": one["compression_ratio"],
            "error": one["error"],
            "error_of": one["error_of"],
            "bound": one["bound"],
        }
    for one in report["tensors"]:
        yield same | {
            "level": "tensor",
            "name": one["name"],
            "parameters_before": one["before"],
            "parameters_after": one["after"],
            "bytes_before": one["bytes_before"],
            "bytes_after": one["bytes_after"],
        }
