"""A griffe extension for the documentation site: what docstrings hold, as mkdocstrings shows it best."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Function, Object

EXAMPLE = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class Examples(Extension):
    """Reads `Example:` as the section `Examples:`, which is shown as code; by itself griffe takes it for prose."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rename the section."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\1Examples:", obj.docstring.value)


class ClassArguments(Extension):
    """Leaves the arguments of a class to the docstring of the class, where they are described."""

    def on_function(self, *, func: Function, **kwargs: Any) -> None:
        """Drop what was made up for an `__init__` without a docstring of its own."""
        if func.name == "__init__" and func.docstring and not func.docstring.value:
            func.docstring = None
