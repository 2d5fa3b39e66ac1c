"""A report as a file to show: a page of HTML, a model card, a table for a spreadsheet; all from its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from trcompress.artifact.rendering.csv_table import render_csv
from trcompress.artifact.rendering.html import render_html
from trcompress.artifact.rendering.markdown import render_markdown


def render_json(document: Mapping[str, Any]) -> str:
    """Return the document itself."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


RENDERERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "json": render_json,
    "markdown": render_markdown,
    "html": render_html,
    "csv": render_csv,
}
"""Format -> function of the document (see `trcompress.artifact.document`) that gives the file's text."""
