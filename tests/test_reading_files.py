"""Checkpoints in many files and unusual containers, and files that are something else: named with the way out."""

import pickle
import shutil
import sys
import types
import typing
import zipfile

import numpy as np
import pytest
import torch
from command import run
from hostile import Calls
from reading_cases import RINGS, STATE, assert_same, content
from torch import nn

from trcompress.checkpoint import read_checkpoint
from trcompress.errors import InputFileError, UnsafeFileError

ARRAYS = {key: value.numpy() for key, value in STATE.items()}


# Several files that are one checkpoint.


# Pickles of arrays.


def pickled(protocol):
    return lambda path: path.write_bytes(pickle.dumps({"params": ARRAYS, "epoch": 3}, protocol=protocol))


def numpy_dict(path):
    with path.open("wb") as stream:
        np.save(stream, ARRAYS, allow_pickle=True)


OF_ARRAYS = {
    **{f"pickle {protocol}": pickled(protocol) for protocol in range(6)},
    "numpy.save of a dict": numpy_dict,
    "torch.save of arrays": lambda path: torch.save({"weights": ARRAYS}, path),
    "other layouts": lambda path: path.write_bytes(
        pickle.dumps({key: np.asfortranarray(value).astype(">f4") for key, value in ARRAYS.items()})
    ),
}


@pytest.mark.parametrize("case", OF_ARRAYS)
def test_pickled_arrays_are_read_as_data(case, tmp_path):
    OF_ARRAYS[case](tmp_path / "arrays")
    checkpoint = read_checkpoint(tmp_path / "arrays")
    assert_same(checkpoint)
    assert run("decompose", checkpoint.path, *RINGS, "-o", tmp_path / "out.safetensors").code == 0


def test_arrays_beside_tensors_are_no_tensors_of_the_model(tmp_path):
    torch.save({"model": STATE, "mean": np.ones(3)}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert_same(checkpoint)
    assert "mean" in checkpoint.ignored


@pytest.mark.parametrize("change", [(b"f4", b"f8"), (b"K0K@", b"K1K@")])
def test_an_array_that_cannot_be_true(change, tmp_path):
    raw = pickle.dumps({"rnn.weight_ih_l0": np.zeros((48, 64), "f4")}, protocol=2)
    assert raw.count(change[0]) == 1
    (tmp_path / "a.pkl").write_bytes(raw.replace(*change))
    with pytest.raises(InputFileError, match=r"declares an array .* but gives 12,288 bytes"):
        read_checkpoint(tmp_path / "a.pkl")


# Archives around a checkpoint.


def zipped(path, method=zipfile.ZIP_STORED, **members):
    torch.save(STATE, path.with_suffix(".inner"))
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in ("data", *members.get("names", ())):
            archive.writestr(name, b"{}" if name == "data" else path.with_suffix(".inner").read_bytes())
    return path


def test_a_checkpoint_inside_an_archive(tmp_path):
    agent = zipped(tmp_path / "agent.zip", names=("policy.optimizer.pth", "policy.pth", "pytorch_variables.pth"))
    checkpoint = read_checkpoint(agent)
    assert_same(checkpoint)
    assert checkpoint.file_region("encoder.weight_ih_l0") is not None
    assert any("policy.pth" in note for note in checkpoint.notes)
    assert_same(read_checkpoint(zipped(tmp_path / "archive.mar", names=("MAR-INF/model.pt",))))
    with pytest.raises(InputFileError, match=r"holds one.pt, two.pt: unpack it"):
        read_checkpoint(zipped(tmp_path / "two.zip", names=("one.pt", "two.pt")))
    with pytest.raises(InputFileError, match=r"holds policy.pth: unpack it"):
        read_checkpoint(zipped(tmp_path / "packed.zip", zipfile.ZIP_DEFLATED, names=("policy.pth",)))


# Files that are something else.


def archive_of(*names):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "x")

    return write


def exported(path):
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 3),)), path)


TABLE_END = bytes.fromhex("57fb808b247547db")
OTHERS = {
    "m.onnx": (content(b"\x08\x08\x12\x07pytorch"), "an ONNX model: take the checkpoint it was exported from"),
    "onnx.pt": (content(b"\x08\x07\x12\x07pytorch" + bytes(99)), "an ONNX model"),
    "onnx.bin": (content(b"\x08\x0a\x3a\x80\x04" + bytes(99)), "an ONNX model"),
    "model.h5": (content(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file, as Keras writes it"),
    "old.keras": (content(b"\x89HDF\r\n\x1a\n" + bytes(99)), "load it with Keras"),
    "new.keras": (
        archive_of("metadata.json", "config.json", "model.weights.h5"),
        r"a Keras model \(\.keras\): load it",
    ),
    "ckpt.index": (content(bytes(50) + TABLE_END), "a TensorFlow checkpoint: load it with tf.train"),
    "ckpt.data-00000-of-00001": (content(bytes(500)), "a TensorFlow checkpoint"),
    "checkpoint": (content(b'model_checkpoint_path: "model"\n'), "a TensorFlow checkpoint"),
    "saved_model.pb": (content(b"\x08\x01\x12\x03abc"), "a TensorFlow SavedModel"),
    "program.pt2": (exported, r"a program of torch.export \(.pt2\): save `torch.export.load"),
    "old.pt2": (archive_of("serialized_exported_program.json", "version"), "a program of torch.export"),
    "program.pte": (content(b"\x20\0\0\0ET12" + bytes(99)), "an ExecuTorch program"),
    "model.tflite": (content(b"\x20\0\0\0TFL3" + bytes(99)), "a TensorFlow Lite model"),
    "pointer.pt": (
        content(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
        "a pointer of Git LFS.*git lfs pull",
    ),
    "pointer.safetensors": (
        content(b"version https://git-lfs.github.com/spec/v1\noid x\n"),
        "a pointer of Git LFS",
    ),
    "page.pt": (content(b"\n <!DOCTYPE html><html>login</html>"), "a web page: the download gave an error"),
    "error.bin": (content(b'<?xml version="1.0"?><Error><Code>NoSuchKey'), "a web page"),
    "page.safetensors": (content(b"<html>" + bytes(99)), "a web page"),
    "array.npy": (lambda path: np.save(path, np.zeros(3)), "a single NumPy array without names"),
    "config.json": (
        content(b'{"hidden_size": 3}'),
        "is not a checkpoint but JSON .*give the file with the weights",
    ),
    "packed.zst": (content(b"\x28\xb5\x2f\xfd" + bytes(99)), "zstd-compressed: unpack it first"),
    "words.pkl": (
        lambda path: path.write_bytes(pickle.dumps({"a": 1, "b": "text"})),
        "no recurrent layer.*no tensor",
    ),
    "empty.pt": (content(b""), r"is empty \(0 bytes\)"),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore")
def test_other_files_are_named_with_the_next_step(name, tmp_path):
    write, message = OTHERS[name]
    write(tmp_path / name)
    with pytest.raises(InputFileError, match=message) as refused:
        read_checkpoint(tmp_path / name)
    assert (refused.value.exit_code, "\n" in str(refused.value)) == (3, False)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("https://example.org/model.pt", "is a URL; download it first"),
        ("s3://bucket/model.pt", "is a URL"),
        ("-", "not read from standard input"),
        ("nowhere.pt", "no such file: nowhere.pt"),
        ("x" * 5000, "cannot read"),
        ("nul\0byte", "no such file"),
    ],
)
def test_paths_that_lead_to_no_file(path, message):
    with pytest.raises(InputFileError, match=message):
        read_checkpoint(path)


def test_folders_that_are_no_checkpoint(tmp_path):
    with pytest.raises(InputFileError, match=r"is a folder; name a file in it$"):
        read_checkpoint(tmp_path)
    torch.save(STATE, tmp_path / "b.pt")
    torch.save(STATE, tmp_path / "a.ckpt")
    with pytest.raises(InputFileError, match=r"name a file in it, a\.ckpt, b\.pt$"):
        read_checkpoint(tmp_path)
    (tmp_path / "m.index").write_bytes(bytes(9) + TABLE_END)
    with pytest.raises(InputFileError, match="a TensorFlow checkpoint"):
        read_checkpoint(tmp_path / "m")
    (tmp_path / "checkpoint").write_text("model_checkpoint_path")
    with pytest.raises(InputFileError, match="a TensorFlow checkpoint"):
        read_checkpoint(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with pytest.raises(InputFileError, match="a TensorFlow SavedModel"):
        read_checkpoint(tmp_path)


# Objects, and the way out of every refusal.


@pytest.fixture
def foreign(monkeypatch):
    """A class of a library that is not installed where the file is read."""
    library = types.ModuleType("settings_library")
    library.Config = type("Config", (), {"__module__": "settings_library"})
    monkeypatch.setitem(sys.modules, "settings_library", library)
    return library.Config


MENTIONED = {
    "typing.Any": typing.Any,
    "a hint": typing.Optional[int],  # noqa: UP045
    "a union": int | None,
    "a callable": typing.Callable[[int], str],
    "a list of hints": [list[int], dict[str, typing.Any], typing.Literal["a"]],
    "a class of the standard library": zipfile.ZipFile,
    "a function of the standard library": shutil.copy,
}


@pytest.mark.parametrize("case", [*MENTIONED, "a foreign class", "a foreign object", "an object that names others"])
def test_objects_and_names_beside_the_weights_can_be_skipped(case, foreign, tmp_path):
    values = MENTIONED | {"a foreign class": foreign, "a foreign object": foreign()}
    config = foreign()
    config.element_type, config.content = typing.Any, {"lr": 0.1}
    values["an object that names others"] = config
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": STATE, "hyper_parameters": {"it": values[case]}}, path)
    refused = run("inspect", path)
    if refused.code:
        assert refused.code == 4
        assert "or leave such objects out: --skip-objects" in refused.stderr
    for verb, words in {
        "inspect": (),
        "decompose": (*RINGS, "-o", tmp_path / "out.safetensors"),
        "plan": ("--max-params", "4000", "--effort", "low"),
    }.items():
        assert run(verb, path, *words, "--skip-objects").code == 0
    assert_same(read_checkpoint(path, skip_objects=True))


def test_no_advice_leads_in_a_circle(foreign, tmp_path):
    """Where skipping objects does not help it is not proposed, and what it leaves says where to go on."""
    torch.save({"state_dict": STATE, "x": Calls(shutil.rmtree, "/nowhere")}, tmp_path / "calls.pt")
    for options in ((), ("--skip-objects",)):
        refused = run("inspect", tmp_path / "calls.pt", *options)
        assert (refused.code, "shutil.rmtree" in refused.stderr) == (4, True)
        assert "skip-objects" not in refused.stderr
        assert "torch.save(model.state_dict()" in refused.stderr
    torch.save(foreign(), tmp_path / "forecaster.pt")
    torch.save({"state_dict": STATE}, tmp_path / "forecaster.pt.ckpt")
    for options in ((), ("--skip-objects",)):
        refused = run("inspect", tmp_path / "forecaster.pt", *options)
        assert refused.code == (3 if options else 4)
        assert "beside it lies forecaster.pt.ckpt" in refused.stderr
    assert_same(read_checkpoint(tmp_path / "forecaster.pt.ckpt"))


def test_made_objects_of_the_standard_library_stay_refused(tmp_path):
    blob = b"\x80\x02csubprocess\nPopen\n)\x81."
    (tmp_path / "a.pkl").write_bytes(blob)
    with pytest.raises(UnsafeFileError, match=r"subprocess\.Popen"):
        read_checkpoint(tmp_path / "a.pkl", skip_objects=True)
