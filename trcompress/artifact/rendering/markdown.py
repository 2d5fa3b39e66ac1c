"""The report as a model card: Hugging Face front matter, then tables. Text is escaped for YAML and markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trcompress.artifact.document import accuracy_of, reports_of
from trcompress.util.figures import MISSING, spell

SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|<>~&$-])")
ROLES = {"dense": "dense", "decomposed": "before fine-tuning", "compressed": "this model"}


def render_markdown(document: Mapping[str, Any]) -> str:
    """Write a model card for the document's reports.

    Args:
        document: see `trcompress.artifact.document.report_document`.
    """
    reports = [report for _, report in reports_of(document)]
    lines = _front_matter(reports)
    for report in reports:
        lines += ["", *_card(report)]
    return "\n".join(lines) + "\n"


def escape_markdown(value: object) -> str:
    """Let a text from a file be nothing but text: no markup, no HTML, no new line, no table cell.

    Example:
        >>> escape_markdown("a|<b>")
        'a\\\\|\\\\<b\\\\>'
    """
    printable = "".join(one if one.isprintable() else " " for one in str(value))
    return SPECIAL.sub(r"\\\1", printable)


def _quoted(value: object) -> str:
    """A YAML string: JSON's strings are YAML's double-quoted ones."""
    return json.dumps(str(value), ensure_ascii=True)


def _code(text: object) -> list[str]:
    """A block of code whose fence is longer than any in it."""
    body = "".join(one if one.isprintable() else " " for one in str(text))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return [f"{fence}console", body, fence]


def _front_matter(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = sorted({str(weight["layer"]).split()[0] for report in reports for weight in report["weights"]})
    lines = ["---", "library_name: trcompress", "tags:"]
    lines += [f"- {_quoted(tag)}" for tag in ("tensor-ring", "compressed", "recurrent", *kinds)]
    known = [report for report in reports if accuracy_of(report, "compressed") is not None]
    if known:
        lines += ["metrics:", "- accuracy", "model-index:"]
        lines += [line for report in known for line in _result(report)]
    return [*lines, "---"]


def _result(report: Mapping[str, Any]) -> list[str]:
    """One entry of the model index, as the Hub reads it."""
    evaluation = report["evaluations"].get("compressed")
    data = evaluation["data"] if evaluation else report["metrics"].get("measured_on", "unknown")
    accuracy = accuracy_of(report, "compressed")
    return [
        f"- name: {_quoted(_name(report))}",
        "  results:",
        "  - task:",
        "      type: other",
        "      name: Sequence classification",
        "    dataset:",
        f"      type: {_quoted(data)}",
        f"      name: {_quoted(data)}",
        *([f"      split: {_quoted(evaluation['split'])}"] if evaluation else []),
        "    metrics:",
        "    - type: accuracy",
        f"      value: {json.dumps(accuracy)}",
    ]


def _card(report: Mapping[str, Any]) -> list[str]:
    source = f", compressed from {escape_markdown(report['source']['file'])}" if report["source"] else ""
    return [
        f"# {escape_markdown(_name(report))}",
        "",
        f"A recurrent network, made smaller by trcompress{source}.",
        "",
        *_sizes(report),
        *_matrices(report),
        *_passes(report),
        *_accuracies(report),
        *_use(report),
        *_history(report),
    ]


def _sizes(report: Mapping[str, Any]) -> list[str]:
    after = "file_bytes_after" if report["file_bytes_after"] is not None else "tensor_bytes_after"
    rows = [
        ("whole file", "tensor_bytes_before", after, "bytes_ratio", "size"),
        ("parameters", "parameters_before", "parameters_after", "model_ratio", "count"),
    ]
    table = [
        (name, spell(report[first], how), spell(report[second], how), spell(report[share], "ratio"))
        for name, first, second, share, how in rows
    ]
    if inputs := [one for one in report["weights"] if one["role"] == "ih"]:
        before, now = (
            spell(sum(one[key] for one in inputs), "count") for key in ("parameters_before", "parameters_after")
        )
        table.append(("input-to-hidden (Eq. 7)", before, now, spell(report["compression_ratio"], "ratio")))
    lines = _table(("", "before", "after", "ratio"), table)
    if report["other_bytes_before"]:
        whole, other = (spell(report[key], "size") for key in ("file_bytes_before", "other_bytes_before"))
        lines += [
            "",
            f"Before: the model's tensors; the checkpoint file took {whole}, {other} of it not the model.",
        ]
    return lines


def _matrices(report: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            escape_markdown(one["name"]),
            escape_markdown(f"{one['format']} {one['shape']}, ranks {','.join(map(str, one['ranks']))}"),
            spell(one["compression_ratio"], "ratio"),
            spell(one["error"], "error") + ("" if one["error_of"] == "the file" else " as found"),
            spell(one["bound"], "error"),
        )
        for one in report["weights"]
    ]
    if not rows:
        return []
    return ["", "## Compressed matrices", "", *_table(("matrix", "form", "Eq. 7", "error", "bound"), rows)]


def _passes(report: Mapping[str, Any]) -> list[str]:
    if not report["passes"]:
        return []
    rows = [
        (
            *(escape_markdown(one[key]) for key in ("kind", "name", "before", "after")),
            spell(one["damage"], "damage"),
        )
        for one in report["passes"]
    ]
    return ["", "## Passes", "", *_table(("pass", "on", "before", "after", "damage"), rows)]


def _accuracies(report: Mapping[str, Any]) -> list[str]:
    known = {role: accuracy_of(report, role) for role in ROLES}
    if known["compressed"] is None:
        return []
    rows = [(ROLES[role], spell(value, "share")) for role, value in known.items() if value is not None]
    measured = report["metrics"].get("measured_on")
    where = ["", f"Measured on the {escape_markdown(measured)}."] if measured else []
    return ["", "## Accuracy", "", *_table(("", "accuracy"), rows), *where]


def _use(report: Mapping[str, Any]) -> list[str]:
    return [
        "",
        "## Use",
        "",
        "```python",
        "import trcompress",
        "",
        f"layers = trcompress.load({json.dumps(_name(report))})  # the recurrent stacks, by name",
        "```",
    ]


def _history(report: Mapping[str, Any]) -> list[str]:
    lines = ["", "## How it was made", ""]
    if report["source"]:
        lines += [f"From {escape_markdown(report['source']['file'])}, sha256 {report['source']['sha256']}.", ""]
    for step in report["lineage"]:
        lines += [*_code(step["command"] or step["verb"]), ""]
    return lines[:-1]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return lines + [f"| {' | '.join(cell or MISSING for cell in row)} |" for row in rows]


def _name(report: Mapping[str, Any]) -> str:
    return str(report["artifact"]).replace("\\", "/").rpartition("/")[2]
