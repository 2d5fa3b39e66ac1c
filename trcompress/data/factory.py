"""Data from the user's own code: `package.module:factory`, called with the options as keyword arguments."""

from __future__ import annotations

import inspect
from typing import Any

from trcompress.data.dataset import DataSet
from trcompress.errors import InputFileError, UnsafeFileError, UsageError
from trcompress.util.user_code import faults_told, find_function


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
    data = call_factory(spec, options, "a data factory")
    if not isinstance(data, DataSet):
        raise InputFileError(
            f"{spec} must return a DataSet: got {type(data).__module__}.{type(data).__qualname__}; "
            "make one with trcompress.data.from_arrays, or of Split objects over your own source"
        )
    return data


def call_factory(spec: str, options: dict[str, Any], what: str) -> Any:
    """Call the function that the user named, with the options as keyword arguments; this runs the user's code.

    Raises:
        UsageError: there is no such function, or it does not take these options.
        UserCodeError: it raised something.
    """
    factory = find_function(spec, what)
    _check_options(factory, options, spec)
    with faults_told(spec):
        return factory(**options)


def _check_options(factory: Any, options: dict[str, Any], spec: str) -> None:
    try:
        inspect.signature(factory).bind(**options)
    except ValueError:  # built in, without a signature
        return
    except TypeError as error:
        taken = f"{spec}{inspect.signature(factory)}"
        if not options:
            raise UsageError(f"{taken} must take what it is called with, no arguments: {error}") from error
        raise UsageError(f"the options must be arguments of {taken}: {error}; correct them") from error
