"""Data from the user's own code: only where the user typed it, with clear faults."""

import sys

import numpy as np
import pytest

from trcompress.data import from_arrays, load_data
from trcompress.errors import InputFileError, UnsafeFileError, UsageError, UserCodeError

SOURCE = """
import numpy as np
from trcompress.data import from_arrays

def make(rows=8, *, classes=2):
    return from_arrays({"x": np.zeros((int(rows), 3, 2)), "y": np.arange(int(rows)) % classes}, split="none")

def wrong():
    return {"x": 1}

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_own_data.py").write_text(SOURCE)
    (tmp_path / "needs_other.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield "my_own_data"
    for name in ("my_own_data", "needs_other"):
        sys.modules.pop(name, None)


def test_a_factory_gets_the_options(module):
    data = load_data(f"{module}:make", allow_code=True, rows=12)
    assert len(data.train) + len(data.validation) == 12


def test_a_factory_needs_permission_and_is_not_even_imported(module):
    with pytest.raises(UnsafeFileError, match="the user must type it"):
        load_data(f"{module}:make")
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("spec", "options", "error", "message"),
    [
        ("no_such_package:make", {}, UsageError, "there is no module 'no_such_package'"),
        ("my_own_data:mak", {}, UsageError, r"mak is missing \(did you mean 'make'\?\)"),
        ("my_own_data:number", {}, UsageError, "number is not a function"),
        ("my_own_data:make", {"row": 3}, UsageError, r"arguments of my_own_data:make\(rows=8, \*, classes=2\)"),
        ("my_own_data:wrong", {}, InputFileError, "must return a DataSet: got builtins.dict"),
        ("needs_other:make", {}, UserCodeError, "no_such_module_anywhere"),
    ],
)
def test_faults_are_told_apart(module, spec, options, error, message):
    with pytest.raises(error, match=message):
        load_data(spec, allow_code=True, **options)


def test_the_same_function_as_array_files(module):
    data = from_arrays({"x": np.zeros((4, 3)), "y": np.arange(4) % 2}, split="none", validation_fraction=0)
    assert (data.steps, data.input_size) == (3, 1)
