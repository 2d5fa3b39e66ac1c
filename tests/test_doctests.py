"""Every example in a docstring runs and prints what it says."""

import doctest
import importlib
import pkgutil

import pytest

import trcompress

SKIP = ("trcompress.__main__", "trcompress.cli")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(trcompress.__path__, "trcompress.")
    if not module.name.startswith(SKIP)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
