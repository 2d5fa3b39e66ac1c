"""The user's own code, named on the command line: found, run, and its faults told with their last frame."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from trcompress.errors import TrcompressError, UsageError, UserCodeError, nearest

PACKAGE = Path(__file__).parent.parent


def find_function(spec: str, what: str) -> Callable[..., Any]:
    """Import the function that `package.module:name` names; the current folder is searched last.

    This runs code: only for a spec that the user typed.

    Args:
        spec: `package.module:name`.
        what: what it is for ("a data factory"), for messages.

    Raises:
        UsageError: there is no such module or no such function in it.
        UserCodeError: the module fails while it is imported.
    """
    named = module_and_name(spec)
    if named is None:
        raise UsageError(f"{what} is named package.module:function, as in my_project.data:loader: got {spec!r}")
    module_name, name = named
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with faults_told(spec, missing_too=False):
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserCodeError(_told(spec, error)) from error  # the module exists and itself lacks another one
        raise UsageError(
            f"{what} must be importable: there is no module {error.name!r} for {spec}; "
            "run in its folder or install it"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [one for one in dir(module) if callable(getattr(module, one, None))]
        fault = "is not a function" if function is not None else f"is missing{nearest(name, functions)}"
        raise UsageError(f"{what} must be a function of its module: {name} {fault} in {module_name}")
    return function


def module_and_name(spec: str) -> tuple[str, str] | None:
    """Split `package.module:name`; None where it is not of that form.

    Example:
        >>> module_and_name("my_project.data:loader"), module_and_name("4x4:2x2")
        (('my_project.data', 'loader'), None)
    """
    module, colon, name = spec.partition(":")
    fits = colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))
    return (module, name) if fits else None


def code_files(spec: str) -> Iterator[Path]:
    """Yield the files that `package.module:name` would be read from, in any folder that is searched.

    Example:
        >>> sorted({path.name for path in code_files("trcompress.util.user_code:code_files")})
        ['__init__.py', 'user_code.py']
        >>> list(code_files("4x4:2x2"))
        []
    """
    named = module_and_name(spec)
    parts = named[0].split(".") if named else []
    for root in dict.fromkeys([*sys.path, os.curdir]):  # the current folder may have been removed
        for depth in range(1, len(parts) + 1):
            base = Path(root, *parts[:depth])
            yield from (path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file())


@contextmanager
def faults_told(what: str, *, missing_too: bool = True, own_only: bool = False) -> Iterator[None]:
    """Turn what the user's code raises into one line with the last frame of its traceback.

    Faults of this library, interruptions and a lack of memory pass through.

    Args:
        what: the code, as the user named it.
        missing_too: also a module that is not installed.
        own_only: only what was raised on the way through the user's own files.

    Raises:
        UserCodeError: the code raised something.
    """
    try:
        yield
    except (TrcompressError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # a script that ends itself ends its own code alone
        missing = isinstance(error, ModuleNotFoundError) and not missing_too
        own = any(not _is_library(one.filename) for one in traceback.extract_tb(error.__traceback__))
        if missing or type(error).__name__ == "OutOfMemoryError" or (own_only and not own):
            raise
        raise UserCodeError(_told(what, error)) from error


def _told(what: str, error: BaseException) -> str:
    """Name the code, what it raised, and where: the last frame that is the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if not _is_library(one.filename)] or list(frames)
    said = " ".join(str(error).split()) or "no message"
    where = f'\n  File "{own[-1].filename}", line {own[-1].lineno}, in {own[-1].name}' if own else ""
    line = f"\n    {own[-1].line}" if own and own[-1].line else ""
    return f"your code failed: {what}: {type(error).__name__}: {said:.300}{where}{line}"


def _is_library(filename: str) -> bool:
    path = Path(filename)
    return filename.startswith("<") or "site-packages" in path.parts or path.is_relative_to(PACKAGE)
