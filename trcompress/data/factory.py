"""Data from the user's own code: `package.module:factory`, called with the options as keyword arguments."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from trcompress.data.dataset import DataSet
from trcompress.errors import InputFileError, UnsafeFileError, UsageError, nearest


def load_factory(spec: str, options: dict[str, Any], *, allow_code: bool = False, **_: Any) -> DataSet:
    """Import `package.module`, call `factory(**options)` and return the `DataSet` that it returns.

    Raises:
        UnsafeFileError: `allow_code` is not set, that is, the spec may come from a file.
        UsageError: there is no such module or function, or it does not take these options.
        InputFileError: it returned something else than a `DataSet`.
    """
    if not allow_code:
        raise UnsafeFileError(
            f"a data factory runs code, so the user must type it; files may not name one: got {spec!r}; "
            "in Python, `allow_code=True` lets it run"
        )
    factory = find_function(spec, "a data factory")
    _check_options(factory, options, spec)
    data = factory(**options)
    if not isinstance(data, DataSet):
        raise InputFileError(
            f"{spec} must return a DataSet: got {type(data).__module__}.{type(data).__qualname__}; "
            "make one with trcompress.data.from_arrays, or of Split objects over your own source"
        )
    return data


def find_function(spec: str, what: str) -> Callable[..., Any]:
    """Import the function that `package.module:name` names; the current folder is searched last.

    This runs code: only for a spec that the user typed.

    Args:
        spec: `package.module:name`.
        what: what it is for ("a data factory"), for messages.

    Raises:
        UsageError: there is no such module or no such function in it.
    """
    module_name, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module exists and itself lacks another one
        raise UsageError(
            f"{what} must be importable: there is no module {error.name!r} for {spec}; "
            "run in its folder or install it"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        fault = "is not a function" if function is not None else f"is missing{nearest(name, dir(module))}"
        raise UsageError(f"{what} must be a function of its module: {name} {fault} in {module_name}")
    return function


def _check_options(factory: Any, options: dict[str, Any], spec: str) -> None:
    try:
        inspect.signature(factory).bind(**options)
    except ValueError:  # built in, without a signature
        return
    except TypeError as error:
        raise UsageError(
            f"the options must be arguments of {spec}{inspect.signature(factory)}: {error}; correct them"
        ) from error
