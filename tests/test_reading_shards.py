"""Several files that are one checkpoint: shards with an index, distributed checkpoints."""

import json
import pickle
import shutil

import pytest
import torch
from command import run
from hostile import Calls
from reading_cases import RINGS, STATE, assert_same
from safetensors.torch import load_file, save_file
from torch import nn

from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError


def write_shards(folder, ending, cuts=(1, 5), index=True):
    """The border of two shards runs through one LSTM."""
    keys, where = list(STATE), {}
    stem = "model" if ending == "safetensors" else "pytorch_model"
    parts = [keys[a:b] for a, b in zip((0, *cuts), (*cuts, len(keys)), strict=True)]
    folder.mkdir()
    for n, part in enumerate(parts, 1):
        name = f"{stem}-{n:05d}-of-{len(parts):05d}.{ending}"
        tensors = {key: STATE[key].clone() for key in part}
        save_file(tensors, folder / name) if ending == "safetensors" else torch.save(tensors, folder / name)
        where |= dict.fromkeys(part, name)
    if index:
        content = {"metadata": {"total_size": 1}, "weight_map": where}
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
@pytest.mark.parametrize("cuts", [(1, 5), (3,), (1, 2, 3, 4)])
def test_an_index_and_its_folder_are_one_checkpoint(ending, cuts, tmp_path):
    folder = write_shards(tmp_path / "many", ending, cuts)
    (index,) = folder.glob("*.index.json")
    (folder / "config.json").write_text('{"hidden_size": 48}')
    for path in (index, folder):
        checkpoint = read_checkpoint(path)
        assert_same(checkpoint)
        assert len(checkpoint.layers) == 2
        assert set(checkpoint.files) == {one for one in folder.iterdir() if one.name != "config.json"}
        assert checkpoint.size_bytes == sum(one.stat().st_size for one in checkpoint.files)
        assert checkpoint.file_region("encoder.weight_ih_l0") is not None
    before = read_checkpoint(folder).sha256
    part = sorted(folder.glob("*-of-*"))[-1]
    part.write_bytes(part.read_bytes()[:-1] + b"\x01")
    assert read_checkpoint(folder).sha256 != before


def test_several_files_go_the_whole_way(tmp_path):
    folder = write_shards(tmp_path / "many.v1", "safetensors")
    assert run("inspect", folder).code == 0
    assert run("decompose", folder, *RINGS).code == 0
    out = tmp_path / "many.v1.tr.safetensors"
    assert set(load_file(out)) > set(STATE) - {"encoder.weight_ih_l0"}
    report = run("report", out, "--baseline", folder / "model.safetensors.index.json", "--format", "json").json
    assert report["baseline"]["is_the_source"] is True
    assert run("decompose", folder / "model.safetensors.index.json", *RINGS).code == 0
    assert (folder / "model.tr.safetensors").exists()
    shard = folder / "model-00002-of-00003.safetensors"
    before = shard.read_bytes()
    assert run("decompose", folder, *RINGS, "-o", shard, "--overwrite").code == 2
    assert shard.read_bytes() == before
    out.unlink()
    assert run("decompose", ".", *RINGS, cwd=folder).code == 0
    assert out.exists()


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_one_part_alone_is_refused_and_names_the_index(ending, tmp_path):
    folder = write_shards(tmp_path / "many", ending)
    part = next(folder.glob(f"*-00002-of-00003.{ending}"))
    with pytest.raises(InputFileError, match=r"is one of 3 parts of a checkpoint: give its index, .*index\.json"):
        read_checkpoint(part)
    (tmp_path / "alone").mkdir()
    alone = shutil.copy(part, tmp_path / "alone")
    with pytest.raises(
        InputFileError, match=r"one of 3 parts .*index .*index\.json is not beside it: fetch all parts"
    ):
        read_checkpoint(alone)


def edit(folder, change) -> None:
    (index,) = folder.glob("*.index.json")
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["weight_map"].update({"head.bias": "gone.safetensors"}),
            "lists gone.safetensors, which is not",
        ),
        (lambda c: c["weight_map"].update({"head.bias": "../x.safetensors"}), "parts must lie beside"),
        (lambda c: c["weight_map"].update({"head.bias": "/etc/passwd"}), "parts must lie beside"),
        (lambda c: c["weight_map"].update({"head.bias": ".."}), "parts must lie beside"),
        (lambda c: c["weight_map"].update({"head.bias": 3}), "does not name a file for each tensor"),
        (
            lambda c: c["weight_map"].update({"more": "model-00001-of-00003.safetensors"}),
            "lacks more, which the index",
        ),
        (lambda c: c.update(weight_map={}), "does not name a file for each tensor"),
        (lambda c: c["weight_map"].update({"x": "model.safetensors.index.json"}), "is an index where a part"),
    ],
    ids=range(8),
)
def test_an_index_that_cannot_be_true(change, message, tmp_path):
    folder = write_shards(tmp_path / "many", "safetensors")
    edit(folder, change)
    with pytest.raises(InputFileError, match=message):
        read_checkpoint(folder / "model.safetensors.index.json")


def test_a_damaged_part_is_named(tmp_path):
    folder = write_shards(tmp_path / "many", "safetensors")
    part = folder / "model-00002-of-00003.safetensors"
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(
        InputFileError, match=r"model-00002-of-00003\.safetensors: it is truncated.*fetch this part again"
    ):
        read_checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {')
    with pytest.raises(InputFileError, match="begins as JSON but is none"):
        read_checkpoint(folder / "model.safetensors.index.json")


def test_a_folder_with_both_kinds_of_parts(tmp_path):
    folder = write_shards(tmp_path / "many", "safetensors")
    for one in write_shards(tmp_path / "bin", "bin").iterdir():
        shutil.copy(one, folder)
    assert read_checkpoint(folder).format == "safetensors-shards"


def write_distributed(folder, **content):
    import torch.distributed.checkpoint as dcp

    dcp.save(content, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_distributed_checkpoint_is_one(wrapped, tmp_path):
    net = nn.ModuleDict({"encoder": nn.LSTM(64, 48, 2), "head": nn.Linear(48, 5)})
    net.load_state_dict(STATE)
    optimizer = torch.optim.Adam(net.parameters())
    net["head"](net["encoder"](torch.zeros(2, 1, 64))[0]).sum().backward()
    content = (
        {"model": net.state_dict(), "optim": optimizer.state_dict(), "epoch": 3} if wrapped else net.state_dict()
    )
    folder = write_distributed(tmp_path / "ckpt", **content)
    checkpoint = read_checkpoint(folder)
    assert_same(checkpoint)
    assert checkpoint.file_region("encoder.weight_ih_l0") is not None
    assert checkpoint.size_bytes == sum(one.stat().st_size for one in folder.iterdir())
    assert run("decompose", folder, *RINGS, "-o", tmp_path / "out.safetensors").code == 0
    for part in (".metadata", "__0_0.distcp"):
        with pytest.raises(InputFileError, match="is one part of a distributed checkpoint: give its folder"):
            read_checkpoint(folder / part)


@pytest.mark.filterwarnings("ignore")
def test_a_tensor_in_parts_is_put_together(tmp_path, monkeypatch):
    """What two processes wrote is described by hand: the halves of a matrix lie in two entries."""
    from torch.distributed.checkpoint import metadata as m

    folder = write_distributed(
        tmp_path / "ckpt",
        **STATE | {"upper": STATE["head.weight"][:2].clone(), "lower": STATE["head.weight"][2:].clone()},
    )
    with (folder / ".metadata").open("rb") as stream:
        found = pickle.load(stream)
    whole, chunks = found.state_dict_metadata["head.weight"], []
    for name, at in (("upper", 0), ("lower", 2)):
        part = found.state_dict_metadata.pop(name)
        place = next(index for index in found.storage_data if index.fqn == name)
        start = torch.Size([at, 0])
        chunks.append(m.ChunkStorageMetadata(start, part.size))
        found.storage_data[m.MetadataIndex("head.weight", start)] = found.storage_data.pop(place)
    old = next(
        index for index in found.storage_data if index.fqn == "head.weight" and index.offset == torch.Size([0, 0])
    )
    whole.chunks = chunks
    assert old is not None
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    assert_same(read_checkpoint(folder))
    whole.chunks = chunks[:1]
    (folder / ".metadata").write_bytes(pickle.dumps(found))
    with pytest.raises(InputFileError, match=r"its parts of 'head.weight' do not make up its shape \(5, 48\)"):
        read_checkpoint(folder)
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(InputFileError, match=r"its part __0_0\.distcp is missing: copy the whole folder"):
        read_checkpoint(folder)


@pytest.mark.filterwarnings("ignore")
def test_nothing_in_a_distributed_checkpoint_is_run(tmp_path):
    folder = write_distributed(tmp_path / "ckpt", **STATE)
    trap = tmp_path / "trap"
    for content in (Calls(trap.touch), {"state_dict_metadata": Calls(trap.touch)}):
        (folder / ".metadata").write_bytes(pickle.dumps(content))
        with pytest.raises(InputFileError):
            read_checkpoint(folder)
        assert not trap.exists()
