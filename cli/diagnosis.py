"""What `trcompress doctor` finds out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

BASE = ("trcompress", "torch", "numpy", "safetensors", "pydantic", "click", "rich", "jinja2")


def diagnose() -> dict[str, Any]:
    """Collect versions, machine, extras and the results of the self-test, as JSON values."""
    import torch

    from trcompress.util.hardware import this_machine

    machine = this_machine().model_dump(mode="json")
    python, torch_version = machine.pop("python"), machine.pop("torch")
    return {
        "versions": {"python": python, **{name: _version(name) for name in BASE}, "torch": torch_version},
        "machine": machine | {"threads": torch.get_num_threads(), "devices": ", ".join(_devices())},
        "extras": {name: {part: _version(part) for part in parts} for name, parts in _extras().items()},
        "self_test": [_try(name, test) for name, test in SELF_TEST.items()],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _extras() -> dict[str, list[str]]:
    """The packages of every extra, as the installed metadata names them."""
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    for line in requires("trcompress") or ():
        requirement = Requirement(line)
        for name in ("onnx", "plots", "video"):
            if requirement.marker is not None and requirement.marker.evaluate({"extra": name}):
                found.setdefault(name, []).append(requirement.name)
    return found


def _devices() -> list[str]:
    import torch

    found = [f"cuda:{k} {torch.cuda.get_device_name(k)}" for k in range(torch.cuda.device_count())]
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def _try(name: str, test: Callable[[], None]) -> dict[str, Any]:
    try:
        test()
    except Exception as error:  # whatever is wrong here is what the user wants to know
        return {"name": name, "ok": False, "fault": f"{type(error).__name__}: {error}"}
    return {"name": name, "ok": True, "fault": ""}


def _decompose() -> None:
    """A ring of full ranks gives the weight back."""
    import torch

    import trcompress

    torch.manual_seed(0)
    dense = torch.nn.LSTM(12, 8)
    x = torch.randn(3, 2, 12)
    wanted = dense(x)[0]
    ring = trcompress.compress_(dense, trcompress.Plan.of("4x3:4x2", "full")).model
    difference = float((ring(x)[0] - wanted).detach().abs().max())
    if difference > 1e-4:
        raise ArithmeticError(f"a ring of full ranks is off by {difference:.3g}")


def _train() -> None:
    """A step lowers the loss."""
    import torch

    import trcompress

    torch.manual_seed(0)
    layer = trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="3")
    x = torch.randn(5, 2, 12)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        loss = layer(x)[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    if not losses[1] < losses[0]:
        raise ArithmeticError(f"a training step took the loss from {losses[0]:.4g} to {losses[1]:.4g}")


def _save() -> None:
    """What is written is what is read."""
    import torch

    import trcompress

    torch.manual_seed(0)
    layer = trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="3").eval()
    with tempfile.TemporaryDirectory() as folder:
        again = trcompress.load(trcompress.save(layer, Path(folder) / "layer.safetensors"))[""]
    x = torch.randn(5, 2, 12)
    if not torch.equal(layer(x)[0], again(x)[0]):
        raise ArithmeticError("a layer that was saved and loaded gives other outputs")


SELF_TEST: dict[str, Callable[[], None]] = {
    "self-test: decompose": _decompose,
    "self-test: train": _train,
    "self-test: save and load": _save,
}
