"""The options of each kind of data, typed: from Python, a recipe or `key=value` text alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from trcompress.errors import UsageError, nearest
from trcompress.util.strict import StrictModel


def _names(value: Any) -> Any:
    """Accept `"2,4,9"`, `[2, 4, 9]` and `9` as a tuple of texts."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, int):
        return (str(value),)
    return tuple(str(part) for part in value) if isinstance(value, (list, tuple, set)) else value


def _size(value: Any) -> Any:
    """Accept `"160x120"` and `[160, 120]`."""
    return tuple(value.lower().split("x")) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Pixels = Annotated[int, Field(ge=8, le=2048)]
Options = TypeVar("Options", bound=BaseModel)


class SplitOptions(StrictModel):
    """How train, validation and test are divided.

    Attributes:
        split: "auto" = the data's own split if it has one, else by group; "official", "group" ask for one of
            them; "random" ignores groups and is labelled as leaking; "none" = all rows are training rows.
        test_groups: groups to test on; default: whole groups drawn by `split_seed` up to `test_fraction`.
        test_fraction: share of the rows to test on where the split is not given.
        validation_fraction: share of the *training* rows to validate on, by group if groups exist; 0: none.
        split_seed: seed of the division alone; the training seed does not move rows between parts.
    """

    split: Literal["auto", "official", "group", "random", "none"] = "auto"
    test_groups: Names = ()
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    split_seed: Annotated[int, Field(ge=0)] = 0


class ArrayOptions(SplitOptions):
    """Options of array files.

    Attributes:
        group_key: the array that names each row's group (`subject`); default: `group`, if the file has it.
        split_number: which of the file's own splits (`split_1`, `split_2`, ...) to use.
        steps: fold the time axis into this many steps: (N, 128, 6) with steps=8 becomes (N, 8, 96).
        frames: take this many of the T steps: random (in order) in training, evenly spaced otherwise.
        standardize: subtract the mean and divide by the deviation of each channel, fitted on training rows.
        center: subtract the mean alone and keep the scale: for pixels, some of which hardly ever change.
        max_bytes: refuse compressed files that would take more memory than this, 100 MB and twice the file if it is
            not given; others are mapped.
        task: what y is: "classification" (one class a row), "labelling" (one class a step, negative where none
            counts) or "regression" (numbers); "auto" goes by its type and shape.
    """

    task: Literal["auto", "classification", "labelling", "regression"] = "auto"
    group_key: str | None = None
    split_number: Annotated[int, Field(ge=1)] = 1
    steps: Annotated[int, Field(ge=1)] | None = None
    frames: Annotated[int, Field(ge=1)] | None = None
    standardize: bool = False
    center: bool = False
    max_bytes: Annotated[int, Field(ge=1)] | None = None


class VideoOptions(SplitOptions):
    """Options of video trees.

    Attributes:
        layout: "ucf11" (class/group/clip), "hmdb51" (class/clip); "auto" looks at the tree.
        frames: steps per clip: random (in order) in training, evenly spaced otherwise.
        candidates: evenly spaced frames cached per clip, from which the random ones are drawn; default: 24,
            or twice `frames` if that is more.
        size: width x height to which frames are resized.
        pixel_order: "rows" flattens (row, column, colour); "columns" flattens (column, row, colour).
        split_number: which of HMDB51's three official splits.
        split_dir: the folder of HMDB51's split files, if it is not in or beside the tree.
        max_bad_clips: this many clips may be unreadable; they are named, counted and left out.
        keep_cut: keep clips that lack their end (they are named) instead of counting them as unreadable.
        max_frames: refuse clips with more frames than this.
        max_pixels: refuse clips whose frames have more pixels than this.
        clip_timeout_s: give up on a clip after this time.
        cache_dir: where decoded frames are kept; default: the user's cache folder.
        max_cache_bytes: refuse to decode trees that would need a larger cache than this.
        workers: decoding processes; 0 decodes in this one; default: one per core, at most 8.
    """

    layout: Literal["auto", "ucf11", "hmdb51"] = "auto"
    frames: Annotated[int, Field(ge=1, le=1024)] = 6
    candidates: Annotated[int, Field(ge=1, le=4096)] | None = None
    size: Annotated[tuple[Pixels, Pixels], BeforeValidator(_size)] = (160, 120)
    pixel_order: Literal["rows", "columns"] = "rows"
    split_number: Annotated[int, Field(ge=1, le=3)] = 1
    split_dir: Path | None = None
    max_bad_clips: Annotated[int, Field(ge=0)] = 0
    keep_cut: bool = False
    max_frames: Annotated[int, Field(ge=1)] = 20_000
    max_pixels: Annotated[int, Field(ge=64)] = 4096 * 2304
    clip_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    cache_dir: Path | None = None
    max_cache_bytes: Annotated[int, Field(ge=1)] = 40 * 2**30
    workers: Annotated[int, Field(ge=0, le=256)] | None = None


def read_options(model: type[Options], values: dict[str, Any], kind: str) -> Options:
    """Check the options of one kind of data.

    Raises:
        UsageError: unknown names (with the nearest known one) or values that do not fit; all are listed.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(_fault(fault, model) for fault in error.errors())
        raise UsageError(f"the options of {kind} data must be known and fit: {faults}") from error


def _fault(fault: Any, model: type[BaseModel]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        known = tuple(model.model_fields)
        return f"{name!r} is unknown{nearest(name, known)}, known are {', '.join(known)}"
    return f"{name} = {fault['input']!r}: {fault['msg']}"
