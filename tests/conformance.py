"""What every format, algorithm and storage type must do: run over the registries, and over toys."""

from math import prod

import torch
from torch import nn

from trcompress import load, read_artifact, save
from trcompress.artifact.storage import STORAGE, Stored, stored_in
from trcompress.decomposition import InMemoryMatrix, decompose
from trcompress.formats import FORMATS, TensorRing
from trcompress.layers import TRGRU, to_dense_module
from trcompress.model.header import Header, Weight, parse_header
from trcompress.model.layer import Layer
from trcompress.model.matrix import Matrix
from trcompress.model.plan import Plan, Rule

SHAPE = ((4, 3), (3, 2))
"""Modes that every format takes: as many inputs as outputs."""


def cores_of(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def check_format(kind):
    """A format means one matrix: in its counts, products, norms, headers, plans, layers and files."""
    structure = FORMATS[kind].from_ranks(*SHAPE, (2,), 2)
    check_structure(structure)
    for gates, padded in (("fused", 0), ("per-gate", 0), ("fused", 1), ("per-gate", 1)):
        matrix = Matrix.input_to_hidden("weight_ih_l0", "gru", 12 - padded, 6 - padded)
        check_weight(Rule.parse(SHAPE, 2, gates=gates, format=kind).resolve(matrix))


def check_structure(structure):
    cores = cores_of(structure.core_shapes)
    dense = structure.to_dense(cores)
    assert dense.shape == (prod(structure.in_modes), prod(structure.out_modes))
    assert structure.parameters == sum(core.numel() for core in cores)
    x = torch.randn(5, dense.shape[0], dtype=torch.float64)
    torch.testing.assert_close(structure.apply(cores, x), x @ dense, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(structure.squared_norm(cores), dense.square().sum(), rtol=1e-10, atol=0)
    assert structure.multiply_adds > 0
    again = FORMATS[structure.kind].from_ranks(
        structure.in_modes, structure.out_modes, structure.ranks, structure.blocks
    )
    assert again == structure
    many = [cores_of(structure.core_shapes, seed) for seed in range(400)]
    variance = torch.stack([structure.to_dense(one).square().mean() for one in many]).mean()
    assert 0.5 < float(variance) / prod(structure.bonds) < 2
    check_output_indices(structure, cores)


def check_output_indices(structure, cores):
    """Zeroing one digit of an output mode in the cores that hold it zeroes these outputs of W."""
    for k, core in enumerate(cores):
        held = structure.output_index(k)
        if held is not None:
            mode, shape, axis = held
            view = core.clone().reshape(shape)
            view.select(axis, 0).zero_()
            dense = structure.to_dense([*cores[:k], view.reshape(core.shape), *cores[k + 1 :]])
            outputs = torch.arange(prod(structure.out_modes)).reshape(structure.out_modes).select(mode, 0)
            assert not dense[:, outputs.flatten()].any()
            assert dense.any()


def check_weight(plan):
    """Gates and padding around the structure, the header's fields, and a layer trained through them."""
    matrix = plan.matrix
    cores = cores_of(plan.core_shapes)
    dense = plan.to_dense(cores)
    assert dense.shape == (matrix.rows, matrix.columns)
    x = torch.randn(2, 3, matrix.columns, dtype=torch.float64)
    torch.testing.assert_close(plan.apply(cores, x), x @ dense.T, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(plan.mean_square(cores), dense.square().mean(), rtol=1e-10, atol=0)
    assert plan.parameters == sum(core.numel() for core in cores)
    resolved = Rule.of(plan).resolve(matrix)
    assert resolved == plan
    check_header(plan)
    check_layer(plan)


def check_header(plan):
    matrix = plan.matrix
    layer = Layer("", "gru", 0, False, matrix.columns, matrix.gate_rows, keys={"weight_ih": matrix.key})
    weight = Weight.of(plan, init="unknown", dtype="float64")
    header = parse_header(Header(layers=(layer,), weights=(weight,)).to_json())
    assert header.weight_plans() == {matrix.key: plan}


def check_layer(plan):
    """Outputs and gradients are those of the dense layer; the drawn weight has the variance asked for."""
    torch.manual_seed(0)
    layer = TRGRU(plan.matrix.columns, plan.matrix.gate_rows, weights={"weight_ih_l0": plan}, dtype=torch.float64)
    bound = 1 / (3 * plan.matrix.gate_rows)
    assert abs(float(layer.weight_ih_l0.to_dense().square().mean()) / bound - 1) < 1e-6
    dense = to_dense_module(layer)
    x = torch.randn(4, 2, plan.matrix.columns, dtype=torch.float64, requires_grad=True)
    mine, theirs = layer(x)[0], dense(x)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    (mine_x, *mine_cores) = torch.autograd.grad(mine.square().sum(), [x, *layer.weight_ih_l0.core])
    (theirs_x, theirs_weight) = torch.autograd.grad(theirs.square().sum(), [x, dense.weight_ih_l0])
    torch.testing.assert_close(mine_x, theirs_x, rtol=1e-9, atol=1e-10)
    through = torch.autograd.grad(layer.weight_ih_l0.to_dense(), list(layer.weight_ih_l0.core), theirs_weight)
    for mine_core, core in zip(mine_cores, through, strict=True):
        torch.testing.assert_close(mine_core, core, rtol=1e-9, atol=1e-10)


def check_saved(kind, folder):
    """A layer of this format goes to a file and comes back as it was."""
    layer = TRGRU(12, 6, plan=Plan((Rule.parse(SHAPE, 2, format=kind),)))
    path = save(layer, folder / f"{kind}.safetensors", overwrite=True)
    back = load(path)[""]
    x = torch.randn(3, 2, 12)
    assert torch.equal(back(x)[0], layer.eval()(x)[0])


def check_algorithm(name):
    """Cores of the ring asked for, whose error is the one told and no lower than the bound, the same each time."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(18, 12, generator=generator)
    for ring in (TensorRing((4, 3), (6, 3), (2, 3, 2, 2, 2)), TensorRing((5, 3), (6, 3), (1, 2, 4, 2, 1))):
        found = decompose(weight, ring, init=name, seed=3)
        assert [tuple(core.shape) for core in found.cores] == list(ring.core_shapes)
        assert found.init == name
        rebuilt = ring.to_dense(found.cores)[:12, :18].T
        padding = ring.to_dense(found.cores)[12:].square().sum()
        error = float(((weight.double() - rebuilt).square().sum() + padding).sqrt() / weight.norm())
        assert abs(found.error - error) < 1e-6
        assert found.bound <= found.error + 1e-9
        again = decompose(InMemoryMatrix(weight), ring, init=name, seed=3)
        assert all(torch.equal(one, other) for one, other in zip(found.cores, again.cores, strict=True))


def check_storage(name, folder):
    """What is stored fits its layout, gives nearly the values back, and the same bits from a file."""
    for shape in ((6, 8), (1, 5, 3), (7,), (4, 3, 2)):
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        stored = Stored.of(tensor, name)
        layout = STORAGE[name].layout(shape)
        assert {suffix: (part.dtype, tuple(part.shape)) for suffix, part in stored.parts.items()} == layout
        back = stored.expand()
        assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
        assert float((back - tensor).norm() / tensor.norm()) < 0.2
        assert torch.equal(stored_in("k", name, "float32", shape, stored.named("k")).expand(), back)
    model = nn.Sequential(TRGRU(12, 6, shape=SHAPE, ranks=2))
    path = save(model, folder / "plain.safetensors", overwrite=True)
    artifact = read_artifact(path)
    stored = {key: Stored.of(tensor, name) for key, tensor in artifact.tensors.items()}
    path = save(model, folder / f"{name}.safetensors", overwrite=True, stored=stored)
    kept = read_artifact(path)
    for key, one in stored.items():
        assert torch.equal(kept.tensors[key], one.expand())
