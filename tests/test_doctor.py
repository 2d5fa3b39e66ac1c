"""The doctor tells what is here, and says where it does not work."""

import re

import torch
from command import run

from trcompress.cli import diagnosis
from trcompress.version import __version__


def test_it_tells_versions_devices_threads_extras_and_tests_itself():
    found = run("doctor", "--format", "json").json
    assert found["versions"]["trcompress"] == __version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["devices"].endswith("cpu")
    assert set(found["extras"]) == {"onnx", "plots", "video"}
    assert set(found["extras"]["onnx"]) == {"onnx", "onnxscript", "onnxruntime"}
    assert [one["ok"] for one in found["self_test"]] == [True, True, True]


def test_its_markdown_is_a_table_to_paste():
    for words in (("--markdown",), ("--format", "markdown")):
        lines = run("doctor", *words).stdout.splitlines()
        assert lines[1] == "|---|---|"
        assert all(re.fullmatch(r"\| .* \| .* \|", line) for line in lines[2:])


def test_a_machine_on_which_it_does_not_work_is_told(monkeypatch):
    def broken():
        raise ArithmeticError("a ring of full ranks is off by 0.5")

    monkeypatch.setitem(diagnosis.SELF_TEST, "self-test: decompose", broken)
    done = run("doctor")
    assert done.code == 1
    assert "ArithmeticError: a ring of full ranks is off by 0.5" in done.stdout
    assert "the self-test fails here: self-test: decompose" in done.stderr


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(diagnosis, "_version", lambda name: None if name == "onnxscript" else "1")
    assert "lacks onnxscript" in run("doctor").stdout
