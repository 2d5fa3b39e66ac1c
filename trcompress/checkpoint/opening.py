"""From a path to an opened checkpoint: content, the model in it, its folded weights, its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trcompress.checkpoint.content import FileContent
from trcompress.checkpoint.dense import ASSUMED, Checkpoint
from trcompress.checkpoint.folding import fold_parametrizations
from trcompress.checkpoint.foreign import foreign_tensors, matching, without_ignored
from trcompress.checkpoint.kinds import KindRule, parse_kinds, told_nonlinearity
from trcompress.checkpoint.layouts import known_layouts
from trcompress.checkpoint.limits import DamageError, printable
from trcompress.checkpoint.names import parse_recurrent
from trcompress.checkpoint.npz_file import OBJECT_ARRAY
from trcompress.checkpoint.reading import read_content
from trcompress.checkpoint.recurrent import find_layers
from trcompress.checkpoint.statedicts import ModuleHint, survey
from trcompress.checkpoint.stored import AnyTensor, StoredTensor, UnreadableTensor
from trcompress.checkpoint.unwrap import Weights, unwrap
from trcompress.errors import InputFileError, UnsafeFileError, UsageError
from trcompress.model.kinds import KINDS
from trcompress.model.layer import Layer


def read_checkpoint(
    path: str | Path,
    *,
    kind: str | None = None,
    skip_objects: bool = False,
    ignore_unknown: Sequence[str] = (),
    drop: Sequence[str] = (),
    allow_nonfinite: Sequence[str] = (),
) -> Checkpoint:
    """Open any dense checkpoint without running anything of it, and find its recurrent layers.

    Reads `torch.save` files (zip and legacy, state dicts and whole modules), TorchScript archives, safetensors,
    `.npz` and pickles of arrays, told apart by content, and several files that are one checkpoint. State dicts are
    found at any depth; `module.`, `_orig_mod.` and the like are stripped; weight_norm is folded.

    Args:
        path: the file, an index of several, or a folder with one; never modified.
        kind: "lstm", "gru", "rnn" or "rnn_relu" where the file cannot tell, or `stack-glob=kind` pairs joined by
            commas.
        skip_objects: leave out objects of foreign classes beside the weights instead of refusing the file;
            calls stay refused.
        ignore_unknown: keys or globs of tensors in a layer's own module that take no part in its steps.
        drop: keys or globs of tensors to leave out.
        allow_nonfinite: keys or globs of tensors that may hold NaN or Inf.

    Raises:
        InputFileError: missing, truncated, not a checkpoint, already compressed, or without a recurrent layer.
        UnsafeFileError: its pickle holds more than weights; the blocked globals are named.
        UsageError: `kind` is unknown or names no stack; a key or glob matches no tensor.
    """
    rules = parse_kinds(kind)
    try:
        content = read_content(path, skip_objects=skip_objects)
        try:
            return _checkpoint(
                content, unwrap(survey(content.root)), rules, _Wishes(ignore_unknown, drop, allow_nonfinite)
            )
        except DamageError as error:
            raise InputFileError(f"cannot read {path}: {error}") from error
        except InputFileError as error:
            raise type(error)(f"{path}: {error}") from error
    except InputFileError as error:
        raise type(error)(printable(f"{error}{_beside(Path(path))}")) from error


def _beside(path: Path) -> str:
    """Name the file that holds the weights of an object saved in two files, as darts does (`model.pt.ckpt`)."""
    try:
        found = next((one for one in (Path(f"{path}.ckpt"), path.with_suffix(".ckpt")) if one.is_file()), None)
    except (OSError, ValueError):
        return ""
    return (
        ""
        if found is None or found == path
        else f"; beside it lies {found.name}: where that holds the weights, give it"
    )


_QUANTIZED = re.compile(r"_packed_(params|weight)|_all_weight_values|\b[ih]gates\b|weight_fake_quant")
_KERAS = re.compile(r"recurrent_kernel|kernel:0")


_FREE_BYTES = 200_000_000


class _Wishes(NamedTuple):
    """Keys and globs of a user who knows better."""

    ignore_unknown: Sequence[str]
    drop: Sequence[str]
    allow_nonfinite: Sequence[str]


def _checkpoint(
    content: FileContent,
    weights: Weights,
    rules: tuple[KindRule, ...],
    wishes: _Wishes,
) -> Checkpoint:
    _refuse_objects(weights.tensors)
    _check_expansion(weights.tensors)
    plain, parts, fold_notes = fold_parametrizations(weights.tensors)
    layouts = known_layouts(plain)
    folded, fold_notes = layouts.tensors, (*fold_notes, *layouts.notes)
    hints = dict(weights.hints) | {
        whole: weights.hints[part] for whole, part in parts.items() if part in weights.hints
    }
    dropped = matching("drop", wishes.drop, folded)
    kept = {key: tensor for key, tensor in folded.items() if key not in dropped}
    layers, layer_notes = find_layers(kept, hints, rules, layouts.projections)
    if not layers:
        raise InputFileError(_nothing_found(kept, (*content.notes, *weights.notes, *layer_notes)))
    _check_dropped(dropped, layers)
    shapes = {key: () if isinstance(one, UnreadableTensor) else one.shape for key, one in folded.items()}
    unknown, known_better = without_ignored(
        foreign_tensors(layers, shapes, weights.beside | layouts.understood), wishes.ignore_unknown, shapes
    )
    assumed = _unknown_nonlinearities(layers, hints, rules)
    told = (
        (f"taken to have no part in a layer's steps, as asked: {', '.join(known_better)}",) if known_better else ()
    )
    return Checkpoint(
        content.path,
        content.format,
        layers,
        {printable(name): printable(reason) for name, reason in weights.ignored.items()},
        tuple(map(printable, (*content.notes, *weights.notes, *fold_notes, *layer_notes, *assumed, *told))),
        dict(content.metadata),
        {key: tensor for key, tensor in kept.items() if not isinstance(tensor, UnreadableTensor)},
        {key: tensor.reason for key, tensor in kept.items() if isinstance(tensor, UnreadableTensor)},
        unknown,
        dropped,
        weights.beside.difference(dropped),
        known_better,
        matching("allow_nonfinite", wishes.allow_nonfinite, kept),
        content.files,
        {key: _place(key, weights, parts) for key in kept},
    )


def _place(key: str, weights: Weights, parts: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Where a tensor belongs in a file like this one: of a folded weight, where its parts were."""
    if key in weights.places or key not in parts:
        return weights.places.get(key, ((), key))
    dicts, name = weights.places[parts[key]]
    suffix = parts[key].removeprefix(key)
    return (dicts, name.removesuffix(suffix)) if parts[key] == key + suffix else (dicts, key)


def _check_dropped(dropped: Sequence[str], layers: Sequence[Layer]) -> None:
    """A layer goes as a whole or not at all.

    Raises:
        UsageError: part of a layer was to be dropped.
    """
    places = {(layer.stack, layer.index, layer.reverse) for layer in layers}
    for key in dropped:
        name = parse_recurrent(key)
        if name is not None and (name.stack, name.layer, name.reverse) in places:
            raise UsageError(
                f"only whole layers can be left out: {key!r} is part of the recurrent layer {name.stack!r}, whose "
                "other tensors would stay; give `drop` a glob for them all"
            )


def _check_expansion(tensors: Mapping[str, AnyTensor | UnreadableTensor]) -> None:
    """Count views by what they take when they are written: a file of a few bytes may show terabytes.

    Raises:
        DamageError: they take far more than what is stored.
    """
    views = {one.identity: one for one in tensors.values() if isinstance(one, StoredTensor)}
    stored = sum({id(one.storage): one.storage.nbytes for one in views.values()}.values())
    taken = sum(one.numel * one.dtype.itemsize for one in views.values())
    if taken > 4 * stored + _FREE_BYTES:
        raise DamageError(f"its tensors are views that take {taken:,} bytes of {stored:,} stored: no model's")


def _refuse_objects(tensors: Mapping[str, AnyTensor | UnreadableTensor]) -> None:
    """Arrays of Python objects are pickles: left alone beside recurrent weights, refused in their place."""
    recurrent = {key for key in tensors if parse_recurrent(key)}
    objects = {
        key for key, one in tensors.items() if isinstance(one, UnreadableTensor) and one.reason == OBJECT_ARRAY
    }
    if objects and (objects & recurrent or not recurrent):
        raise UnsafeFileError(
            f"refused as unsafe: {', '.join(sorted(objects)[:5])} hold Python objects, which only unpickling reads "
            "(nothing was run); where you trust the file, save plain arrays under torch key names: "
            "numpy.savez(path, **{key: tensor.numpy() for key, tensor in model.state_dict().items()})"
        )


def _unknown_nonlinearities(
    layers: tuple[Layer, ...], hints: Mapping[str, ModuleHint], rules: Sequence[KindRule]
) -> tuple[str, ...]:
    """Say where tanh is an assumption: the weights of an RNN do not tell it from relu."""
    unknown = {
        layer.stack
        for layer in layers
        if KINDS[layer.kind].nonlinearities
        and not told_nonlinearity(layer.stack, rules)
        and "nonlinearity" not in getattr(hints.get(layer.keys["weight_ih"]), "options", {})
    }
    return tuple(
        f"stack {stack!r}: {ASSUMED}; weights do not tell it from relu: `kind=rnn_relu` says so"
        for stack in sorted(unknown)
    )


def _nothing_found(tensors: Mapping[str, AnyTensor | UnreadableTensor], notes: tuple[str, ...]) -> str:
    readable = {key: one for key, one in tensors.items() if not isinstance(one, UnreadableTensor)}
    largest = sorted(readable, key=lambda key: -readable[key].numel)[:3]
    shown = ", ".join(f"{key or 'one without a name'} {readable[key].shape}" for key in largest)
    plural = "" if len(readable) == 1 else "s"
    held = f"{len(readable):,} tensor{plural}, the largest: {shown}" if readable else "no tensor at all"
    reasons = [f"{key} is {one.reason}" for key, one in tensors.items() if isinstance(one, UnreadableTensor)]
    more = "; ".join((*reasons[:3], *notes[:3]))
    return f"no recurrent layer: the file holds {held}{f' ({more})' if more else ''}; {_way_out(tensors)}"


def _way_out(tensors: Mapping[str, AnyTensor | UnreadableTensor]) -> str:
    """What to do about names that are not torch.nn's."""
    if any(_QUANTIZED.search(key) for key in tensors):
        return "its layers are those of quantized modules: save the model before quantizing"
    if any(_KERAS.search(key) for key in tensors):
        return "its names are those of Keras, whose matrices are transposed: save them turned, as rnn.weight_ih_l0"
    return "weights must be named as torch.nn names them, as in rnn.weight_ih_l0 or cell.weight_ih"
