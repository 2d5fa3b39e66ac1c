"""The artifact: plain safetensors outside, strict self-description inside, nothing trusted on the way back."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import trcompress
from trcompress import Plan
from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.model.header import parse_header


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.rnn = nn.GRU(12, 8, num_layers=2, bidirectional=True, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x):
        return self.rnn(self.embedding(x))[0]


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = Tagger().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trcompress.compress_(model, Plan.of("4x3:4x2", "2"))
    return model, before, trcompress.save(model, tmp_path / "tagger.safetensors")


def test_plain_safetensors_opens_it_and_all_else_is_bit_identical(saved):
    _, before, path = saved
    tensors = load_file(path)
    compressed = {"rnn.weight_ih_l0", "rnn.weight_ih_l0_reverse"}
    for key, value in before.items():
        if key in compressed:
            assert key not in tensors
            assert tensors[f"{key}.core.0"].shape == (2, 4, 2)
        elif key == "head.weight":  # tied to the embedding: stored once
            assert key not in tensors
            assert torch.equal(trcompress.read_artifact(path).tensors[key], value)
        else:
            assert torch.equal(tensors[key], value)
            assert tensors[key].dtype == value.dtype


def test_it_goes_back_into_the_users_model_and_ties_stay_tied(saved):
    model, _, path = saved
    fresh = trcompress.load_(path, Tagger().eval())
    x = torch.randint(0, 20, (3, 5))
    assert torch.equal(fresh(x), model(x))
    assert fresh.head.weight is fresh.embedding.weight
    again = trcompress.load_(path, fresh)
    assert torch.equal(again(x), model(x))


def test_stacks_load_without_the_users_code(saved):
    model, _, path = saved
    (name,) = trcompress.load(path)
    layer = trcompress.load(path)[name]
    x = torch.randn(3, 5, 12)
    assert (name, type(layer).__name__) == ("rnn", "TRGRU")
    torch.testing.assert_close(layer(x)[0], model.rnn(x)[0])


def test_metadata_is_two_keys_and_sorted_json(saved):
    _, _, path = saved
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    assert sorted(metadata) == ["format", "trcompress"]
    header = json.loads(metadata["trcompress"])
    assert metadata["trcompress"] == json.dumps(header, sort_keys=True, separators=(",", ":"))
    assert header["weights"][0]["ranks"] == [2, 2, 2, 2, 2]
    assert header["weights"][0]["gate_order"] == "r,z,n"


def test_wrong_models_are_told_what_differs(saved):
    _, _, path = saved

    class Other(Tagger):
        def __init__(self):
            super().__init__()
            self.rnn2 = self.rnn
            del self.rnn

    with pytest.raises(InputFileError, match=r"stack 'rnn', which the model does not have .did you mean 'rnn2'"):
        trcompress.load_(path, Other())
    bigger = Tagger()
    bigger.extra = nn.Linear(2, 2)
    with pytest.raises(InputFileError, match=r"missing extra\.weight"):
        trcompress.load_(path, bigger)
    assert type(bigger.rnn) is nn.GRU
    bigger.extra = nn.Sequential(*(nn.Linear(2, 2) for _ in range(6)))
    with pytest.raises(InputFileError, match=r"missing extra\.0\.weight; .*bias; .*; and 9 more$") as told:
        trcompress.load_(path, bigger)
    assert "\n" not in str(told.value)


def test_saving_needs_rings_and_does_not_overwrite(saved, tmp_path):
    model, _, path = saved
    with pytest.raises(UsageError, match="holds no ring layer"):
        trcompress.save(Tagger(), tmp_path / "dense.safetensors")
    with pytest.raises(OutputFileError, match="exists"):
        trcompress.save(model, path)
    trcompress.save(model, path, overwrite=True)


def tampered(path, tmp_path, change):
    """Write the artifact again with its header changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        header = json.loads(stream.metadata()["trcompress"])
    change(header)
    out = tmp_path / "tampered.safetensors"
    save_file(load_file(path), out, metadata={"format": "pt", "trcompress": json.dumps(header)})
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(version=99), "version"),
        (lambda h: h.update(surprise=1), "surprise"),
        (lambda h: h["weights"][0].update(ranks=[3, 2, 2, 2, 3]), "its header asks"),
        (lambda h: h["weights"][0].update(ranks=[3, 2, 2, 2, 2]), "must close the ring"),
        (lambda h: h["weights"][0].update(in_modes=[2, 2]), "do not hold its layer"),
        (lambda h: h["weights"][0].update(in_modes=[10**14, 3]), "in_modes"),
        (lambda h: h["weights"][0].update(name="nowhere"), "belongs to no layer"),
        (lambda h: h["layers"][0].update(kind="transformer"), "kind"),
        (lambda h: h["layers"][0].update(hidden_size=-1), "hidden_size"),
        (lambda h: h.update(layers=[]), "belongs to no layer"),
    ],
)
def test_headers_are_not_trusted(saved, tmp_path, change, message):
    with pytest.raises(InputFileError, match=message):
        trcompress.read_artifact(tampered(saved[2], tmp_path, change))


def test_other_files_are_not_artifacts(saved, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.ones(2)}, plain)
    with pytest.raises(InputFileError, match="not a trcompress artifact"):
        trcompress.read_artifact(plain)
    with pytest.raises(InputFileError, match="no such file"):
        trcompress.read_artifact(tmp_path / "missing")
    whole = saved[2].read_bytes()
    for end in (0, 4, 9, 100, len(whole) // 2, len(whole) - 1):
        plain.write_bytes(whole[:end])
        with pytest.raises(InputFileError, match="not a readable safetensors"):
            trcompress.read_artifact(plain)
    with pytest.raises(InputFileError, match="under 64 MiB"):
        parse_header(" " * (65 * 2**20))


VERSION_1 = (
    '{"layers":[{"batch_first":true,"cell":false,"dropout":0.25,"hidden_size":6,"input_size":12,"keys":'
    '{"bias_hh":"rnn.bias_hh_l1_reverse","bias_ih":"rnn.bias_ih_l1_reverse","weight_hh":"rnn.weight_hh_l1_reverse",'
    '"weight_hr":"rnn.weight_hr_l1_reverse","weight_ih":"rnn.weight_ih_l1_reverse"},"kind":"lstm","layer":1,'
    '"nonlinearity":"tanh","proj_size":2,"reverse":true,"stack":"rnn"}],"lineage":[],"metrics":{},"shared":[],'
    '"source":null,"version":1,"weights":[{"blocks":1,"bound":null,"candidates":[],"dtype":"float32","error":0.5,'
    '"format":"tensor-ring","gate_order":"i,f,g,o","in_modes":[4,3],"init":"tr-svd","name":'
    '"rnn.weight_ih_l1_reverse","notes":[],"out_modes":[8,3],"per_gate":false,"ranks":[2,2,2,2,2]}]}'
)
"""A header as version 1 has always been written."""


def test_header_of_version_1_is_read_and_written_byte_for_byte():
    header = parse_header(VERSION_1)
    assert header.to_json() == VERSION_1
    (layer,) = header.layers
    assert (layer.index, layer.direction, layer.name) == (1, "backward", "rnn.l1_reverse")
    assert [(one.role, one.rows, one.columns, one.gates) for one in layer.matrices] == [
        ("ih", 24, 12, 4),
        ("hh", 24, 2, 4),
        ("hr", 2, 6, 1),
    ]


def test_header_names_an_unknown_kind_and_role():
    for old, new, words in (
        ('"lstm"', '"lstn"', "did you mean 'lstm'"),
        ('"bias_hh":', '"bias_hx":', "keys must be weight_ih"),
    ):
        with pytest.raises(InputFileError, match=words):
            parse_header(VERSION_1.replace(old, new, 1))


def test_equal_artifacts_are_equal_bytes(saved, tmp_path):
    """Safetensors puts the metadata in another order each time: eight writes would seldom agree by chance."""
    model, _, path = saved
    whole = path.read_bytes()
    for number in range(8):
        assert trcompress.save(model, tmp_path / f"{number}.safetensors").read_bytes() == whole
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    assert list(header["__metadata__"]) == ["format", "trcompress"]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_in_the_place_of_an_artifact_is_told_as_such(tmp_path, zipped):
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputFileError, match=r"what torch\.save writes, not a trcompress artifact"):
        trcompress.read_artifact(tmp_path / "model.pt")
