"""Integers kept in memory: the same outputs from a fraction of the bytes, in modules that live as others do."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import trcompress
from trcompress import Plan, compress_, load, load_, read_artifact, save
from trcompress.artifact.quantized import QuantizedTensor, dequantized
from trcompress.artifact.storage import Stored
from trcompress.artifact.write import write_artifact


class Speller(nn.Module):
    """An embedding tied to the head, around one stack or cell."""

    def __init__(self, kind: str, **options: object) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 24, padding_idx=0)
        self.rnn = getattr(nn, kind)(24, 24, **options)
        self.head = nn.Linear(24 * (1 + bool(options.get("bidirectional"))), 30)
        if self.head.weight.shape == self.embedding.weight.shape:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.rnn(self.embedding(tokens))
        return self.head(found[0] if isinstance(found, tuple) else found)


CASES: Sequence[tuple[str, dict[str, object]]] = (
    ("LSTM", {"batch_first": True}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "bias": False}),
    ("GRU", {"num_layers": 2, "batch_first": True}),
    ("RNN", {"nonlinearity": "relu"}),
    ("LSTMCell", {}),
    ("GRUCell", {"bias": False}),
)


@pytest.fixture(params=[(*case, kind, ring) for case in CASES for kind, ring in (("int8", False), ("int4", True))])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Speller, torch.Tensor]:
    """A file with every matrix in integers, a dense model of its class, and inputs."""
    kind, options, storage, ring = request.param
    torch.manual_seed(0)
    model = Speller(kind, **options).eval()
    if ring:
        compress_(model, Plan.of("4x6:4x6", 3), init="tr-svd")
    plain = save(model, tmp_path / "plain.safetensors", passes=(), found=None) if ring else None
    artifact = read_artifact(plain) if plain else trcompress.artifact.save.to_artifact(model)
    stored = {key: Stored.of(one, storage) for key, one in artifact.tensors.items() if one.dim() > 1}
    for group in artifact.header.shared:
        stored = {key: one for key, one in stored.items() if key not in group[1:]}
    artifact = replace(artifact, stored=stored, path=None)
    artifact.tensors |= {key: one.expand() for key, one in stored.items()}
    for group in artifact.header.shared:
        artifact.tensors |= dict.fromkeys(group[1:], artifact.tensors[group[0]])
    shape = (5,) if kind.endswith("Cell") else (5, 4)
    return (
        write_artifact(tmp_path / "few.safetensors", artifact),
        Speller(kind, **options).eval(),
        torch.randint(30, shape),
    )


def nbytes(model: nn.Module) -> int:
    return sum(one.nbytes for one in {id(one): one for one in (*model.parameters(), *model.buffers())}.values())


def test_outputs_are_equal_and_memory_is_that_of_the_file(saved: tuple[Path, Speller, torch.Tensor]) -> None:
    path, model, tokens = saved
    expanded, kept = (load_(path, deepcopy(model), quantized=one) for one in (False, True))
    torch.testing.assert_close(kept(tokens), expanded(tokens), rtol=1e-6, atol=1e-6)
    artifact = read_artifact(path)
    assert nbytes(kept) == artifact.tensor_bytes  # tied tensors once
    assert nbytes(kept) < 0.4 * nbytes(expanded)
    assert not any(one.dim() > 1 for one in kept.parameters())
    stacks = [load(path, quantized=one)["rnn"] for one in (False, True)]
    x = torch.randn(*tokens.shape, 24)
    for one, other in zip(flat(stacks[0](x)), flat(stacks[1](x)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def flat(found: object) -> list[torch.Tensor]:
    return [found] if isinstance(found, torch.Tensor) else [one for part in found for one in flat(part)]  # type: ignore[attr-defined]


def test_a_quantized_model_lives_as_modules_do(saved: tuple[Path, Speller, torch.Tensor], tmp_path: Path) -> None:
    path, model, tokens = saved
    kept = load_(path, model, quantized=True)
    wanted = kept(tokens)
    assert torch.equal(deepcopy(kept)(tokens), wanted)
    torch.save(kept, tmp_path / "kept.pt")
    assert torch.equal(torch.load(tmp_path / "kept.pt", weights_only=False)(tokens), wanted)
    other = load_(path, deepcopy(dequantized(kept)), quantized=True)
    other.load_state_dict({key: torch.zeros_like(one) for key, one in kept.state_dict().items()})
    other.load_state_dict(kept.state_dict())
    assert torch.equal(other(tokens), wanted)
    again = read_artifact(save(kept, tmp_path / "again.safetensors"))
    before = read_artifact(path)
    assert again.tensors.keys() == before.tensors.keys()
    assert all(torch.equal(one, before.tensors[key]) for key, one in again.tensors.items())
    assert {key: one.kind for key, one in again.stored.items()} == {k: one.kind for k, one in before.stored.items()}
    plain = trcompress.to_plain(kept)
    torch.testing.assert_close(plain(tokens), wanted, rtol=1e-5, atol=1e-5)
    assert not any(isinstance(one, QuantizedTensor) for one in plain.modules())
    wide = deepcopy(kept).double()
    torch.testing.assert_close(wide(tokens), wanted.double(), rtol=1e-4, atol=1e-4)
    assert {one.kind for one in wide.modules() if isinstance(one, QuantizedTensor)} <= {"int8", "int4"}
    assert wide.to("meta") is wide


def test_integers_stay_where_gradients_do_not_reach(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Speller("LSTM")
    artifact = trcompress.artifact.save.to_artifact(model)
    artifact.stored = {"rnn.weight_hh_l0": Stored.of(model.rnn.weight_hh_l0, "int8")}
    path = write_artifact(tmp_path / "few.safetensors", artifact)
    kept = load_(path, Speller("LSTM"), quantized=True).train()
    kept(torch.randint(30, (5, 4))).sum().backward()
    names = {name for name, one in kept.named_parameters() if one.grad is not None}
    assert "rnn.weight_ih_l0" in names
    assert not any("weight_hh" in name for name in names)
