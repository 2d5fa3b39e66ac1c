"""KINDS is the one table of what kinds of recurrent layers differ in: whatever asks, asks it."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from file_networks import first_batch, network_of, save_network
from torch import nn

from trcompress import Plan, compress_
from trcompress.layers import RING_OF, from_dense, is_plain_stack, module_matrices, recurrent_kind
from trcompress.model.kinds import KINDS, MODES

LIBRARY = Path(__file__).resolve().parent.parent / "trcompress"
SPELLED = {name for kind in KINDS.values() for name in (kind.name, kind.module, kind.cell, *kind.modes)}


def variants(kind):
    """Every torch.nn module of a kind, with each nonlinearity."""
    for name in (kind.module, kind.cell):
        for nonlinearity in kind.nonlinearities or (None,):
            options = {"nonlinearity": nonlinearity} if nonlinearity else {}
            yield getattr(nn, name)(12, 8, **options)


def ring(module):
    plans = Plan.of("4x3:4x2", "2").resolve(module_matrices(module))
    return from_dense(module, {plan.name: plan for plan in plans})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_modules_and_the_rings_for_them_are_of_their_kind(kind):
    for module in variants(kind):
        made = ring(module)
        assert recurrent_kind(module) is recurrent_kind(made) is kind
        assert made.mode in kind.modes
        assert kind.modes[made.mode] == getattr(module, "nonlinearity", "tanh")
        assert is_plain_stack(module) is isinstance(module, nn.RNNBase)
        assert not is_plain_stack(made)


def test_the_table_names_every_recurrent_module_that_rings_stand_for():
    assert {getattr(nn, name) for kind in KINDS.values() for name in (kind.module, kind.cell)} == set(RING_OF)
    assert {mode for kind in KINDS.values() for mode in kind.modes} == set(MODES)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_table_agrees_with_torch(kind):
    module = getattr(nn, kind.module)(3, 5)
    assert module.weight_ih_l0.shape == (kind.gates * 5, 3)
    states = module(torch.randn(2, 1, 3))[1]
    assert (len(states) if isinstance(states, tuple) else 1) == kind.states
    assert kind.gate_order.count(",") + 1 == kind.gates == len(kind.onnx_order)
    assert sorted(kind.onnx_order) == list(range(kind.gates))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_only_the_joined_biases_can_change_places(kind):
    torch.manual_seed(0)
    cell, x, hidden = getattr(nn, kind.cell)(3, 5).double(), torch.randn(4, 3).double(), torch.randn(4, 5).double()
    state = (hidden, hidden) if kind.states == 2 else hidden
    wanted = cell(x, state)
    for gate in range(kind.gates):
        rows = slice(gate * 5, (gate + 1) * 5)
        with torch.no_grad():
            cell.bias_ih[rows] += 1
            cell.bias_hh[rows] -= 1
        moved = cell(x, state)
        same = all(torch.allclose(*pair) for pair in zip(moved, wanted, strict=True))
        assert same is (gate < kind.joined_biases)


def test_nothing_else_spells_a_kind_to_ask_for_it():
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                spelled = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)} & SPELLED
                assert not spelled, f"{path.relative_to(LIBRARY)}:{node.lineno} compares with {spelled}; ask KINDS"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_ring_decoder_starts_where_its_encoder_ends(kind, tmp_path):
    """The state that a stack is given has as many parts as its kind has, whatever its weights are made of."""
    torch.manual_seed(0)
    make, random = getattr(nn, kind.module), np.random.default_rng(0)
    checkpoint = save_network(tmp_path / "m.safetensors", enc=make(12, 8), dec=make(12, 8), out=nn.Linear(8, 7))
    arrays = {
        "x_enc": random.standard_normal((4, 6, 12), dtype=np.float32),
        "x_dec": random.standard_normal((4, 3, 12), dtype=np.float32),
        "state_dec": np.array("enc"),
    }
    network, data = network_of(checkpoint, arrays, tmp_path)
    (wanted,) = network(first_batch(data, 4))
    compress_(network, plan=Plan.of("12:8x4" if kind.gates == 4 else "12:8", "full"))
    (found,) = network(first_batch(data, 4))
    assert torch.allclose(found, wanted, atol=1e-4)
