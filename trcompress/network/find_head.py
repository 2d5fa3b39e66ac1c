"""Which stacks follow each other, and which matrix is the classifier's head: read off shapes and names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from trcompress.errors import InputFileError, UsageError, nearest
from trcompress.model.layer import Layer
from trcompress.network.model_file import ModelFile

MAX_FREE_ORDER = 7
"""No more stacks than this are tried in every order."""

EMBEDDING_NAME = re.compile(r"emb|lookup|wte|token", re.IGNORECASE)
"""How an embedding is called, where several matrices could be one."""

BIAS_NAMES = (("weight", "bias"), ("_w", "_b"), ("W", "b"), ("kernel", "bias"))


@dataclass(frozen=True)
class Head:
    """The classifier's last layer in a file.

    Args:
        weight: key of the (classes, features) matrix.
        bias: key of the (classes,) vector, or None.
        note: how it was found.
    """

    weight: str
    bias: str | None
    note: str


def input_size(layers: Sequence[Layer]) -> int:
    """Values per step that a stack takes."""
    return layers[0].input_size


def output_size(layers: Sequence[Layer]) -> int:
    """Values per step that a stack gives, both directions together."""
    top = [layer for layer in layers if layer.index == layers[-1].index]
    return sum(layer.proj_size or layer.hidden_size for layer in top)


def find_chain(file: ModelFile, names: Sequence[str] = ()) -> tuple[tuple[str, ...], str]:
    """Find the order in which stacks feed each other.

    Args:
        file: the model.
        names: the stacks to use, in order; empty: all of them.

    Returns:
        (stack names from input to output, how the order was found).

    Raises:
        UsageError: a name is unknown, or nothing tells the order.
        InputFileError: the stacks do not fit on one another.
    """
    if names:
        unknown = [name + nearest(name, list(file.stacks)) for name in names if name not in file.stacks]
        if unknown:
            raise UsageError(f"no such stack: {', '.join(unknown)}; the file has {_listing(file)}")
        if not _connects(file, names):
            raise UsageError(f"each stack must take what the one before gives: {_listing(file, names)}")
        return tuple(names), "stacks in the given order"
    natural = sorted(file.main_stacks, key=_natural)
    if len(natural) == 1:
        return tuple(natural), "the only recurrent stack"
    if _connects(file, natural):
        return tuple(natural), "stacks in the order of their names, in which the sizes fit"
    orders = [] if len(natural) > MAX_FREE_ORDER else list(_fitting(file, natural))
    if len(orders) == 1:
        return orders[0], "stacks in the only order in which the sizes fit"
    raise UsageError(
        f"the recurrent stacks do not form one chain that sizes and names tell: {_listing(file)}; "
        "name the ones of the classifier, in order, with `stacks=A,B`"
    )


def find_head(file: ModelFile, features: int, classes: int | None = None, key: str | None = None) -> Head:
    """Find the linear layer over the last hidden state.

    Args:
        file: the model.
        features: size of the last hidden state.
        classes: rows the head must have, where the data tells; a head that is named may have more, as the last of
            a vocabulary may not occur.
        key: the head's weight (or the module's name), if the user says.

    Raises:
        UsageError: several matrices could be the head, or the given one is not there or does not fit.
        InputFileError: nothing could be the head.
    """
    found = _candidates(file, features)
    if key is not None:
        return _named_head(file, found, key, features, classes)
    fitting = [one for one in found if classes is None or file.shapes[one][0] == classes]
    if not fitting:
        raise InputFileError(_no_head(file, found, features, classes))
    best = [one for one in fitting if bias_of(file, one)] or fitting
    best = [one for one in best if not EMBEDDING_NAME.search(one)] or best
    if any(set(best) <= set(group) for group in file.shared):
        best = best[-1:]  # tied: one matrix under several names
    if len(best) > 1:
        raise UsageError(
            f"several matrices could be the classifier's head over {features} features: "
            f"{_sized(file, best)}; name one with `head`"
        )
    bias = bias_of(file, best[0])
    rest = "" if len(fitting) == 1 else ", the only one with a bias" if bias else ", by the names of the others"
    return Head(best[0], bias, f"the matrix over the last {features} features{rest}")


def find_embedding(file: ModelFile, width: int) -> str | None:
    """Find the matrix in which tokens are looked up: as wide as the first stack takes, and no bias beside it.

    Where several are left, the name decides. A matrix tied to the head counts under its first name.

    Args:
        file: the model.
        width: values per step that the first stack takes.

    Returns:
        Its key, or None where there is none.

    Raises:
        UsageError: several, whose names do not tell.
    """
    aliases = {key for group in file.shared for key in group[1:]}
    recurrent = file.recurrent_keys
    found = [
        key
        for key, shape in file.shapes.items()
        if len(shape) == 2 and shape[1] == width and key not in recurrent and key not in aliases
    ]
    plain = [key for key in found if bias_of(file, key) is None] or found
    named = [key for key in plain if EMBEDDING_NAME.search(key)] or plain
    if len(named) > 1:
        raise UsageError(
            f"several matrices could be the embedding of the tokens: {_sized(file, named)}; "
            "give the network's code with `model=package.module:factory`"
        )
    return named[0] if named else None


def _named_head(file: ModelFile, found: list[str], key: str, features: int, classes: int | None) -> Head:
    weight = key if key in file.shapes else f"{key}.weight"
    if weight not in found:
        modules = [one.removesuffix(".weight") for one in found]
        missing = f"is not in the file{nearest(key, [*found, *modules])}"
        there = f"is {file.shapes[weight]}" if weight in file.shapes else missing
        raise UsageError(
            f"`head` must name a matrix over {features} features: {key!r} {there}; "
            f"candidates are {_sized(file, found) or 'none'}"
        )
    rows = file.shapes[weight][0]
    if classes is not None and rows < classes:
        raise UsageError(f"the head must have a row a class: {weight} has {rows} for data of {classes} classes")
    return Head(weight, bias_of(file, weight), "the given matrix")


def _candidates(file: ModelFile, features: int) -> list[str]:
    recurrent = file.recurrent_keys
    return [
        key
        for key, shape in file.shapes.items()
        if len(shape) == 2 and shape[1] == features and key not in recurrent
    ]


def bias_of(file: ModelFile, weight: str) -> str | None:
    """Name the vector that lies beside a matrix as its bias, if one does."""
    rows = file.shapes[weight][0]
    for end, bias_end in BIAS_NAMES:
        bias = weight.removesuffix(end) + bias_end
        if weight.endswith(end) and file.shapes.get(bias) == (rows,):
            return bias
    return None


def _no_head(file: ModelFile, found: list[str], features: int, classes: int | None) -> str:
    own = (
        "where the head is more than one linear layer, give the network's code with `model=package.module:factory`"
    )
    if found:
        return (
            f"the classifier's head must have one row a class: {_sized(file, found)} "
            f"for data of {classes} classes; use the data the model was made for; {own}"
        )
    return (
        f"no classifier head in {file.path}: no matrix outside the recurrent layers takes their {features} "
        f"outputs; {own}"
    )


def _fitting(file: ModelFile, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (order for order in permutations(names) if _connects(file, order))


def _connects(file: ModelFile, names: Sequence[str]) -> bool:
    stacks = [file.stacks[name] for name in names]
    return all(output_size(one) == input_size(after) for one, after in pairwise(stacks))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _listing(file: ModelFile, names: Sequence[str] | None = None) -> str:
    chosen = file.stacks if names is None else names
    return ", ".join(
        f"{name or '(root)'} {input_size(file.stacks[name]):,} -> {output_size(file.stacks[name]):,}"
        for name in chosen
    )


def _sized(file: ModelFile, keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {file.shapes[key][0]:,} x {file.shapes[key][1]:,}" for key in keys)
