"""A classifier found in a file: recurrent stacks, one feeding the next, and a linear head.

Dense checkpoints become torch.nn modules, artifacts become ring modules; the names in the module's state are the
keys in the file wherever PyTorch allows it, and `Classifier.keys` holds the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from trcompress.errors import InputFileError
from trcompress.layers.adopt import parameter_places, tie_
from trcompress.model.layer import Layer
from trcompress.network.classifier import Chain, Classifier, Wiring
from trcompress.network.find_head import find_chain, find_embedding, find_head, input_size, output_size
from trcompress.network.model_file import ModelFile, open_model
from trcompress.network.user_model import build_user_model


def read_classifier(
    path: str | Path | ModelFile,
    wiring: Wiring | None = None,
    *,
    classes: int | None = None,
    dropout: float = 0.0,
    tokens: bool = False,
) -> Classifier:
    """Find and build the classifier in an artifact or a dense checkpoint, in float32.

    Args:
        path: the file.
        wiring: which stacks, which head, what the head sees.
        classes: rows the head must have, where the data tells.
        dropout: of what enters the head, and between layers and stacks.
        tokens: the network is fed tokens, which its embedding turns into what the first stack takes.

    Raises:
        InputFileError: the file is damaged, a layer's own module holds what its kind cannot use, or nothing in it
            could be the head.
        UsageError: the order of the stacks or the head is ambiguous, or `wiring` does not fit the file.
    """
    wiring = wiring or Wiring()
    file = path if isinstance(path, ModelFile) else open_model(path, **wiring.reading)
    if wiring.model is not None:
        return build_user_model(file, wiring)
    file.refuse_unknown()
    order, how = find_chain(file, wiring.stacks)
    head = find_head(file, output_size(file.stacks[order[-1]]), classes, wiring.head)
    notes = file.notes + _describe(file, order, how, f"{head.weight}: {head.note}", wiring.readout)
    linear = _load_head(file, head.weight, head.bias)
    built = {
        name: file.build_stack(name, dropout=dropout if file.stacks[name][-1].index else 0.0) for name in order
    }
    recurrent = {name: module for name, (module, _) in built.items()}
    width = input_size(file.stacks[order[0]])
    embedding = _embedding(file, width) if tokens else None
    chain = Chain(
        recurrent,
        linear,
        head.weight.rpartition(".")[0] or "head",
        dropout=dropout,
        readout=wiring.readout,
        embedding=None if embedding is None else (embedding[0].rpartition(".")[0] or "embedding", embedding[1]),
    )
    ends: list[tuple[nn.Module, Mapping[str, str | None]]] = [(linear, {"weight": head.weight, "bias": head.bias})]
    if embedding is not None:
        ends.append((embedding[1], {"weight": embedding[0]}))
        notes = (*notes, f"tokens are looked up in {embedding[0]}")
    head_keys = _keys(chain, ends)
    keys = _keys(chain, built.values()) | head_keys
    _tie(chain, keys, file)
    return Classifier(
        module=chain,
        keys=keys,
        recurrent=recurrent,
        head=tuple(head_keys),
        input_size=width,
        classes=linear.out_features,
        notes=(*notes, *_unused(file, keys)),
        vocabulary=None if embedding is None else embedding[1].num_embeddings,
    )


def _keys(chain: Chain, parts: Iterable[tuple[nn.Module, Mapping[str, str | None]]]) -> dict[str, str]:
    """Keys in the file by names in the chain, of modules with the keys of their own names."""
    return {f"{chain.path_of(module)}.{local}": key for module, keys in parts for local, key in keys.items() if key}


def _embedding(file: ModelFile, width: int) -> tuple[str, nn.Embedding] | None:
    """The embedding in front of the first stack; None where single integers are its numbers."""
    key = find_embedding(file, width)
    if key is None and width == 1:
        return None
    if key is None:
        raise InputFileError(
            f"x holds tokens (rows, steps), but {file.path} has no embedding of width {width}: save x as numbers "
            f"(rows, steps, {width}), or give the network's code with `model=package.module:factory`"
        )
    rows, columns = file.shapes[key]
    found = nn.utils.skip_init(nn.Embedding, rows, columns)
    with torch.no_grad():
        found.weight.copy_(file.tensor(key))
    return key, found


def _tie(chain: nn.Module, keys: Mapping[str, str], file: ModelFile) -> None:
    """Make one parameter of what is one tensor in the file, so that it is trained as one."""
    groups = [[name for name, key in keys.items() if key in group] for group in file.shared]
    tie_(dict(parameter_places(chain)), groups)


def _load_head(file: ModelFile, weight: str, bias: str | None) -> nn.Linear:
    rows, columns = file.shapes[weight]
    linear = nn.utils.skip_init(nn.Linear, columns, rows, bias=bias is not None)  # draws no random numbers
    with torch.no_grad():
        linear.weight.copy_(file.tensor(weight))
        if bias is not None:
            linear.bias.copy_(file.tensor(bias))
    return linear


def _describe(file: ModelFile, order: Sequence[str], how: str, head: str, readout: str) -> tuple[str, ...]:
    stacks = " -> ".join(f"{name or '(root)'} ({_sizes(file.stacks[name])})" for name in order)
    output = "every output" if readout == "every" else f"the {readout} output"
    return (f"classifier: {stacks}; {how}", f"head: {head}; reads {output}")


def _sizes(layers: Sequence[Layer]) -> str:
    first = layers[0]
    words = [first.kind, f"{first.input_size:,} -> {first.hidden_size:,}"]
    if layers[-1].index:
        words.append(f"x {layers[-1].index + 1} layers")
    if any(layer.reverse for layer in layers):
        words.append("bidirectional")
    return " ".join(words)


def _unused(file: ModelFile, keys: Mapping[str, str]) -> tuple[str, ...]:
    rest = sorted(set(file.shapes) - set(keys.values()))
    if not rest:
        return ()
    more = f" and {len(rest) - 6} more" if len(rest) > 6 else ""
    return (f"not part of the classifier, kept as they are: {', '.join(rest[:6])}{more}",)
