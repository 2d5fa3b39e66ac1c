"""Recipes: strict TOML files, one for each row of the paper's tables and figures.

text -> (quick table) -> (settings, data) -> typed Recipe; whatever does not fit is refused, all faults at once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ValidationError

from trcompress.errors import InputFileError, TrcompressError, UsageError, nearest
from trcompress.reproduce.recipe_schema import RECIPE_KINDS, Recipe
from trcompress.util.inputs import note_input

MAX_BYTES = 2**20
MOST_PARTS = 32
"""Of a dotted key: reading one takes memory and time in the square of its parts."""
MOST_FAULTS, MOST_CHARACTERS = 50, 300
"""Faults that are told, and characters of each."""
_PART = re.compile(r"""\s*(?:[\w-]+|"[^"]*"|'[^']*')\s*""")
QUICK = "quick"


@dataclass(frozen=True)
class RecipeFile:
    """A recipe as it was written.

    Args:
        origin: its path, or its name if it ships with trcompress.
        text: the whole file, comments and all.
        folder: where it is; a relative `data.path` in it starts there.
        values: its tables without `[quick]`.
        quick: what a rehearsal changes.
    """

    origin: str
    text: str
    folder: Path
    values: dict[str, Any]
    quick: dict[str, Any]

    def resolve(self, *, quick: bool = False, settings: Sequence[str] = (), data: str | None = None) -> Recipe:
        """Apply what the user asked for and type the result.

        Args:
            quick: apply the `[quick]` table.
            settings: `train.epochs=3` texts; values are TOML, or plain text where that does not parse.
            data: takes the place of `data.path`.

        Raises:
            UsageError: a setting names no key, or its value does not fit (all faults are listed); or there is no
                `[quick]` table to apply.
        """
        if quick and not self.quick:
            raise UsageError(f"{self.origin} cannot be rehearsed: it has no [quick] table; leave `quick` out")
        values = merged(self.values, self.quick) if quick else self.values
        own = values.get("data", {}).get("path")
        if own is not None:
            values = merged(values, {"data": {"path": str(self.folder / own)}})
        for setting in settings:
            values = merged(values, parse_setting(setting))
        if data is not None:
            if "data" not in values:
                raise UsageError(f"{self.origin} needs no data: leave `data` out")
            values = merged(values, {"data": {"path": str(data)}})
        return _checked(values, f"{self.origin} with these settings", UsageError)


def recipe_names() -> list[str]:
    """Names of the recipes that ship with trcompress, sorted."""
    return sorted(path.stem for path in _shipped().glob("*.toml"))


def read_recipe(source: str | Path) -> RecipeFile:
    """Read a recipe by name, or from a .toml file, and check it with and without its `[quick]` table.

    Raises:
        UsageError: no recipe has this name.
        InputFileError: the file is missing, too large, not TOML, or does not fit; all faults are listed.

    Example:
        >>> read_recipe("ucf11-table1-tr").resolve().model.parameters
        1725
    """
    origin, path = str(source), _find(source)
    note_input(path)
    text = _read_text(path)
    if any(_has_deep_key(line) for line in text.splitlines()):
        raise InputFileError(f"{origin} nests deeper than a recipe does: a key has more than {MOST_PARTS} parts")
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, or too many digits
        raise InputFileError(f"{origin} is not TOML: {error}") from error
    quick = values.pop(QUICK, {})
    if not isinstance(quick, dict):
        raise InputFileError(
            f"{origin}: [quick] must be a table of what a rehearsal changes: got {repr(quick)[:100]}"
        )
    faults = list(faults_of(values))
    told = {fault.partition(":")[0] for fault in faults}
    quick_faults = faults_of(merged(values, quick))
    faults += [f"quick.{fault}" for fault in quick_faults if fault.partition(":")[0] not in told]
    _raise(faults, origin, InputFileError)
    return RecipeFile(origin, text, path.parent, values, quick)


def write_recipe(recipe: Recipe) -> str:
    """Write a resolved recipe as TOML, every default spelled out."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True), multiline_strings=True)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Lay tables over tables; anything but a table is replaced whole.

    Example:
        >>> merged({"train": {"epochs": 9, "lr": 1}}, {"train": {"epochs": 3}})
        {'train': {'epochs': 3, 'lr': 1}}
    """
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def parse_setting(text: str) -> dict[str, Any]:
    """Read `train.epochs=3` as nested tables.

    Raises:
        UsageError: not of this form.

    Example:
        >>> parse_setting("train.epochs=3"), parse_setting("data.video.size=80x60")
        ({'train': {'epochs': 3}}, {'data': {'video': {'size': '80x60'}}})
    """
    path, equals, value = text.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise UsageError(f"`set` takes KEY=VALUE with dots between tables, as in train.epochs=3: got {text!r}")
    try:
        parsed: Any = tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):
        parsed = value.strip()
    for key in reversed(keys):
        parsed = {key: parsed}
    return parsed


def _has_deep_key(line: str) -> bool:
    run = 0
    for part in line.split("."):
        run = run + 1 if _PART.fullmatch(part) else 0
        if run > MOST_PARTS:
            return True
    return False


def faults_of(values: Mapping[str, Any]) -> Iterator[str]:
    """Say everything that is wrong with a recipe's tables, one line each: `path: what, got`."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in RECIPE_KINDS:
        known = ", ".join(RECIPE_KINDS)
        hint = nearest(kind, list(RECIPE_KINDS)) if isinstance(kind, str) else ""
        yield f"kind: must be one of {known}, got {repr(kind)[:100]}{hint}"
        return
    try:
        RECIPE_KINDS[kind].model_validate(values)
    except ValidationError as error:
        faults = [fault for fault in error.errors() if not _follows(fault)]
        yield from dict.fromkeys(
            _fault(fault, RECIPE_KINDS[kind])[:MOST_CHARACTERS] for fault in faults[:MOST_FAULTS]
        )
        if len(faults) > MOST_FAULTS:
            yield f"and {len(faults) - MOST_FAULTS:,} more"


def _checked(values: Mapping[str, Any], origin: str, kind: type[TrcompressError]) -> Recipe:
    _raise(list(faults_of(values)), origin, kind)
    return RECIPE_KINDS[values["kind"]].model_validate(values)


def _raise(faults: list[str], origin: str, kind: type[TrcompressError]) -> None:
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise kind(f"{origin} has {count}:\n  " + "\n  ".join(faults))


def _follows(fault: Any) -> bool:
    """Return True where a fault only follows from others: a list counted after its faulty items were dropped."""
    return fault["type"] == "too_short" and bool(fault["input"])


def _fault(fault: Any, model: type[BaseModel]) -> str:
    place, holder = _place(fault["loc"], model)
    if fault["type"] == "extra_forbidden":
        known = list(holder.model_fields) if holder else []
        return f"{place}: unknown key{nearest(str(fault['loc'][-1]), known)}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        return f"{place}: is missing"
    given = fault["input"]
    told = isinstance(given, dict) or ": got " in message
    return f"{place}: {message}" + ("" if told else f", got {repr(given)[:100]}")


def _place(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[str, type[BaseModel] | None]:
    """Spell a fault's path as TOML has it, and find the model of the table it is in."""
    parts: list[str] = []
    holder: type[BaseModel] | None = model
    for depth, part in enumerate(loc):
        if isinstance(part, int):
            parts[-1:] = [f"{parts[-1] if parts else ''}[{part}]"]
        elif holder is None or depth + 1 == len(loc) or part in holder.model_fields:
            parts.append(part)
        if isinstance(part, str) and holder is not None and depth + 1 < len(loc):
            field = holder.model_fields.get(part)
            holder = _inner_model(field.annotation) if field else None
    return ".".join(parts) or "recipe", holder


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    """Find the model in `Model`, `Model | None` or `tuple[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is Literal:
        return None
    return next((found for part in get_args(annotation) if (found := _inner_model(part))), None)


def _find(source: str | Path) -> Path:
    text = str(source)
    if text.endswith(".toml"):
        return Path(source)
    names = recipe_names()
    if text not in names:
        raise UsageError(
            f"no recipe {text!r}{nearest(text, names)}; known are {', '.join(names)}, "
            "and a file of your own must end in .toml"
        )
    return _shipped() / f"{text}.toml"


def _shipped() -> Path:
    """Return the folder of the recipes that ship with trcompress; the package is never run from a zip file."""
    with resources.as_file(resources.files("trcompress.recipes")) as folder:
        return folder


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise InputFileError(f"no such recipe file: {path}")
    if path.stat().st_size > MAX_BYTES:
        raise InputFileError(f"a recipe must be under 1 MiB: {path} has {path.stat().st_size:,} bytes")
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputFileError(f"{path} is not UTF-8 text: {error}") from error
