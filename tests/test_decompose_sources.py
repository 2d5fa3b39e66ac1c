"""W in memory, in a file, padded: the same products whatever the blocks."""

import os

import pytest
import torch
from safetensors.torch import save_file

from trcompress.decomposition import FileMatrix, InMemoryMatrix, decompose
from trcompress.decomposition import source as source_module
from trcompress.decomposition.source import PaddedMatrix
from trcompress.errors import InputFileError, ShapeError
from trcompress.formats import TensorRing
from trcompress.util.memory import peak_extra_bytes


def _raw_file(path, weight, offset=24):
    raw = weight.contiguous().view(torch.uint8).numpy().tobytes()
    path.write_bytes(b"x" * offset + raw)
    return path, offset, tuple(weight.shape), weight.dtype


def _weight(outputs=18, inputs=30, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=["memory", "file", "tiny blocks", "padded"])
def pair(request, tmp_path, monkeypatch):
    """A source and the dense float64 W it stands for."""
    weight = _weight()
    dense = weight.double().t()
    if request.param == "memory":
        return InMemoryMatrix(weight), dense
    if request.param == "file":
        return FileMatrix(*_raw_file(tmp_path / "w", weight)), dense
    if request.param == "tiny blocks":
        monkeypatch.setattr(source_module, "BLOCK_VALUES", 40)
        return FileMatrix(*_raw_file(tmp_path / "w", weight), read_bytes=18 * 4 * 7), dense
    monkeypatch.setattr(source_module, "BLOCK_VALUES", 90)
    return PaddedMatrix(InMemoryMatrix(weight), (36, 20)), torch.nn.functional.pad(dense, (0, 2, 0, 6))


def test_products_norms_and_gram_are_those_of_the_dense_matrix(pair):
    source, dense = pair
    right, left = torch.randn(dense.shape[1], 3).double(), torch.randn(dense.shape[0], 3).double()
    assert source.shape == tuple(dense.shape)
    torch.testing.assert_close(source.dense(), dense)
    torch.testing.assert_close(source.times(right), dense @ right)
    torch.testing.assert_close(source.transpose_times(left), dense.t() @ left)
    torch.testing.assert_close(source.column_squares, dense.square().sum(0))
    smaller = dense.t() @ dense if dense.shape[0] >= dense.shape[1] else dense @ dense.t()
    torch.testing.assert_close(source.gram, smaller)


@pytest.mark.parametrize("multiple", [1, 5, 6, 30])
def test_blocks_come_in_the_multiples_asked_for(tmp_path, multiple):
    weight = _weight()
    source = FileMatrix(*_raw_file(tmp_path / "w", weight), read_bytes=18 * 4 * 7)
    seen = []
    for first, block in source.blocks(multiple):
        assert len(block) % multiple == 0
        seen.append((first, block.clone()))
    assert [first for first, _ in seen] == sorted(first for first, _ in seen)
    torch.testing.assert_close(torch.cat([block for _, block in seen]), weight.t())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_floating_dtype_is_read(tmp_path, dtype):
    weight = _weight().to(dtype)
    source = FileMatrix(*_raw_file(tmp_path / "w", weight))
    torch.testing.assert_close(source.dense(), weight.double().t())


def test_the_gates_of_a_file_can_be_split(tmp_path):
    weight = _weight()
    parts = FileMatrix(*_raw_file(tmp_path / "w", weight)).split(3)
    for part, expected in zip(parts, weight.chunk(3), strict=True):
        torch.testing.assert_close(part.dense(), expected.double().t())


def test_decomposing_from_a_file_equals_decomposing_in_memory(tmp_path, monkeypatch):
    weight = _weight(16, 36)
    ring = TensorRing((6, 6), (4, 4), (2, 3, 2, 3, 2))
    in_memory = decompose(weight, ring)
    save_file({"a": torch.zeros(3), "w": weight}, tmp_path / "w.safetensors")
    size = (tmp_path / "w.safetensors").stat().st_size
    monkeypatch.setattr(source_module, "BLOCK_VALUES", 16 * 5)
    streamed = FileMatrix(
        tmp_path / "w.safetensors", size - weight.numel() * 4, (16, 36), torch.float32, read_bytes=16 * 4 * 7
    )
    found = decompose(streamed, ring)
    assert found.error == pytest.approx(in_memory.error, rel=1e-9)
    assert found.bound == pytest.approx(in_memory.bound, rel=1e-6)
    for mine, theirs in zip(found.cores, in_memory.cores, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_a_truncated_or_missing_file_is_named(tmp_path):
    path, offset, shape, dtype = _raw_file(tmp_path / "w", _weight())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputFileError, match="truncated: 2,184 bytes expected, 2,183 found"):
        FileMatrix(path, offset, shape, dtype)
    with pytest.raises(InputFileError, match="cannot read"):
        FileMatrix(tmp_path / "none", offset, shape, dtype)


def test_modes_smaller_than_w_are_refused():
    with pytest.raises(ShapeError, match="modes must multiply to at least the sizes of W"):
        PaddedMatrix(InMemoryMatrix(_weight()), (29, 18))


def test_only_floating_matrices_are_taken():
    with pytest.raises(ShapeError, match="floating point matrix"):
        InMemoryMatrix(torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(ShapeError, match="floating point matrix"):
        InMemoryMatrix(torch.ones(3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    weight = _weight()
    weight[4, 7] = value
    with pytest.raises(InputFileError, match=r"1 of its 18 output rows hold NaN or Inf"):
        decompose(weight, TensorRing((30,), (18,), (1, 2, 1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_products_are_computed_where_they_are_asked_for():
    weight = _weight(16, 36)
    ring = TensorRing((6, 6), (4, 4), (2, 3, 2, 3, 2))
    found = decompose(weight, ring, device="cuda")
    assert found.cores[0].device.type == "cuda"
    assert found.error == pytest.approx(decompose(weight, ring).error, rel=1e-2)


def test_a_large_file_is_read_in_small_pieces_and_never_held_whole(tmp_path, monkeypatch):
    inputs, outputs, read_bytes = 4**8, 256, 1 << 20
    path = tmp_path / "w"
    with path.open("wb") as stream:
        generator = torch.Generator().manual_seed(0)
        for _ in range(outputs):
            stream.write(torch.randn(inputs, generator=generator).numpy().tobytes())
    whole_bytes = path.stat().st_size
    reads, preadv = [], os.preadv

    def counted(descriptor, buffers, offset):
        reads.append(sum(len(buffer) for buffer in buffers))
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(source_module, "BLOCK_VALUES", 1 << 18)
    source = FileMatrix(path, 0, (outputs, inputs), torch.float32, read_bytes=read_bytes)
    ring = TensorRing((256, 256), (16, 16), (2,) * 5)
    small = FileMatrix(path, 0, (16, 64), torch.float32)
    decompose(small, TensorRing((8, 8), (4, 4), (2,) * 5))  # what is imported and allocated once
    reads.clear()
    extra = peak_extra_bytes(lambda: decompose(source, ring, starts=1, sweeps=8), torch.device("cpu"))
    assert max(reads) <= read_bytes
    assert sum(reads) % whole_bytes == 0
    assert sum(reads) // whole_bytes >= 3
    if extra is not None:
        assert extra < whole_bytes
