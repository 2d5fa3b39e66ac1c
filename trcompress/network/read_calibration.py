"""A data file as calibration sees it: which of its arrays feeds which stack. Labels are never looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trcompress.data.array_file import read_arrays
from trcompress.data.array_source import ArraySource
from trcompress.data.dataset import DataSet
from trcompress.data.load import kind_of, load_data
from trcompress.data.options import ArrayOptions, read_options
from trcompress.data.user_batches import arrays_of, call_loader
from trcompress.errors import InputFileError, UsageError, nearest
from trcompress.network.calibration_data import CalibrationData
from trcompress.network.embedding import find_embedding
from trcompress.network.feeds import Feed, TokenFeed, VectorFeed
from trcompress.network.find_head import find_chain, input_size
from trcompress.network.model_file import ModelFile

_MAIN = ("x_train", "x")
_PREFIXES = ("x_", "length_", "state_", "embedding_")
_PARTS = ("train", "val", "test")


def read_calibration(
    spec: str | Path | DataSet | Iterable[Any], file: ModelFile, **options: Any
) -> CalibrationData:
    """Open calibration data: an array file, a folder of videos, or what a user's own function returns.

    An array file holds `x` (or `x_train`), (N, T, ...) numbers for the first stack, or one array a stack, named
    `x_<stack>` or `<stack>`. Integers (N, T) are tokens: they are looked up in the checkpoint's embedding, which
    is found by its shape and name, or named by the text `embedding_<stack>`. Beside them, optionally: `length`,
    `length_<stack>` (N,) valid steps; `state_<stack>`: the name of the stack whose last state it starts from, or
    the states themselves (N, H). Where the file has labels, only its training rows are used.

    Args:
        spec: FILE.npz, FILE.safetensors, a folder of videos, a data set, batches that hold the same arrays, or
            `package.module:loader` that gives a data set or batches (with `allow_code`: the user typed it).
        file: the dense network.
        options: of `trcompress.data.load_data`.

    Raises:
        InputFileError: the file is damaged, or its arrays do not fit the network.
        UsageError: nothing tells which stack an array is for.
    """
    if not isinstance(spec, (str, Path)):
        return _given(spec, file, options)
    kind = kind_of(spec)
    if kind == "factory":
        if not options.pop("allow_code", False):
            return _of_data_set(load_data(spec, **options), file)  # refuses: the user did not type it
        return _given(call_loader(str(spec), options), file, {})
    options.pop("allow_code", None)
    if kind == "video":
        return _of_data_set(load_data(spec, **{"validation_fraction": 0.0, **options}), file)
    path = Path(spec)
    settings = read_options(ArrayOptions, options, "array")
    arrays = read_arrays(path, settings.max_bytes)
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return _of_arrays(path, sha256, arrays, file, options)


def _given(data: DataSet | Iterable[Any], file: ModelFile, options: dict[str, Any]) -> CalibrationData:
    """Take a data set, or batches as a loader gives them."""
    name = data.name if isinstance(data, DataSet) else getattr(data, "spec", "the batches")
    if not isinstance(data, DataSet):
        return _of_arrays(Path(name), "", arrays_of(data, name), file, options)
    part = next(iter(data.splits.values()))
    x, _, lengths = part.batch(np.arange(min(1, len(part))))
    if x.is_floating_point():
        return _of_data_set(data, file)
    x, _, lengths = part.batch(np.arange(len(part)))  # tokens are small
    arrays = {"x": x.numpy()} | ({} if lengths is None else {"length": lengths.numpy()})
    return _of_arrays(Path(name), "", arrays, file, options)


def _of_data_set(data: DataSet, file: ModelFile) -> CalibrationData:
    part = next(iter(data.splits.values()))
    feed = VectorFeed(part.source, part.rows)
    return _only(file, data.name, "", feed, part.groups, (data.split_note, *data.notes))


def _of_arrays(
    path: Path, sha256: str, arrays: dict[str, np.ndarray], file: ModelFile, options: dict[str, Any]
) -> CalibrationData:
    """Find out what each array feeds."""
    settings = read_options(ArrayOptions, options, "array")
    named = {stack: key for stack in file.stacks if (key := _key_of(stack, arrays)) is not None}
    _check_names(arrays, file, str(path))
    if not named:
        return _main(path, sha256, arrays, file, options)
    feeds, notes = {}, []
    for stack, key in named.items():
        feeds[stack], note = _feed(arrays, key, f"length_{stack}", file, stack, settings, str(path))
        notes += [f"{key} is what {stack or 'the network'} is fed{note}"]
    _check_counts({named[stack]: len(feed) for stack, feed in feeds.items()}, str(path))
    states = {stack: _state(arrays[f"state_{stack}"], stack, file) for stack in feeds if f"state_{stack}" in arrays}
    return CalibrationData(path.name, sha256, feeds, states, _groups(arrays, settings, feeds), tuple(notes))


def _main(
    path: Path, sha256: str, arrays: dict[str, np.ndarray], file: ModelFile, options: dict[str, Any]
) -> CalibrationData:
    """Read a file that has one array for the whole network, its training part where it is divided."""
    key = next((key for key in _MAIN if key in arrays), None)
    if key is None:
        raise InputFileError(
            f"{path} must hold x or x_train, or one array a stack named {_keys(file)}: "
            f"it holds {', '.join(arrays) or 'nothing'}; rename its arrays"
        )
    stack = first_stack(file, _width(arrays[key]))
    if len(file.stacks) > 1 and _is_tokens(arrays[key], input_size(file.stacks[stack])):
        raise UsageError(f"tokens must say which stack they are for: name {key} {_keys(file)}")
    suffix = key.removeprefix("x")
    settings = read_options(ArrayOptions, options, "array")
    if _is_tokens(arrays[key], input_size(file.stacks[stack])) or f"y{suffix}" not in arrays:
        feed, note = _feed(arrays, key, f"length{suffix}", file, stack, settings, str(path))
        return _only(file, path.name, sha256, feed, _groups(arrays, settings, {stack: feed}), (f"{key}{note}",))
    folded = _folding(arrays[key], input_size(file.stacks[stack]), settings)
    grouped = settings.group_key is not None or any(name.startswith("group") for name in arrays)
    divided = grouped or "x_test" in arrays
    whole = {} if divided else {"split": "none"}  # nothing is tested here: every row may serve
    data = load_data(path, **{"validation_fraction": 0.0, **whole, **options, **folded})
    feed = VectorFeed(data.train.source, data.train.rows)
    notes = (f"training rows of {path.name} ({data.split_note})", *data.notes)
    return _only(file, path.name, sha256, feed, data.train.groups, notes)


def _only(
    file: ModelFile, name: str, sha256: str, feed: Feed, groups: np.ndarray | None, notes: tuple[str, ...]
) -> CalibrationData:
    if not len(feed):
        raise InputFileError(f"{name} has no training rows: calibration needs inputs like those of training")
    stack = first_stack(file, feed.width)
    if feed.width != input_size(file.stacks[stack]):
        raise InputFileError(_misfit(name, feed.width, stack, file))
    return CalibrationData(name, sha256, {stack: feed}, {}, groups, notes)


def first_stack(file: ModelFile, width: int) -> str:
    """Return the stack that the network's own inputs go to: the first of its chain, or the only one of this width.

    Raises:
        UsageError: several could be it.
    """
    if len(file.stacks) == 1:
        return next(iter(file.stacks))
    try:
        return find_chain(file)[0][0]
    except UsageError as error:
        fitting = [stack for stack, layers in file.stacks.items() if input_size(layers) == width]
        if len(fitting) == 1:
            return fitting[0]
        raise UsageError(
            f"the calibration data has one x, but the network has {len(file.stacks)} recurrent stacks whose order "
            f"neither sizes nor names tell; name the arrays by stack: {_keys(file)}"
        ) from error


def _feed(
    arrays: dict[str, np.ndarray],
    key: str,
    length_key: str,
    file: ModelFile,
    stack: str,
    settings: ArrayOptions,
    where: str,
) -> tuple[Feed, str]:
    """One array as a feed, and what must be said of it."""
    x, width = arrays[key], input_size(file.stacks[stack])
    lengths = _lengths(arrays.get(length_key), x, f"{where}: {length_key}")
    if _is_tokens(x, width):
        tokens, lengths = _trimmed(np.asarray(x, dtype=np.int64), lengths, f"{where}: {key}")
        name = arrays.get(f"embedding_{stack}", arrays.get("embedding"))
        found = find_embedding(file, stack, int(tokens.max()), None if name is None else str(name))
        return TokenFeed(tokens, lengths, file.tensor(found).float(), found), f", as rows of {found}"
    if x.ndim < 2 or x.dtype.kind not in "fiub" or not len(x):
        raise InputFileError(f"{where}: {key} must be numbers (N, T, I) or tokens (N, T): got {x.dtype} {x.shape}")
    x = x[..., None] if x.ndim == 2 else x
    folded = _folding(x, width, settings)
    source = ArraySource(x, lengths, steps=folded.get("steps", settings.steps), frames=settings.frames)
    rows = np.arange(len(x), dtype=np.int64)
    if settings.standardize or settings.center:
        source = source.standardized(rows, rescale=settings.standardize)
    feed = VectorFeed(source, rows)
    if feed.width != width:
        raise InputFileError(f"{where}: {_misfit(key, feed.width, stack, file)}")
    if not all(np.isfinite(chunk).all() for chunk in source.chunks(rows)):
        raise InputFileError(f"{where}: {key} must be finite: it holds NaN or Inf; drop those sequences")
    return feed, f", folded into {folded['steps']} steps of {width:,}" if folded else ""


def _is_tokens(x: np.ndarray, width: int) -> bool:
    return x.ndim == 2 and x.dtype.kind in "iu" and width > 1


def _folding(x: np.ndarray, width: int, settings: ArrayOptions) -> dict[str, int]:
    """Options that fold (N, T, F) into steps of the layer's width, where it takes more values than a step has."""
    steps, rest = divmod(int(np.prod(x.shape[1:])), width)
    asked = settings.steps or settings.frames
    if asked or _width(x) == width or rest or not steps or x.shape[1] % steps:
        return {}
    return {"steps": steps}


def _width(x: np.ndarray) -> int:
    return int(np.prod(x.shape[2:], dtype=np.int64))


def _trimmed(tokens: np.ndarray, lengths: np.ndarray | None, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Tokens with padding replaced by 0; negative tokens at the end of a row are padding."""
    if lengths is None and (tokens < 0).any():
        lengths = (tokens >= 0).sum(axis=1)
    valid = np.ones(tokens.shape, bool) if lengths is None else np.arange(tokens.shape[1]) < lengths[:, None]
    if (tokens[valid] < 0).any() or (lengths is not None and (lengths < 1).any()):
        raise InputFileError(f"{where}: tokens must be 0 or more, and only the end of a row may be padding (-1)")
    return np.where(valid, tokens, 0), lengths


def _lengths(lengths: np.ndarray | None, x: np.ndarray, where: str) -> np.ndarray | None:
    if lengths is None:
        return None
    if lengths.shape != x.shape[:1] or lengths.dtype.kind not in "iu":
        raise InputFileError(f"{where} must be {len(x):,} integers: got {lengths.dtype} {lengths.shape}")
    if (lengths < 1).any() or (lengths > x.shape[1]).any():
        raise InputFileError(f"{where} must be 1 to {x.shape[1]}: got {lengths.min()} to {lengths.max()}")
    return lengths.astype(np.int64)


def _state(given: np.ndarray, stack: str, file: ModelFile) -> str | Tensor:
    """What a stack starts from: the name of another, or values (N, L, H)."""
    layers = file.stacks[stack]
    if given.dtype.kind in "US":
        name = str(given)
        if name not in file.stacks or name == stack:
            known = [one for one in file.stacks if one != stack]
            raise InputFileError(f"state_{stack} must name another stack: {name!r}{nearest(name, known)}")
        theirs = file.stacks[name]
        if [one.hidden_size for one in theirs] != [one.hidden_size for one in layers]:
            raise InputFileError(f"{stack} cannot start from the last state of {name}: their layers differ in size")
        return name
    values = torch.from_numpy(np.array(given, dtype=np.float32))
    values = values.unsqueeze(1) if values.dim() == 2 else values
    if values.shape[1:] != (len(layers), layers[0].hidden_size):
        wanted = f"(N, {len(layers)}, {layers[0].hidden_size})"
        raise InputFileError(f"state_{stack} must be the name of a stack, or {wanted} values: got {given.shape}")
    return values


def _key_of(stack: str, arrays: Mapping[str, np.ndarray]) -> str | None:
    return next((key for key in (f"x_{stack}", stack) if stack and key in arrays), None)


def _check_names(arrays: Mapping[str, np.ndarray], file: ModelFile, where: str) -> None:
    known = [*file.stacks, *_PARTS]
    for key in arrays:
        prefix = next((one for one in _PREFIXES if key.startswith(one)), None)
        if prefix and key.removeprefix(prefix) not in known:
            hint = nearest(key.removeprefix(prefix), list(file.stacks))
            raise InputFileError(
                f"{where}: {key} names no recurrent stack{hint}; there are {', '.join(file.stacks)}"
            )


def _check_counts(counts: Mapping[str, int], where: str) -> None:
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{key} {count:,}" for key, count in counts.items())
        raise InputFileError(f"{where}: row n of every array must be the same example, but they have {shown} rows")


def _groups(
    arrays: Mapping[str, np.ndarray], settings: ArrayOptions, feeds: Mapping[str, Feed]
) -> np.ndarray | None:
    groups = arrays.get(settings.group_key or "group")
    return groups if groups is not None and groups.shape == (len(next(iter(feeds.values()))),) else None


def _keys(file: ModelFile) -> str:
    return ", ".join(f"x_{stack}" for stack in file.stacks)


def _misfit(what: str, width: int, stack: str, file: ModelFile) -> str:
    taken = f"{stack or 'the network'} takes {input_size(file.stacks[stack]):,}"
    return (
        f"{what} has {width:,} values a step, but {taken}; give the inputs as the network saw them in training "
        "(time can be folded with the data option steps=)"
    )
