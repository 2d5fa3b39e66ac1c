"""Reports as one JSON document: what `trcompress report` prints as JSON and every other format draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trcompress.artifact.report import SCHEMA_VERSION, Report


def report_document(reports: Sequence[Report]) -> dict[str, Any]:
    """Put one or several reports into one document.

    Returns:
        Of one report its own values; of several `{"schema_version", "reports", "front"}`. A point of the front has
        the bytes of the whole file and the accuracy, and whether no other point is smaller and at least as good.
    """
    if len(reports) == 1:
        return reports[0].to_dict()
    found = [report.to_dict() for report in reports]
    return {"schema_version": SCHEMA_VERSION, "reports": found, "front": size_accuracy_front(found)}


def reports_of(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """List the reports of a document with the JSON pointer of each."""
    if "reports" not in document:
        return [("", document)]
    return [(f"/reports/{k}", one) for k, one in enumerate(document["reports"])]


def size_accuracy_front(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List a point of size and accuracy for every artifact, and for every dense network they came from.

    Artifacts without an accuracy or a file have no point.
    """
    points: list[dict[str, Any]] = []
    for report in reports:
        dense = _point(_dense_name(report), "dense", report["tensor_bytes_before"], accuracy_of(report, "dense"))
        own = _point(
            report["artifact"], "compressed", report["file_bytes_after"], accuracy_of(report, "compressed")
        )
        points += [point for point in (dense, own) if point is not None and point not in points]
    for point in points:
        point["best"] = not any(_beats(other, point) for other in points)
    return points


def accuracy_of(report: Mapping[str, Any], role: str) -> float | None:
    """Return the accuracy of "dense", "decomposed" or "compressed", where it was measured."""
    if role in report["evaluations"]:
        return report["evaluations"][role]["accuracy"]
    name = {"dense": "accuracy_teacher", "decomposed": "accuracy_before", "compressed": "accuracy_after"}[role]
    value = report["metrics"].get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _dense_name(report: Mapping[str, Any]) -> str:
    return str((report["source"] or {}).get("file", "dense"))


def _point(name: str, role: str, size_bytes: int | None, accuracy: float | None) -> dict[str, Any] | None:
    if not size_bytes or accuracy is None:
        return None
    return {"name": name, "role": role, "bytes": size_bytes, "accuracy": accuracy}


def _beats(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return True where a point is no larger and no worse than another, and better in one of the two."""
    no_worse = one["bytes"] <= other["bytes"] and one["accuracy"] >= other["accuracy"]
    return no_worse and (one["bytes"] < other["bytes"] or one["accuracy"] > other["accuracy"])
