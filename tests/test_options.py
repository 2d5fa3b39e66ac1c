"""No option is silently ignored: each changes what is done, or is refused by name. Read off the signatures."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import trcompress
from trcompress.cli.compress import compress as compress_verb
from trcompress.cli.plan import plan as plan_verb
from trcompress.errors import UsageError

X = list(torch.randn(4, 4, 5, 12, generator=torch.Generator().manual_seed(0)))
VALUES: dict[str, Any] = {
    "plan": trcompress.Plan.of("4x3:4x2", 2),
    "target_ratio": 3,
    "max_error": 0.5,
    "max_params": 99,
    "target_size": 2500,
    "target_ratio_model": 2,
    "calibrate": X,
    "refine": 2,
    "forward": lambda model, batch: model(batch),
    "outputs": "values",
    "layers": "*_l0",
    "effort": "low",
    "per_weight": True,
    "passes": ("rounding",),
    "storage": ("float16",),
    "matrices": ("ih", "hh"),
    "units": 4,
    "rank": 2,
    "packed": True,
    "trained": True,
    "init": "tr-svd",
    "seed": 3,
    "device": "cpu",
    "progress": lambda what, share: None,
}
"""A value of each option that is not its default."""
PLAN = trcompress.Plan.of("4x3:8x1", 1)
PLACES = {
    "compress_": ("fit_", "search_plan", "budgeted"),
    "search_plan": ("search_weights", "LiveNetwork"),
}
"""What hands its work to what."""
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "whole file": (trcompress.compress_, {"target_size": 3000, "calibrate": X}),
    "goal": (trcompress.compress_, {"target_ratio": 2}),
    "goal and data": (trcompress.compress_, {"target_ratio": 2, "calibrate": X}),
    "plan": (trcompress.compress_, {"plan": PLAN}),
    "plan and data": (trcompress.compress_, {"plan": PLAN, "calibrate": X}),
    "search": (trcompress.search_plan, {"target_ratio": 2}),
    "search and data": (trcompress.search_plan, {"target_ratio": 2, "calibrate": X}),
}


class DoneError(Exception):
    """The last of the work began."""


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.LSTM(12, 8, 2, batch_first=True))


def told(value: Any) -> Any:
    """What is compared of an argument: values of plain ones, the kind of others."""
    if isinstance(value, str | int | float | PurePath | None):
        return value
    if isinstance(value, trcompress.FinetuneSettings):
        return value.model_dump()
    if isinstance(value, list | tuple):
        return [told(one) for one in value]
    if isinstance(value, dict):
        return {str(name): told(one) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return [type(value).__name__, *(told(getattr(value, one.name)) for one in fields(value))]
    return getattr(value, "__qualname__", type(value).__name__)


def work_of(function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]) -> Any:
    """What a call hands on, with nothing of it done; the message of a refusal."""
    seen: list[Any] = []
    module, places = function.__module__, PLACES[function.__name__]

    def standing_in(name: str) -> Callable[..., Any]:
        def called(*values: Any, **named: Any) -> Any:
            seen.append([name, told(values), told(named)])
            if name in (places[-1], "fit_", "search_weights"):
                raise DoneError
            return PLAN

        return called

    with monkeypatch.context() as patch:
        for name in places:
            stand_in = standing_in(name)
            if name == "LiveNetwork":
                live = SimpleNamespace(require_gradients=lambda: seen.append("require_gradients"))
                stand_in = SimpleNamespace(
                    of=lambda *a, live=live, **k: seen.append(["live", told(a), told(k)]) or live
                )
            patch.setattr(import_module(module), name, stand_in)
        try:
            function(model(), **given)
        except UsageError as error:
            return str(error)
        except DoneError:
            return seen
    return None


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("option", VALUES)
def test_an_option_reaches_the_work_or_is_refused(call: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, given = CALLS[call]
    if option not in inspect.signature(function).parameters or option in given:
        return
    plain = work_of(function, monkeypatch, given)
    found = work_of(function, monkeypatch, given | {option: VALUES[option]})
    assert isinstance(plain, list)
    if isinstance(found, str):
        assert f"`{option}`" in found or (option in GOALS and "exactly one of" in found) or "a plan and" in found
    else:
        assert found != plain


GOALS = ("target_ratio", "max_error", "max_params")


def test_every_option_has_a_value_to_try() -> None:
    for function, _ in CALLS.values():
        assert set(inspect.signature(function).parameters) - {"model"} <= set(VALUES)


OF_FILES: dict[str, Any] = {
    **{name: VALUES[name] for name in ("passes", "storage", "matrices", "units", "rank", "outputs", "seed")},
    "out": "o.safetensors",
    "calibrate": "d.npz",
    "target_size": 2500,
    "target_ratio_model": 2,
    "pack": True,
    "finetune": "d.npz",
    "teacher": "t.pt",
    "settings": trcompress.FinetuneSettings(epochs=2),
    "epochs": 3,
    "batch_size": 4,
    "lr": 0.1,
    "wiring": trcompress.Wiring(readout="mean"),
    "data_options": {"steps": "3"},
    "reading": {"kind": "gru"},
    "overwrite": True,
    "sidecar": True,
    "command": "as typed",
    "display": SimpleNamespace,
    "progress": VALUES["progress"],
}
WORDS = {
    "training_data": ("--finetune", "d.npz"),
    "finetune": ("--finetune", "d.npz"),
    "factory": ("--model", "m:f"),
    "out": ("-o", "o.safetensors"),
    "data_options": ("--data-option", "steps=3"),
    "target_ratio": ("--target-ratio", "3"),
    "max_error": ("--max-error", "0.5"),
    "max_params": ("--max-params", "9"),
    "effort": ("--effort", "low"),
    "compare": ("--compare", "final"),
    "layer": ("--layer", "*"),
    "passes": ("--passes", "rounding"),
    "storage": ("--storage", "float16"),
    "matrices": ("--matrices", "ih,hh"),
    "readout": ("--readout", "mean"),
    "outputs": ("--outputs", "values"),
    "lr": ("--lr", "0.1"),
    **{name: (f"--{name.replace('_', '-')}", "4") for name in ("units", "rank", "epochs", "batch_size", "seed")},
    "target_ratio_model": ("--target-ratio-model", "4"),
}
"""What is typed for an option; others take a text or nothing."""
FLAGS = ("pack", "sidecar", "overwrite", "skip_objects", "per_weight")
BUDGET = ("m.pt", "--target-size", "3KB", "--calibrate", "c.npz")
VERBS = {
    "compress": (compress_verb, BUDGET),
    "compress and train": (compress_verb, (*BUDGET, "--finetune", "f.npz")),
    "plan": (plan_verb, BUDGET),
}
FILE_CALLS: dict[str, dict[str, Any]] = {
    "in memory": {"calibrate": "c.npz", "target_size": 3000},
    "written": {"calibrate": "c.npz", "target_size": 3000, "out": "p.safetensors"},
    "trained": {"calibrate": "c.npz", "target_size": 3000, "out": "p.safetensors", "finetune": "f.npz"},
}


def of_files(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> Any:
    """What a call hands on to reading, compressing, training and writing; the message of a refusal."""
    seen: list[Any] = []
    whole = SimpleNamespace(reached=True, require_reached=lambda: None)

    def standing_in(name: str, result: Any) -> Callable[..., Any]:
        def called(*values: Any, **named: Any) -> Any:
            seen.append([name, told(values), told(named)])
            if result is None:
                raise DoneError
            return result

        return called

    results = {
        "check_output": "path",
        "open_runnable": SimpleNamespace(target_bytes=lambda *given: list(given), refuse_changed=None),
        "load_data": "data",
        "compress_file": (SimpleNamespace(path=None), whole),
        "compress_and_train": None,
        "compress_for_training": None,
        "write_artifact": None,
    }
    with monkeypatch.context() as patch:
        for name, result in results.items():
            patch.setattr(import_module("trcompress.passes.compress_checkpoint"), name, standing_in(name, result))
        patch.setattr(import_module("trcompress.cli.whole"), "print_whole", standing_in("print", None))
        try:
            call()
        except UsageError as error:
            return str(error)
        except DoneError:
            pass
    return seen


@pytest.mark.parametrize("name", FILE_CALLS)
@pytest.mark.parametrize("option", OF_FILES)
def test_an_option_of_a_file_is_handed_on_or_refused(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = FILE_CALLS[name]
    plain = of_files(monkeypatch, lambda: trcompress.compress("m.pt", **given))
    found = of_files(monkeypatch, lambda: trcompress.compress("m.pt", **given | {option: OF_FILES[option]}))
    assert set(OF_FILES) == set(inspect.signature(trcompress.compress).parameters) - {"checkpoint"}
    assert isinstance(plain, list)
    assert f"`{option}`" in found if isinstance(found, str) else found != plain


@pytest.mark.parametrize("name", VERBS)
def test_an_option_of_a_verb_is_handed_on_or_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verb, base = VERBS[name]
    plain = of_files(monkeypatch, lambda: verb.main(list(base), standalone_mode=False))
    assert isinstance(plain, list)
    for option in verb.params:
        if option.name in ("checkpoint", "target_size", "calibrate", "format_", "verbose", "quiet"):
            continue
        spelled = max(option.opts, key=len)
        words = WORDS.get(option.name) or ((spelled,) if option.name in FLAGS else (spelled, "text"))
        found = of_files(monkeypatch, lambda words=words: verb.main([*base, *words], standalone_mode=False))
        if isinstance(found, str):
            assert f"`{option.name}`" in found.replace("`model`", "`factory`"), found
        else:
            assert found != plain, f"{option.name} was ignored"
