"""Never another network: what is not understood is refused by name, and every tensor of the model arrives."""

import argparse
import zipfile

import numpy as np
import pytest
import torch
from cases import HEAD, NOT_UNDERSTOOD, UNDERSTOOD, cell, lstm, norm
from command import run
from safetensors.torch import load_file
from torch import nn

import trcompress
from trcompress.artifact.file import read_artifact
from trcompress.artifact.write import write_artifact
from trcompress.checkpoint import inspect, read_checkpoint
from trcompress.errors import InputFileError, UsageError
from trcompress.model.plan import Plan
from trcompress.network.classifier import Wiring
from trcompress.network.read_classifier import read_classifier
from trcompress.passes.assemble import decompose_checkpoint

PLAN = Plan.of("4x3:4x2", "2")
RINGS = ("--shape", "4x3:4x2", "--ranks", "2")


@pytest.fixture
def saved(tmp_path):
    """Write an object with torch.save; returns its path."""

    def write(content, name="model.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "data.npz"
    x, y = np.random.default_rng(0).normal(size=(24, 5, 12)).astype("f4"), np.arange(24) % 4
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    return path


# What a layer's own module holds beside what its kind uses.


@pytest.mark.parametrize("case", NOT_UNDERSTOOD)
def test_a_layer_that_is_not_understood_is_named_and_refused(case, saved):
    state, culprit = NOT_UNDERSTOOD[case]
    checkpoint = read_checkpoint(saved(state | HEAD))
    assert culprit in [key for keys in checkpoint.unknown.values() for key in keys]
    assert inspect(checkpoint).unknown == checkpoint.unknown
    with pytest.raises(
        InputFileError, match=r"cannot use inside the layer .*model='package.module:factory'.*ignore_unknown"
    ):
        decompose_checkpoint(checkpoint, Plan.of("4x3:8", "2"))
    with pytest.raises(InputFileError, match="cannot use inside the layer") as refused:
        read_classifier(checkpoint.path)
    assert culprit in str(refused.value)
    assert refused.value.exit_code == 3


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_layers_beside_a_recurrent_one_are_fine(case, saved):
    checkpoint = read_checkpoint(saved(UNDERSTOOD[case]))
    assert not checkpoint.unknown
    checkpoint.check_compressible()


def test_who_knows_better_may_say_so(saved):
    state = cell("lstm", "cell.") | norm("cell.ln_ih", 32) | norm("cell.ln_hh", 32) | HEAD
    path = saved(state)
    with pytest.raises(InputFileError, match=r"ignore_unknown='cell.ln_\*'"):
        read_checkpoint(path).refuse_unknown()
    checkpoint = read_checkpoint(path, ignore_unknown=["cell.ln_*"])
    artifact = decompose_checkpoint(checkpoint, PLAN)
    assert set(artifact.tensors) > set(state) - {"cell.weight_ih"}
    ignored = artifact.header.lineage[0].settings["reading"]["ignored_unknown"]
    assert set(ignored) == {key for key in state if ".ln_" in key}
    with pytest.raises(InputFileError, match=r"cell\.ln_hh\.weight"):
        read_checkpoint(path, ignore_unknown=["cell.ln_ih.*"]).refuse_unknown()
    with pytest.raises(
        UsageError, match=r"ignore_unknown='cell.lm_ih.weight'` matches no tensor.*did you mean 'cell.ln_"
    ):
        read_checkpoint(path, ignore_unknown=["cell.lm_ih.weight"])


def test_an_artifact_remembers_nothing_that_makes_it_run_as_another_network(saved, tmp_path):
    path = saved(cell("lstm", "cell.") | norm("cell.ln_ih", 32) | HEAD)
    ring = write_artifact(
        tmp_path / "ring.safetensors",
        decompose_checkpoint(read_checkpoint(path, ignore_unknown=["cell.ln_ih.*"]), PLAN),
    )
    with pytest.raises(InputFileError, match=r"cell\.ln_ih\.weight"):
        read_classifier(ring)
    assert read_classifier(ring, Wiring(ignore_unknown=("cell.ln_ih.*",))).classes == 4


@pytest.mark.parametrize("verb", ["decompose", "evaluate", "finetune", "calibrate", "plan"])
def test_every_verb_that_would_run_or_rewrite_it_stops(verb, saved, data, tmp_path):
    path = saved(cell("lstm", "cell.") | norm("cell.ln_ih", 32) | HEAD)
    known = ("--ignore-unknown", "cell.ln_ih.*")
    words = {
        "decompose": (path, *RINGS, "-o", tmp_path / "out.safetensors"),
        "calibrate": (path, *RINGS, "--calibrate", data, "-o", tmp_path / "out.safetensors"),
        "evaluate": (path, "--data", data),
        "finetune": (tmp_path / "ring.safetensors", "--data", data, "--epochs", "1"),
        "plan": (path, "--target-ratio", "3", "--calibrate", data),
    }[verb]
    verb = "decompose" if verb == "calibrate" else verb
    if verb == "finetune":
        assert run("decompose", path, *RINGS, "-o", words[0], *known).code == 0
    refused = run(verb, *words)
    assert (refused.code, refused.stdout) == (3, "")
    assert {"cell.ln_ih.weight", "cell.ln_ih.bias"} <= set(
        refused.stderr.replace(",", ";").replace(";", "").split()
    )
    assert "--model 'package.module:factory'" in refused.stderr
    assert "--ignore-unknown 'cell.ln_ih.*'" in refused.stderr
    assert not (tmp_path / "out.safetensors").exists()
    if verb in ("decompose", "evaluate"):
        assert run(verb, *words, *known).code == 0


def test_own_code_runs_where_the_file_alone_is_not_understood(saved, data):
    net = Normed()
    done = run(
        "evaluate", saved(net.state_dict()), "--data", data, "--model", "test_faithful:Normed", "--format", "json"
    )
    x = torch.from_numpy(np.load(data)["x_test"])
    right = (net(x).argmax(1) == torch.from_numpy(np.load(data)["y_test"])).float().mean().item()
    assert done.json["accuracy"] == pytest.approx(right)


class Normed(nn.Module):
    """A classifier whose step normalises its gates."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(12, 8), nn.Linear(8, 4)
        self.cell.ln_ih = nn.LayerNorm(32)

    def forward(self, x):
        h = c = x.new_zeros(len(x), 8)
        for step in x.unbind(1):
            gates = self.cell.ln_ih(step @ self.cell.weight_ih.T) + h @ self.cell.weight_hh.T + self.cell.bias_hh
            i, f, g, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return self.head(h)


# Every tensor arrives.


UNREADABLE = {
    "complex128": torch.ones(2, dtype=torch.complex128),
    "sparse": torch.eye(6).to_sparse(),
    "sparse rows": torch.eye(6).to_sparse_csr(),
    "meta": torch.empty(4, 8, device="meta"),
    "quantized": torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8),
    "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_cannot_arrive_stops_decompose(kind, saved, tmp_path):
    path, out = saved(lstm("rnn.") | HEAD | {"odd.one": UNREADABLE[kind]}), tmp_path / "out.safetensors"
    refused = run("decompose", path, *RINGS, "-o", out)
    assert (refused.code, out.exists()) == (3, False)
    assert "'odd.one' is " in refused.stderr
    assert "--drop 'odd.one'" in refused.stderr
    shown = run("inspect", path)
    assert shown.code == 0
    assert "cannot be kept in an artifact: odd.one" in shown.stdout
    assert "before it can be compressed:" in shown.stdout
    assert "--drop 'odd.one'" in shown.stdout
    assert "try:" not in shown.stdout
    assert run("decompose", path, *RINGS, "-o", out, "--drop", "odd.*").code == 0
    told = run("report", out, "--format", "json").json
    assert told["lineage"][0]["settings"]["reading"]["dropped"] == ["odd.one"]
    assert "odd.one" not in load_file(out)


@pytest.mark.parametrize("zipped", [True, False])
def test_everything_else_arrives_bit_by_bit(zipped, tmp_path):
    wide = torch.randn(8, 30)
    odd = {
        "complex": torch.randn(3, dtype=torch.complex64),
        "expanded": torch.ones(1, 4).expand(3, 4),
        "turned": wide.t(),
        "part": wide[2:5, ::2],
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "tiny": torch.ones(3).to(torch.float8_e5m2),
        "flags": torch.tensor([True, False]),
        "wide": torch.arange(3).to(torch.uint64),
    }
    state = lstm("rnn.") | HEAD | odd
    torch.save(state, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    out = tmp_path / "ring.safetensors"
    assert run("decompose", tmp_path / "model.pt", *RINGS, "-o", out).code == 0
    found = load_file(out)
    for key, value in state.items():
        if key != "rnn.weight_ih_l0":
            assert found[key].dtype == value.dtype
            assert bits(found[key]) == bits(value)


def bits(tensor) -> bytes:
    return (
        tensor.resolve_conj().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    )


BESIDE = {
    "generator": {"model": lstm("encoder.rnn."), "generator": {"0.weight": torch.randn(60, 8)}},
    "criterion": {"state_dict": lstm("rnn.") | HEAD, "criterion": {"weight": torch.rand(4)}, "epoch": 3},
    "vectors": {"net": {"net": lstm("rnn.")}, "vectors": torch.randn(20, 12)},
    "discriminator": {"generator": lstm("rnn."), "discriminator": lstm("rnn.")},
    "deeper": {"ckpt": {"model": lstm("rnn."), "adapter": {"down": {"weight": torch.randn(3, 8)}}}},
    "module wrapper": {"model": {f"module.{k}": v for k, v in lstm("rnn.").items()}, "generator": HEAD},
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_second_dict_of_weights_is_kept(case, saved):
    content = BESIDE[case]
    checkpoint = read_checkpoint(saved(content))
    assert sorted(map(bits, leaves(content))) == sorted(bits(value) for _, value in checkpoint.tensors())


def leaves(node):
    return (
        [node]
        if isinstance(node, torch.Tensor)
        else [x for y in node.values() for x in leaves(y)]
        if isinstance(node, dict)
        else []
    )


def test_what_lay_beside_the_model_goes_back_into_either_network(saved, tmp_path):
    path = saved(BESIDE["generator"])
    out = tmp_path / "ring.safetensors"
    assert run("decompose", path, *RINGS, "-o", out).code == 0
    assert read_artifact(out).beside == {"generator.0.weight"}
    whole = nn.ModuleDict(
        {
            "encoder": nn.ModuleDict({"rnn": nn.LSTM(12, 8)}),
            "generator": nn.Sequential(nn.Linear(8, 60, bias=False)),
        }
    )
    assert torch.equal(
        trcompress.load_(out, whole).state_dict()["generator.0.weight"],
        BESIDE["generator"]["generator"]["0.weight"],
    )
    trcompress.load_(out, nn.ModuleDict({"encoder": nn.ModuleDict({"rnn": nn.LSTM(12, 8)})}))


def test_names_that_would_fall_together_keep_their_whole_paths(saved):
    content = {"model": lstm("rnn.") | {"head.weight": torch.ones(2)}, "head": {"weight": torch.zeros(2)}}
    checkpoint = read_checkpoint(saved(content))
    assert torch.equal(checkpoint.tensor("model.head.weight"), torch.ones(2))
    assert torch.equal(checkpoint.tensor("head.weight"), torch.zeros(2))


def test_what_is_not_the_model_is_told_in_a_few_lines(saved):
    net = nn.LSTM(12, 8)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.zeros(2, 1, 12))[0].sum().backward()
    optimizer.step()
    content = {
        "state_dict": net.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 3}],
        "loops": {f"loop_{k}": {"state": torch.tensor(k)} for k in range(30)},
        "callbacks": {"Checkpoint": {"best_model_score": torch.tensor(0.5), "best_k_models": {}}},
        "hyper_parameters": {f"option_{k}": k for k in range(40)} | {"weights": torch.ones(3)},
        "epoch": 3,
        "global_step": 70,
        "pytorch-lightning_version": "2",
        "ema": net.state_dict(),
        "last": net.state_dict(),
        "loss": torch.tensor(0.5),
    }
    path = saved(content)
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.shapes) == set(net.state_dict())
    shown = run("inspect", path)
    told = [line for line in shown.stdout.splitlines() if line.startswith("not the model")]
    assert len(told) <= 9
    assert "option_7" not in shown.stdout
    for name in ("optimizer_states", "callbacks", "loops", "hyper_parameters", "ema", "last", "loss"):
        assert any(name in line for line in told), name


# Values that are no numbers.


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["rnn.weight_hh_l0", "rnn.bias_ih_l0", "fc.weight"])
def test_values_that_are_no_numbers_are_shown_and_refused(bad, key, saved, tmp_path):
    state = {name: value.clone() for name, value in (lstm("rnn.") | HEAD).items()}
    state[key].view(-1)[-1] = bad
    path, out = saved(state), tmp_path / "ring.safetensors"
    assert f"not finite: {key} holds 1 NaN or Inf" in run("inspect", path).stdout
    refused = run("decompose", path, *RINGS, "-o", out)
    assert (refused.code, out.exists()) == (3, False)
    assert f"'{key}' 1" in refused.stderr
    assert f"--allow-nonfinite '{key}'" in refused.stderr


def test_a_mask_of_infinities_may_stay(saved, tmp_path):
    mask = torch.full((3, 3), -float("inf")).triu(1)
    path, out = saved(lstm("rnn.") | {"mask": mask}), tmp_path / "ring.safetensors"
    assert run("decompose", path, *RINGS, "-o", out).code == 3
    assert run("decompose", path, *RINGS, "-o", out, "--allow-nonfinite", "mask").code == 0
    assert torch.equal(load_file(out)["mask"], mask)


def test_part_of_a_layer_cannot_be_dropped(saved):
    path = saved(lstm("rnn.") | lstm("other.") | HEAD)
    with pytest.raises(
        UsageError, match=r"only whole layers.*'rnn.bias_ih_l0' is part of the recurrent layer 'rnn'"
    ):
        read_checkpoint(path, drop=["rnn.bias_ih_l0"])
    with pytest.raises(
        UsageError, match=r"`drop='fc.wait'` matches no tensor of the file \(did you mean 'fc.weight'"
    ):
        read_checkpoint(path, drop=["fc.wait"])
    checkpoint = read_checkpoint(path, drop=["other.*"])
    assert [layer.stack for layer in checkpoint.layers] == ["rnn"]
    assert len(checkpoint.dropped) == 4


def test_what_an_object_holds_goes_with_it_unless_it_holds_the_model(saved):
    scaler = argparse.Namespace(mean=torch.ones(3), std=torch.ones(3))
    checkpoint = read_checkpoint(saved({"model": lstm("rnn."), "scaler": {"it": scaler}}))
    assert set(checkpoint.shapes) == set(lstm("rnn."))
    assert "scaler.it" in checkpoint.ignored
    everything = argparse.Namespace(model=lstm("rnn."), generator={"weight": torch.ones(3, 8)})
    assert set(read_checkpoint(saved(everything)).shapes) == {*lstm("rnn."), "generator.weight"}


def test_one_wrong_byte_in_the_data_is_one_line(saved, data, tmp_path):
    for wrong in (b"{", b"}", b"(", b"'descr'", b","):
        bad = tmp_path / "bad.npz"
        with zipfile.ZipFile(data) as good, zipfile.ZipFile(bad, "w") as out:
            for name in good.namelist():
                blob = good.read(name)
                out.writestr(name, blob.replace(wrong, b" " * len(wrong), 1) if name == "x_train.npy" else blob)
        done = run("evaluate", saved(lstm("rnn.") | HEAD), "--data", bad)
        assert done.code == 3, done.stderr
        assert "bad.npz" in done.stderr


def test_a_zero_weight_is_reported(saved, tmp_path):
    path, out = (
        saved(lstm("rnn.") | HEAD | {"rnn.weight_ih_l0": torch.zeros(32, 12)}),
        tmp_path / "ring.safetensors",
    )
    assert run("decompose", path, *RINGS, "-o", out).code == 0
    assert run("report", out, "--baseline", path, "--format", "json").json["weights"][0]["error_now"] == 0


def test_a_second_dict_keeps_its_counters(saved):
    generator = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)).state_dict()
    checkpoint = read_checkpoint(saved({"model": lstm("rnn."), "generator": generator, "step": torch.tensor(7)}))
    assert set(checkpoint.shapes) == {*lstm("rnn."), *(f"generator.{key}" for key in generator)}
    assert "step" in checkpoint.ignored
