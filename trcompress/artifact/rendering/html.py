"""The report as one page: no script, no network, every figure taken from the JSON by its pointer.

Each figure stands in an element with `data-path`, its JSON pointer, and `data-value`, the exact value. All text is
escaped by jinja2, whatever file it came from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from trcompress.artifact.document import accuracy_of, reports_of
from trcompress.artifact.rendering.charts import HEIGHT, WIDTH, curve_charts, front_chart
from trcompress.util.figures import spell
from trcompress.util.text import visible
from trcompress.version import __version__

ROLES = {"dense": "dense", "decomposed": "decomposed", "compressed": "this artifact"}
"""Role -> what its column is called; in this order."""
MOST_TENSORS, MOST_CLASSES = 60, 24
"""A page lists so many tensors, and draws the confusion of so many classes; the JSON has all."""


def render_html(document: Mapping[str, Any]) -> str:
    """Draw one page for all reports of a document.

    Args:
        document: see `report_document`.

    Returns:
        A whole HTML page that needs nothing else.
    """
    number = _number_of(document)
    pages = [_page(report, pointer) for pointer, report in reports_of(document)]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            document=document,
            pages=pages,
            front=front_chart(document["front"]) if "front" in document else None,
            number=number,
            cell=_cell_of(document),
            roles=ROLES,
            width=WIDTH,
            height=HEIGHT,
            version=__version__,
        )
    )


def _page(report: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    """What the template draws of one report, beside the report itself."""
    most = max([1, *(part["bytes_before"] for part in report["parts"])])
    total = max(1, sum(part["bytes_before"] for part in report["parts"]))
    ranked = sorted(range(len(report["tensors"])), key=lambda k: -report["tensors"][k]["bytes_before"])
    roles = [role for role in ROLES if role in report["evaluations"]]
    return {
        "report": report,
        "at": pointer,
        "name": str(report["artifact"]).replace("\\", "/").rpartition("/")[2],
        "largest_part": most,
        "bars": _bars(report, total),
        "tensors": ranked[:MOST_TENSORS],
        "more_tensors": len(ranked) - MOST_TENSORS,
        "roles": roles,
        "classes": _worst_classes(report, roles),
        "confusions": [role for role in roles if len(report["evaluations"][role]["classes"]) <= MOST_CLASSES],
        "accuracies": _accuracies(report),
        "curves": curve_charts(report, pointer),
        "slowest": max([1e-9, *(_slower(one) for one in (report["latency"] or {}).get("timings", ()))]),
    }


def _bars(report: Mapping[str, Any], total: int) -> list[dict[str, Any]]:
    """Two bars on one scale: the bytes of every part before and after, as shares of all bytes before."""
    return [
        {
            "name": name,
            "field": field,
            "width": min(100.0, 100 * sum(part[field] for part in report["parts"]) / total),
            "pieces": [(k, part[field]) for k, part in enumerate(report["parts"]) if part[field]],
        }
        for name, field in (("before", "bytes_before"), ("after", "bytes_after"))
    ]


def _accuracies(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Role and pointer (within the report) of every accuracy that is known."""
    keys = {"dense": "accuracy_teacher", "decomposed": "accuracy_before", "compressed": "accuracy_after"}
    return [
        (role, f"/evaluations/{role}/accuracy" if role in report["evaluations"] else f"/metrics/{keys[role]}")
        for role in ROLES
        if accuracy_of(report, role) is not None
    ]


def _worst_classes(report: Mapping[str, Any], roles: list[str]) -> list[int]:
    """Indices of the classes to list: all, or where there are too many, those the artifact finds least."""
    if not roles:
        return []
    rows = report["evaluations"][roles[-1]]["per_class"]
    if len(rows) <= MOST_CLASSES:
        return list(range(len(rows)))
    worst = sorted(range(len(rows)), key=lambda k: 2.0 if rows[k]["recall"] is None else rows[k]["recall"])
    return sorted(worst[:MOST_CLASSES])


def _slower(timing: Mapping[str, Any]) -> float:
    return max(timing["baseline_ms"], timing["artifact_ms"])


def value_at(document: Any, pointer: str) -> Any:
    """Look up a JSON pointer (RFC 6901).

    Example:
        >>> value_at({"weights": [{"error": 0.5}]}, "/weights/0/error")
        0.5
    """
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list | tuple) else document[key]
    return document


def _number_of(document: Mapping[str, Any]) -> Callable[[str, str], Markup]:
    def number(pointer: str, spelling: str) -> Markup:
        value = value_at(document, pointer)
        return Markup('<span class="n" data-path="{}" data-value="{}" data-spelling="{}">{}</span>').format(
            pointer, json.dumps(value), spelling, spell(value, spelling)
        )

    return number


def _cell_of(document: Mapping[str, Any]) -> Callable[[str], Markup]:
    def cell(pointer: str) -> Markup:
        """The attributes of a mark that shows a value by its place or size."""
        value = json.dumps(value_at(document, pointer))
        return Markup('data-path="{}" data-value="{}"').format(escape(pointer), value)

    return cell


def _shown(value: object) -> object:
    """Spell out control characters, which escaping leaves in; what is markup already keeps its type."""
    return type(value)(visible(value, keep="\n\t")) if isinstance(value, str) else value


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("trcompress.artifact.rendering"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
