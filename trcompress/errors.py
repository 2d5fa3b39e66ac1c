"""What can go wrong, and the exit code each fault has on the command line.

A message says the rule, the user's own values and what to do. A bug is never wrapped: it keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class TrcompressError(Exception):
    """Base of every fault that the user can mend; `exit_code` is the command line's."""

    exit_code = 1


class UsageError(TrcompressError, ValueError):
    """The call or the command line asks for something that does not exist or does not combine."""

    exit_code = 2


class ShapeError(UsageError):
    """Modes, ranks or tensor sizes that do not fit together."""


class OutputFileError(TrcompressError, OSError):
    """The output cannot be written: it exists, its folder does not, or the disk is full."""

    exit_code = 2


class MissingExtraError(TrcompressError, ImportError):
    """An optional dependency is not installed; the message names the extra."""

    exit_code = 2


class InputFileError(TrcompressError, ValueError):
    """A file is missing, truncated, not of the expected kind, or holds unusable values."""

    exit_code = 3


class UserCodeError(TrcompressError):
    """Code of the user's, named as `package.module:function`, raised something."""

    exit_code = 3


class UnsafeFileError(InputFileError):
    """A file was refused because reading it would run code from it."""

    exit_code = 4


class QualityGateError(TrcompressError):
    """A measured figure misses the gate the user set (`min_accuracy`, `max_drop`)."""

    exit_code = 5


def one_of(what: str, name: str, known: Iterable[str]) -> str:
    """Return a name that is one of the known ones.

    Raises:
        UsageError: it is none of them; they are listed, and the nearest is suggested.

    Example:
        >>> one_of("init", "tr-svd", ["tr-als", "tr-svd"])
        'tr-svd'
    """
    names = list(known)
    if name not in names:
        raise UsageError(f"{what} must be one of {', '.join(names)}: got {name!r}{nearest(name, names)}")
    return name


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Return `" (did you mean 'x'?)"` for the closest known name, or an empty string.

    Example:
        >>> nearest("tr-alls", ["tr-als", "tr-svd"])
        " (did you mean 'tr-als'?)"
    """
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
