"""A checkpoint's tensors by their own names: wrappers, nesting, several versions of one model."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_cases import (
    MODEL,
    STATE,
    WRITERS,
    assert_same,
    renamed,
    save_safetensors,
)
from torch import nn

from trcompress.checkpoint import read_checkpoint


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model_state": s},
        lambda s: {"state_dict": s, "epoch": 4, "best": 0.5, "args": argparse.Namespace(lr=1e-3)},
        lambda s: {"model": {"state_dict": {"net": s}}},
        lambda s: {"some": {"thing": {"else": s}}},
        lambda s: [s, 3],
        lambda s: (s, {"state": {}, "param_groups": []}),
        lambda s: {"iteration": np.int64(3), "model_state_dict": s, "loss": torch.tensor(0.25)},
        lambda s: {"my_net": s, "loss": np.float64(0.25), "when": Path("runs")},
        lambda s: {"teacher": renamed(s, str), "student": s},
        lambda s: {"weights": s, "rng_state": torch.get_rng_state()},
    ],
    ids=range(10),
)
def test_nested_dicts_are_unwrapped(wrap, tmp_path):
    torch.save(wrap(STATE), tmp_path / "model.pt")
    assert_same(read_checkpoint(tmp_path / "model.pt"), STATE)


@pytest.mark.parametrize(
    ("change", "wrappers"),
    [
        (lambda k: f"module.{k}", "module."),
        (lambda k: f"_orig_mod.{k}", "_orig_mod."),
        (lambda k: f"module._orig_mod.{k}", "_orig_mod., module."),
        (lambda k: f"_orig_mod.module.{k}", "_orig_mod., module."),
        (lambda k: f"module.module.{k}", "module."),
        (lambda k: k.replace("rnn.", "rnn._orig_mod."), "_orig_mod."),
        (lambda k: k.replace("rnn.", "rnn.module."), "module."),
        (lambda k: "module." + k.replace("rnn.", "rnn._orig_mod."), "_orig_mod., module."),
        (lambda k: f"_fsdp_wrapped_module.{k}", "_fsdp_wrapped_module."),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("writer", ["torch-zip", "safetensors"])
def test_wrapper_prefixes_are_stripped_anywhere(change, wrappers, writer, tmp_path):
    WRITERS[writer](renamed(STATE, change), tmp_path / "model")
    checkpoint = read_checkpoint(tmp_path / "model")
    assert_same(checkpoint, STATE)
    assert checkpoint.notes == (f"wrapper prefixes stripped: {wrappers}",)


def test_a_models_own_attribute_called_module_is_kept(tmp_path):
    state = renamed(STATE, lambda k: k.replace("rnn.", "module.")) | {"module.extra": torch.ones(1)}
    torch.save(state, tmp_path / "model.pt")
    assert_same(read_checkpoint(tmp_path / "model.pt"), state)


def test_stripping_never_merges_two_tensors(tmp_path):
    state = STATE | renamed(STATE, lambda k: f"_orig_mod.{k}")
    torch.save(state, tmp_path / "model.pt")
    assert set(read_checkpoint(tmp_path / "model.pt").shapes) == set(state)


def test_averaged_model_prefix_and_counter(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(MODEL)
    torch.save(averaged.state_dict(), tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert_same(checkpoint, STATE)
    assert any("average" in note for note in checkpoint.notes)
    assert "n_averaged" in checkpoint.ignored


@pytest.mark.parametrize("name", ["ema", "model_ema", "ema_state_dict", "averaged_model", "swa"])
def test_the_model_is_preferred_to_its_average(name, tmp_path):
    other = {key: tensor + 1 for key, tensor in STATE.items()}
    torch.save({name: other, "model": STATE}, tmp_path / "both.pt")
    torch.save({name: other, "epoch": 1}, tmp_path / "only.pt")
    both, only = read_checkpoint(tmp_path / "both.pt"), read_checkpoint(tmp_path / "only.pt")
    assert_same(both, STATE)
    assert "average" in both.ignored[name]
    assert_same(only, other)
    assert any("running average" in note for note in only.notes)


def test_two_models_are_both_kept(tmp_path):
    other = {key: tensor + 1 for key, tensor in STATE.items()}
    torch.save({"discriminator": other, "generator": STATE}, tmp_path / "model.pt")
    both = renamed(STATE, "generator.{}".format) | renamed(other, "discriminator.{}".format)
    assert_same(read_checkpoint(tmp_path / "model.pt"), both)


@pytest.mark.parametrize(("other", "wanted"), [("last", "best"), ("old", "final_model"), ("best_net", "trained")])
def test_of_versions_of_one_model_one_is_picked(other, wanted, tmp_path):
    torch.save({other: {key: tensor + 1 for key, tensor in STATE.items()}, wanted: STATE}, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert_same(checkpoint, STATE)
    assert any(f"{wanted} was picked, not {other}" in note for note in checkpoint.notes)


@pytest.mark.parametrize("size", [4, 6])
def test_parts_of_one_model_stay_together(size, tmp_path):
    encoder, decoder, head = nn.GRU(6, size), nn.GRU(size, size), nn.Linear(size, 2)
    parts = {"encoder": encoder, "decoder": decoder, "head": head}
    wrapped = {"model": {name: module.state_dict() for name, module in parts.items()}, "epoch": 2}
    torch.save(wrapped, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert_same(checkpoint, nn.ModuleDict(parts).state_dict())
    assert [layer.stack for layer in checkpoint.layers] == ["encoder", "decoder"]


def test_optimizer_state_is_ignored_and_reported(tmp_path):
    net = nn.LSTM(6, 4)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(3, 2, 6))[0].sum().backward()
    optimizer.step()
    full = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "scheduler": {"last_epoch": 3},
        "epoch": 3,
    }
    torch.save(full, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert_same(checkpoint, net.state_dict())
    assert checkpoint.ignored["optimizer"] == "optimizer state (12 tensors)"
    assert "optimizer_states.0" in checkpoint.ignored
    assert checkpoint.ignored["epoch"] == "the value 3"
    assert "scheduler" in checkpoint.ignored


def test_a_flat_file_with_optimizer_and_average_keys(tmp_path):
    flat = (
        STATE
        | renamed(STATE, lambda k: f"ema.{k}")
        | renamed(STATE, lambda k: f"optimizer.{k}")
        | {"scaler.mean": torch.ones(2)}
    )
    save_safetensors(flat, tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert_same(checkpoint, STATE | {"scaler.mean": torch.ones(2)})
    assert {"ema", "optimizer"} <= set(checkpoint.ignored)
