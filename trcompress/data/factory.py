"""Data from the user's own code: `package.module:factory`, called with the options as keyword arguments."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from trcompress.data.dataset import DataSet
from trcompress.errors import InputFileError, UnsafeFileError, UsageError, nearest


def load_factory(spec: str, values: dict[str, Any], *, allow_code: bool = False, **_: Any) -> DataSet:
    """Import `package.module`, call `factory(**values)` and return the `DataSet` that it returns.

    Modules are looked up as Python does, and in the current folder.

    Raises:
        UnsafeFileError: `allow_code` is not set, that is, the spec may come from a file.
        UsageError: there is no such module or function, or it does not take these options.
        InputFileError: it returned something else than a `DataSet`.
    """
    if not allow_code:
        raise UnsafeFileError(
            f"data factories run code, so they must be typed by the user, not read from a file: got {spec!r}; "
            "give it with --data on the command line, or allow_code=True in Python"
        )
    module_name, _, name = spec.partition(":")
    with _current_folder():
        factory = _find(module_name, name)
        _check_options(factory, values, spec)
        data = factory(**values)
    if not isinstance(data, DataSet):
        raise InputFileError(
            f"{spec} must return a trcompress.data.DataSet: got {type(data).__module__}.{type(data).__qualname__}; "
            "build one from Split objects over a source with fetch(rows, draw)"
        )
    return data


def _find(module_name: str, name: str) -> Any:
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # the user's module exists and lacks something itself: its own traceback tells most
        raise UsageError(
            f"a data factory must be importable: there is no module {error.name!r} for {module_name}:{name}; "
            "run in its folder or install it"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        what = "is not a function" if factory is not None else f"is missing{nearest(name, dir(module))}"
        raise UsageError(f"a data factory must be a function of its module: {name} in {module_name} {what}")
    return factory


def _check_options(factory: Any, values: dict[str, Any], spec: str) -> None:
    try:
        inspect.signature(factory).bind(**values)
    except ValueError:  # built in, without a signature
        return
    except TypeError as error:
        raise UsageError(
            f"the options must be arguments of {spec}{inspect.signature(factory)}: {error}; got {values}"
        ) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """Make the current folder importable, as `python -m` does, last in the search."""
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.reverse()
            sys.path.remove(folder)
            sys.path.reverse()
