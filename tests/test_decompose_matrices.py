"""Any matrix of a recurrent layer may be a ring: named, counted, evaluated by the stock kernel, and led out."""

from pathlib import Path

import pytest
import torch
from command import run
from safetensors.torch import load_file
from torch import nn

import trcompress
from trcompress.errors import UsageError
from trcompress.model.plan import Plan, Rule


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_full_rank_rings_on_every_matrix_are_the_dense_network(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"proj_size": 4} if kind == "LSTM" else {}
    dense = (
        nn.Sequential(getattr(nn, kind)(6, 8, 2, bidirectional=True, batch_first=True, **options)).double().eval()
    )
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    width = options.get("proj_size", 8)
    rules = [
        Rule.parse("2x3:2x4", "full", layer="*.weight_ih_l0*"),
        Rule.parse(f"{2 * width}:8", "full", layer="*.weight_ih_l1*"),
        Rule.parse(f"2x{width // 2}:4x2", "full", layer="*.weight_hh*"),
    ]
    if options:
        rules.append(Rule.parse("4x2:2x2", "full", layer="*.weight_hr*"))
    roles = ("ih", "hh", "hr") if options else ("ih", "hh")
    out = tmp_path / "rings.safetensors"
    artifact = trcompress.decompose(tmp_path / "dense.pt", Plan(tuple(rules)), out, matrices=roles)
    assert {one.name for one in artifact.header.weights} == {key for key in dense.state_dict() if "weight" in key}
    ring, x = trcompress.load(out)["0"], torch.randn(3, 5, 6).double()
    wanted = dense(x)
    torch.testing.assert_close(trcompress.load_(out, nn.Sequential(type(dense[0])(
        6, 8, 2, bidirectional=True, batch_first=True, **options)).double())(x), wanted)  # fmt: skip
    if kind == "LSTM":  # batch_first is not in a state dict
        torch.testing.assert_close(ring(x.transpose(0, 1))[0].transpose(0, 1), wanted[0])
    torch.testing.assert_close(trcompress.to_plain(ring)(x.transpose(0, 1))[0].transpose(0, 1), wanted[0])


def test_rings_on_hidden_weights_as_typed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.LSTM(12, 16))
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    out = tmp_path / "rings.safetensors"
    words = ("decompose", tmp_path / "dense.pt", "-o", out, "--format", "json")
    shape = ("--layer", "0.weight_hh_l0", "--shape", "4x4:4x4", "--ranks", "3")
    assert "matches none of: 0.weight_ih_l0" in run(*words, *shape).stderr
    done = run(*words, *shape, "--matrices", "hh")
    assert done.code == 0, done.stderr
    told = run("report", out, "--format", "json").json
    (row,) = told["weights"]
    assert (row["name"], row["role"], row["shape"]) == ("0.weight_hh_l0", "hh", "4x4:16x4")
    assert told["compression_ratio"] == 1  # Eq. 7 is of input weights
    assert told["model_ratio"] > 1
    assert "input-to-hidden" not in run("report", out).stdout
    back = tmp_path / "back.safetensors"
    assert run("expand", out, "-o", back).code == 0
    assert load_file(back)["0.weight_hh_l0"].shape == (64, 16)


def test_a_goal_is_for_all_matrices_and_its_line_works(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.GRU(12, 16))
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    told = run(
        "plan",
        tmp_path / "dense.pt",
        "--target-ratio",
        2,
        "--matrices",
        "ih,hh",
        "--effort",
        "low",
        "--format",
        "json",
    ).json
    assert "--matrices ih,hh" in told["command"]
    out = tmp_path / "rings.safetensors"
    done = run(*told["command"].split()[1:], "-o", out)
    assert done.code == 0, done.stderr
    weights = run("report", out, "--format", "json").json["weights"]
    before, after = (sum(one[f"parameters_{when}"] for one in weights) for when in ("before", "after"))
    assert before >= 2 * after


def test_data_weighs_input_matrices_alone(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.GRU(12, 16)).state_dict(), tmp_path / "dense.pt")
    with pytest.raises(UsageError, match="`calibrate` chooses cores of input weights alone"):
        trcompress.decompose(tmp_path / "dense.pt", target_ratio=2, matrices=("ih", "hh"), calibrate="data.npz")
    with pytest.raises(UsageError, match="matrices must be one of"):
        trcompress.decompose(tmp_path / "dense.pt", target_ratio=2, matrices=("xx",))
