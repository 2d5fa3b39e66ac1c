"""The embedding that turns tokens into what a stack is fed: found by shape, bias and name."""

from __future__ import annotations

from itertools import takewhile

from trcompress.errors import InputFileError, nearest
from trcompress.network.find_head import EMBEDDING_NAME, bias_of, input_size
from trcompress.network.model_file import ModelFile


def find_embedding(file: ModelFile, stack: str, highest: int, key: str | None = None) -> str:
    """Find the matrix whose rows a stack is fed.

    It has as many columns as the stack takes, a row for every token, and no bias beside it; where several are
    left, the name decides.

    Args:
        file: the network.
        stack: what is fed.
        highest: the highest token.
        key: its name, if the user says.

    Raises:
        InputFileError: there is none, or several whose names do not tell.
    """
    width = input_size(file.stacks[stack])
    recurrent = file.recurrent_keys
    found = [
        name
        for name, shape in file.shapes.items()
        if len(shape) == 2 and shape[0] > highest and shape[1] == width and name not in recurrent
    ]
    if key is not None:
        if key not in found:
            shape = f"is {file.shapes[key]}" if key in file.shapes else f"is not there{nearest(key, found)}"
            raise InputFileError(
                f"the embedding of {stack} must have over {highest} rows of {width}: {key!r} {shape}"
            )
        return key
    plain = [name for name in found if bias_of(file, name) is None] or found
    if not plain:
        raise InputFileError(
            f"tokens up to {highest} need an embedding ({highest + 1} or more, {width}), and {file.path} has none; "
            f"give the vectors themselves, (N, T, {width})"
        )
    nearness = {name: _shared_start(name, stack) for name in plain}
    best = [name for name in plain if nearness[name] == max(nearness.values())]
    best = [name for name in best if EMBEDDING_NAME.search(name)] or best
    if any(set(best) <= set(group) for group in file.shared):
        best = best[:1]  # tied: one matrix under several names
    if len(best) > 1:
        raise InputFileError(
            f"several matrices could be the embedding of {stack or 'the network'}: {', '.join(best)}; add the text "
            f"array embedding_{stack} with the name of one"
        )
    return best[0]


def _shared_start(one: str, other: str) -> int:
    """How many letters two names begin with in common."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
