"""The registries keep their promise: one file and one entry make a format, an algorithm or a storage type whole.

The toys below are all that their authors would write. Each goes through the same checks as those that ship.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import pytest
import small_task
import torch
from command import run
from conformance import check_algorithm, check_format, check_saved, check_storage
from torch import Tensor, nn

from trcompress.artifact.storage import STORAGE
from trcompress.decomposition.algorithms import ALGORITHMS, Found
from trcompress.decomposition.tr_svd import tr_svd
from trcompress.errors import ShapeError
from trcompress.formats import FORMATS

# ---- what ships


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_conforms(kind, tmp_path):
    check_format(kind)
    check_saved(kind, tmp_path)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_conforms(name):
    check_algorithm(name)


@pytest.mark.parametrize("name", STORAGE)
def test_every_storage_type_conforms(name, tmp_path):
    check_storage(name, tmp_path)


# ---- a toy format: W = sum over terms of L_n R_n, each of one rank


@dataclass(frozen=True)
class SumOfProducts:
    in_modes: tuple[int, ...]
    out_modes: tuple[int, ...]
    rank: int
    blocks: int
    kind: ClassVar[str] = "toy-sum"
    bottleneck: ClassVar[None] = None

    @classmethod
    def from_ranks(cls, in_modes, out_modes, ranks, blocks=1):
        if len(ranks) != 1:
            raise ShapeError(f"a {cls.kind} takes one rank: got {tuple(ranks)}")
        return cls(in_modes, out_modes, ranks[0], blocks)

    @property
    def ranks(self):
        return (self.rank,)

    @property
    def core_shapes(self):
        return (self.blocks, prod(self.in_modes), self.rank), (self.blocks, self.rank, prod(self.out_modes))

    @property
    def parameters(self):
        return sum(prod(shape) for shape in self.core_shapes)

    @property
    def bonds(self):
        return self.blocks, self.rank

    @property
    def multiply_adds(self):
        return self.parameters

    def to_dense(self, cores: Sequence[Tensor]) -> Tensor:
        return (cores[0] @ cores[1]).sum(0)

    def apply(self, cores: Sequence[Tensor], x: Tensor) -> Tensor:
        return ((x @ cores[0]) @ cores[1]).sum(0)

    def squared_norm(self, cores: Sequence[Tensor]) -> Tensor:
        return self.to_dense(cores).square().sum()

    def output_index(self, k):
        return None


RECIPE = """
name = "toy"
title = "A toy"
row = "none"
kind = "{kind}"
[data]
[data.array]
[model]
input_size = 12
hidden_size = 8
{more}
"""


@pytest.fixture
def toy_format(monkeypatch):
    monkeypatch.setitem(FORMATS, SumOfProducts.kind, SumOfProducts)


def test_a_toy_format_conforms(toy_format, tmp_path):
    check_format(SumOfProducts.kind)
    check_saved(SumOfProducts.kind, tmp_path)


def test_a_recipe_may_name_a_toy_format(toy_format, tmp_path):
    shape = 'structure = "toy-sum"\nshape = "4x3:4x2"\nranks = "2"'
    (tmp_path / "toy.toml").write_text(RECIPE.format(kind="classify", more=shape))
    done = run("recipe", "validate", tmp_path / "toy.toml")
    assert done.code == 0, done.stderr


def test_recipes_without_the_toy_name_what_there_is(tmp_path):
    shape = 'structure = "toy-sum"\nshape = "4x3:4x2"\nranks = "2"'
    (tmp_path / "toy.toml").write_text(RECIPE.format(kind="classify", more=shape))
    done = run("recipe", "validate", tmp_path / "toy.toml")
    assert done.code == 3
    assert "structure must be one of dense, tensor-ring, tensor-train, block-term: got 'toy-sum'" in done.stderr


# ---- a toy algorithm: the SVD's cores, shrunk


def shrunk(objective, settings, generator, warm_start, progress):
    cores, notes = tr_svd(objective)
    return Found([0.9 * core for core in cores], "shrunk svd", notes=notes)


@pytest.fixture
def toy_algorithm(monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "toy-shrunk", shrunk)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    torch.save(nn.LSTM(12, 8).state_dict(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_a_toy_algorithm_conforms(toy_algorithm):
    check_algorithm("toy-shrunk")


def test_the_command_line_offers_a_toy_algorithm(toy_algorithm, checkpoint, tmp_path):
    words = ("decompose", checkpoint, "--shape", "4x3:4x2", "--ranks", 2, "-o", tmp_path / "out.safetensors")
    assert "toy-shrunk]" in run("decompose", "--help").stdout
    assert run(*words, "--init", "toy-shrunk").code == 0
    assert "(did you mean 'toy-shrunk'?)" in run(*words, "--init", "toy-shrank").stderr
    assert (
        run("report", tmp_path / "out.safetensors", "--format", "json").json["weights"][0]["init"] == "toy-shrunk"
    )


@pytest.mark.parametrize(("init", "code"), [("toy-shrunk", 0), ("toy-absent", 3)])
def test_a_recipe_may_name_a_toy_algorithm(toy_algorithm, tmp_path, init, code):
    compress = f'[[compress]]\nshape = "4x3:4x2"\nranks = "2"\ninit = "{init}"'
    (tmp_path / "toy.toml").write_text(RECIPE.format(kind="pipeline", more="") + compress)
    done = run("recipe", "validate", tmp_path / "toy.toml")
    assert done.code == code, done.stderr


# ---- a toy storage type: signs and one scale, five values a step apart


@dataclass(frozen=True)
class Sixths:
    kind: ClassVar[str] = "toy-sixths"

    def layout(self, shape):
        return {"toy": (torch.int16, shape)}

    def encode(self, tensor, step=None):
        return {"toy": (tensor.detach().double() * 6).round().to(torch.int16)}

    def decode(self, parts, shape, dtype):
        return (parts["toy"].double() / 6).to(dtype).reshape(shape)


@pytest.fixture
def toy_storage(monkeypatch):
    monkeypatch.setitem(STORAGE, Sixths.kind, Sixths())


def test_a_toy_storage_type_conforms(toy_storage, tmp_path):
    check_storage(Sixths.kind, tmp_path)


def test_the_command_line_offers_a_toy_storage_type(toy_storage, tmp_path):
    files = small_task.write_files(tmp_path)
    words = ("compress", files["dense"], "--calibrate", files["data"], "--target-size", "5400")
    words += ("--passes", "rounding", "-o", tmp_path / "out.safetensors")
    assert "toy-sixths]" in run("compress", "--help").stdout.replace("\n", "").replace(" ", "")
    done = run(*words, "--storage", Sixths.kind, "--format", "json")
    assert done.code == 0, done.stderr
    levels = {one["level"] for one in done.json["tensors"]}
    assert Sixths.kind in levels
    assert levels <= {Sixths.kind, "as it is"}
    assert run("report", tmp_path / "out.safetensors").code == 0
    assert "(did you mean 'toy-sixths'?)" in run(*words, "--storage", "toy-sixth").stderr
