"""`load_data`: from a path or a factory's name to a `DataSet`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from trcompress.data.dataset import DataSet
from trcompress.errors import InputFileError
from trcompress.util.inputs import note_input
from trcompress.util.progress import Count
from trcompress.util.text import encodable
from trcompress.util.user_code import module_and_name


@dataclass(frozen=True)
class DataKind:
    """One kind of data: how it looks, and the function that loads it.

    Args:
        looks_like: what a user types for it, for messages.
        matches: whether a spec is of this kind.
        function: `module:name` of `load(spec, values, *, allow_code, progress) -> DataSet`.
    """

    looks_like: str
    matches: Callable[[str], bool]
    function: str


def _is_array(spec: str) -> bool:
    return Path(spec).suffix.lower() in (".npz", ".safetensors")


def _is_folder(spec: str) -> bool:
    return Path(spec).is_dir()


def _is_factory(spec: str) -> bool:
    return module_and_name(spec) is not None


DATA_KINDS = {
    "array": DataKind("FILE.npz or FILE.safetensors", _is_array, "trcompress.data.arrays:load_arrays"),
    "video": DataKind("a folder of videos", lambda spec: Path(spec).is_dir(), "trcompress.data.video:load_video"),
    "factory": DataKind("package.module:factory", _is_factory, "trcompress.data.factory:load_factory"),
}


def kind_of(spec: str | Path) -> str:
    """Return the name in `DATA_KINDS` that a spec is of.

    Raises:
        InputFileError: it is none of them.
    """
    text = str(spec)
    for name, kind in DATA_KINDS.items():
        if kind.matches(text):
            return name
    known = ", ".join(kind.looks_like for kind in DATA_KINDS.values())
    raise InputFileError(f"data must be one of: {known}; got {text!r}, which is none of them and not a folder")


def load_data(
    spec: str | Path, *, allow_code: bool = False, progress: Count | None = None, **options: Any
) -> DataSet:
    """Open a data set: an array file, a video tree, or what a user's own function returns.

    Args:
        spec: FILE.npz, FILE.safetensors, a folder of videos, or `package.module:factory`.
        allow_code: let `package.module:factory` import and call code. Set it only for a spec that the user
            typed; never for one that was read from a recipe, an artifact or any other file.
        progress: called with (done, total, what) while clips are decoded.
        **options: the fields of `ArrayOptions` or `VideoOptions`; a factory gets them as keyword arguments.

    Raises:
        InputFileError: the data is missing, damaged or does not fit the rules of its kind.
        UsageError: an option is unknown or does not combine with the data.
        UnsafeFileError: reading would run code (pickles; a factory without `allow_code`).
        MissingExtraError: video needs `pip install trcompress[video]`.

    Example:
        >>> load_data("missing.npz")
        Traceback (most recent call last):
        ...
        trcompress.errors.InputFileError: no such data file: missing.npz
    """
    kind = kind_of(spec)
    if kind != "factory":
        note_input(spec)
    module, _, name = DATA_KINDS[kind].function.partition(":")
    load = getattr(import_module(module), name)
    found = load(str(spec), options, allow_code=allow_code, progress=progress)
    return replace(found, name=encodable(found.name))
