"""Artifacts whose tensors are stored in few bits: exact round trips, small headers, hostile files."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from trcompress import Plan, compress_, read_artifact, save
from trcompress.artifact.file import Artifact
from trcompress.artifact.packing import CODECS, PACKED_KEY, pack, unpack
from trcompress.artifact.sidecar import sidecar_path
from trcompress.artifact.storage import STORAGE, Rounding, Stored
from trcompress.artifact.write import file_bytes, write_artifact
from trcompress.errors import InputFileError, UsageError
from trcompress.model.header import Header, Step


def small_artifact(tmp_path: Path, kinds: tuple[str, ...] = tuple(STORAGE), packed: bool = False) -> Artifact:
    """A ring model whose tensors are stored in the given ways, in turn."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.LSTM(12, 8, 2, bidirectional=True), nn.Linear(16, 5))
    compress_(model, Plan.of("4x3:4x2", "3", layer="0.weight_ih_l0*"), init="tr-svd")
    path = save(model, tmp_path / "plain.safetensors", lineage=(Step(verb="test", command="made", version="0"),))
    artifact = read_artifact(path)
    for number, (key, tensor) in enumerate(sorted(artifact.tensors.items())):
        artifact.stored[key] = Stored.of(tensor, kinds[number % len(kinds)])
        artifact.tensors[key] = artifact.stored[key].expand()
    artifact.packed = packed
    return artifact


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kinds", [*((kind,) for kind in STORAGE), tuple(STORAGE)])
def test_what_is_written_is_read_bit_by_bit(tmp_path: Path, kinds: tuple[str, ...], packed: bool) -> None:
    artifact = small_artifact(tmp_path, kinds, packed)
    path = write_artifact(tmp_path / "out.safetensors", artifact)
    again = read_artifact(path)
    assert again.tensors.keys() == artifact.tensors.keys()
    for key, tensor in artifact.tensors.items():
        assert torch.equal(again.tensors[key], tensor)
        assert again.tensors[key].dtype == torch.float32
    assert again.packed == packed
    second = write_artifact(tmp_path / "second.safetensors", again)
    assert second.stat().st_size == path.stat().st_size
    assert read_artifact(second).header == again.header


def test_stored_parts_are_ordinary_tensors(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path, ("int8",))
    tensors = load_file(write_artifact(tmp_path / "out.safetensors", artifact))
    codes, scale = tensors["1.weight.int8"], tensors["1.weight.scale"]
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float() * scale.float().unsqueeze(1), artifact.tensors["1.weight"])


def test_a_changed_tensor_is_rounded_again(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path, ("int8",))
    moved = artifact.tensors["1.weight"] + 0.1234
    artifact.tensors["1.weight"] = moved
    again = read_artifact(write_artifact(tmp_path / "out.safetensors", artifact))
    assert torch.equal(again.tensors["1.weight"], Stored.of(moved, "int8").expand())


def test_version_one_is_written_where_nothing_is_stored_in_few_bits(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path)
    plain = tmp_path / "plain.safetensors"
    again = write_artifact(tmp_path / "again.safetensors", read_artifact(plain))
    described = [json.loads(header_of(path)["__metadata__"]["trcompress"]) for path in (plain, again)]
    assert described[0] == described[1]
    assert described[0]["version"] == 1
    assert not {"storage", "packed", "passes"} & set(described[0])
    assert artifact.header.version == 1


def header_of(path: Path) -> dict:
    """The JSON that a safetensors file begins with."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def test_a_small_file_has_a_small_header_and_a_history_beside_it(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path, ("int8", "float16"), packed=True)
    path = write_artifact(tmp_path / "out.safetensors", artifact, sidecar=True)
    data = path.read_bytes()
    assert struct.unpack("<Q", data[:8])[0] < 1000
    assert read_artifact(path).header.lineage == artifact.header.lineage
    side = sidecar_path(path)
    side.rename(tmp_path / "elsewhere.json")
    bare = read_artifact(path)
    assert not bare.header.lineage
    assert bare.header.layers == artifact.header.layers
    (tmp_path / "elsewhere.json").rename(side)
    record = json.loads(side.read_text()) | {"sha256": "of another file"}
    side.write_text(json.dumps(record))
    assert not read_artifact(path).header.lineage
    side.write_text("no JSON")
    with pytest.raises(InputFileError, match="is not the history of"):
        read_artifact(path)


def test_a_name_that_a_stored_part_needs_is_refused(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path, ("int8",))
    artifact.tensors["1.weight.scale"] = torch.ones(1)
    with pytest.raises(UsageError, match=r"1\.weight\.scale; rename it"):
        write_artifact(tmp_path / "out.safetensors", artifact)


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(0, 70), min_size=0, max_size=3), min_size=1, max_size=5),
    kind=st.sampled_from(sorted(STORAGE)),
    seed=st.integers(0, 2**31),
)
def test_packing_is_exact_for_any_shapes(shapes: list[list[int]], kind: str, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    records, tensors = {}, {}
    for number, shape in enumerate(map(tuple, shapes)):
        records[f"t{number}"] = (kind, "float32", shape)
        for suffix, (dtype, size) in STORAGE[kind].layout(shape).items():
            values = torch.randint(-100, 100, size, generator=draw).to(dtype)
            tensors[f"t{number}.{suffix}" if suffix else f"t{number}"] = values
    whole, streams = pack(tensors, records)
    found = unpack(whole, records, streams)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], one) and found[name].shape == one.shape for name, one in tensors.items())


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_stops_at_the_length_it_is_asked_for(codec: str) -> None:
    code, read = CODECS[codec]
    data = np.random.default_rng(0).integers(-3, 3, 5000).astype(np.int8).tobytes()
    assert read(code(data), len(data)) == data
    if codec != "none":
        assert len(read(code(data), 100)) <= 101


def test_packed_files_that_claim_too_much_or_lie_are_refused() -> None:
    records = {"w": ("int8", "float32", (40, 30))}
    parts = Stored.of(torch.randn(40, 30), "int8").named("w")
    whole, streams = pack(parts, records)
    with pytest.raises(InputFileError, match="at most 256 times"):
        unpack(whole, {"w": ("int8", "float32", (100_000, 10_000))}, (streams[0], streams[1]))
    with pytest.raises(InputFileError, match="does not hold the streams"):
        unpack(None, records, streams)
    with pytest.raises(InputFileError, match="its header asks"):
        unpack(torch.cat((whole, whole)), records, streams)
    for wrong in {"lzma", "bz2", "gzip"} - {streams[0][0]}:
        with pytest.raises(InputFileError, match="damaged artifact"):
            unpack(whole, records, ((wrong, streams[0][1]), *streams[1:]))


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), value=st.integers(0, 255))
def test_a_flipped_byte_is_an_error_or_other_values_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    path = write_artifact(folder / "out.safetensors", small_artifact(folder, packed=True))
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(bytes(data))
    try:
        found = read_artifact(path)
    except InputFileError:
        return
    assert PACKED_KEY not in found.tensors


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rows", [3, 400])
def test_the_size_of_a_file_is_known_to_the_byte_before_it_is_written(
    tmp_path: Path, rows: int, packed: bool
) -> None:
    types = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {f"k{n}.wéight": torch.zeros(rows, n + 1).to(dtype) for n, dtype in enumerate(types)}
    draws = {f"w{n}": torch.randn(rows, 7 + n) for n in range(5)}
    stored = {f"w{n}": Stored.of(draws[f"w{n}"], kind) for n, kind in enumerate(STORAGE)}
    values = tensors | draws | {key: one.expand() for key, one in stored.items()}
    artifact = Artifact(values, Header(layers=(), weights=()), stored=stored, packed=packed)
    assert write_artifact(tmp_path / "a.safetensors", artifact).stat().st_size == file_bytes(artifact)


def test_entropy_coded_integers_stay_as_coarse_when_values_change() -> None:
    """Re-rounding at the scale of the least error would make the file of a trained network larger."""
    torch.manual_seed(0)
    coarse = Rounding("int8", 0.5).of(torch.randn(64, 64))
    moved = coarse.expand() + 0.05 * torch.randn(64, 64)
    again = coarse.rounding(packed=True).of(moved)
    assert again.parts["int8"].unique().numel() <= 1.2 * coarse.parts["int8"].unique().numel()
    assert coarse.rounding(packed=False) == Rounding("int8")
    fine = coarse.rounding(packed=False).of(moved)
    assert fine.parts["int8"].unique().numel() > 4 * again.parts["int8"].unique().numel()
