"""Classifiers found in files: the right parts, PyTorch's own results, every name kept."""

import numpy as np
import pytest
import small_task
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from trcompress.errors import InputFileError, UsageError
from trcompress.network.classifier import READOUTS, Wiring, dense_classifier
from trcompress.network.model_file import open_model
from trcompress.network.read_classifier import read_classifier


def batch(seed=0, rows=5):
    torch.manual_seed(seed)
    return torch.randn(rows, small_task.STEPS, small_task.INPUTS), torch.tensor([6, 2, 4, 1, 6])[:rows]


def answers(classifier, x, lengths=None):
    classifier.module.eval()
    with torch.no_grad():
        return classifier.module(x, lengths)


KINDS = [
    {"kind": "LSTM"},
    {"kind": "GRU", "layers": 2},
    {"kind": "RNN", "bidirectional": True},
    {"kind": "LSTM", "layers": 2, "bidirectional": True},
    {"kind": "LSTM", "proj_size": 5},
    {"kind": "GRU", "bias": False},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("variable", [False, True])
def test_dense_checkpoint_gives_the_networks_own_scores(tmp_path, options, variable):
    network = small_task.write_network(tmp_path / "model.pt", **options).eval()
    x, lengths = batch()
    lengths = lengths if variable else None
    found = read_classifier(tmp_path / "model.pt")
    with torch.no_grad():
        torch.testing.assert_close(answers(found, x, lengths), network(x, lengths), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_full_rank_artifact_gives_the_dense_scores(tmp_path, options):
    network = small_task.write_network(tmp_path / "model.pt", **options).eval()
    small_task.write_ring(tmp_path / "model.pt", tmp_path / "ring.safetensors", "full", "12:16", "tr-svd")
    x, lengths = batch()
    found = read_classifier(tmp_path / "ring.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(answers(found, x, lengths), network(x, lengths), rtol=1e-4, atol=1e-5)


def test_state_names_are_the_files_keys(tmp_path):
    small_task.write_network(tmp_path / "model.pt", layers=2, bidirectional=True)
    for path in (
        tmp_path / "model.pt",
        small_task.write_ring(tmp_path / "model.pt", tmp_path / "ring.safetensors"),
    ):
        found, file = read_classifier(path), open_model(path)
        assert all(name == key for name, key in found.keys.items())
        assert set(found.keys.values()) == set(file.shapes) - {"norm.weight", "norm.bias"}
        for key, tensor in found.file_tensors().items():
            assert torch.equal(tensor, file.tensor(key)), key


def test_notes_say_how_the_parts_were_found_and_what_is_left_over(tmp_path):
    small_task.write_network(tmp_path / "model.pt")
    notes = "\n".join(read_classifier(tmp_path / "model.pt").notes)
    assert "encoder.rnn (lstm 12 -> 16); the only recurrent stack" in notes
    assert "classify.weight: the matrix over the last 16 features; reads the final output" in notes
    assert "kept as they are: norm.bias, norm.weight" in notes


def test_training_a_classifier_leaves_the_opened_file_alone(tmp_path):
    small_task.write_network(tmp_path / "model.pt")
    path = small_task.write_ring(tmp_path / "model.pt", tmp_path / "ring.safetensors")
    file = open_model(path)
    before = {key: file.tensor(key).clone() for key in file.shapes}
    found = read_classifier(file)
    with torch.no_grad():
        for parameter in found.module.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(file.tensor(key), value) for key, value in before.items())


@pytest.mark.parametrize("readout", [one for one in READOUTS if one != "every"])
def test_readouts_match_slow_ones(tmp_path, readout):
    small_task.write_network(tmp_path / "model.pt", bidirectional=True)
    found = read_classifier(tmp_path / "model.pt", Wiring(readout=readout))
    x, lengths = batch()
    rnn, head = found.recurrent["encoder.rnn"], found.module.get_submodule("classify")
    rows = []
    for row, length in zip(x, lengths, strict=True):
        steps, (state, _) = rnn(row[None, :length])
        rows.append(
            {
                "final": torch.cat((state[0, 0], state[1, 0])),
                "last-step": steps[0, -1],
                "mean": steps[0].mean(0),
            }[readout]
        )
    torch.testing.assert_close(answers(found, x, lengths), head(torch.stack(rows)), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(5)), st.lists(st.integers(1, 6), min_size=5, max_size=5))
def test_padding_and_order_of_a_batch_do_not_matter(order, lengths):
    torch.manual_seed(0)
    found = dense_classifier(12, 3, hidden_size=8, bidirectional=True)
    x, lengths = batch()[0], torch.tensor(lengths)
    base = answers(found, x, lengths)
    spoiled = x.clone()
    spoiled[torch.arange(6) >= lengths[:, None]] = 1e3
    order = list(order)
    torch.testing.assert_close(answers(found, spoiled[order], lengths[order]), base[order])


class Two(nn.Module):
    def __init__(self, first, second, sizes=(12, 8, 10)):
        super().__init__()
        setattr(self, first, nn.LSTM(sizes[0], sizes[1], batch_first=True))
        setattr(self, second, nn.GRU(sizes[1], sizes[2], batch_first=True))
        self.out = nn.Linear(sizes[2], 3)
        self.order = (first, second)

    def forward(self, x):
        for name in self.order:
            x = getattr(self, name)(x)[0]
        return self.out(x[:, -1])


@pytest.mark.parametrize(
    ("names", "sizes", "word"),
    [
        (("rnn1", "rnn2"), (12, 12, 12), "order of their names"),
        (("zeta", "alpha"), (12, 8, 10), "only order in which the sizes fit"),
        (("rnn9", "rnn10"), (12, 12, 12), "order of their names"),
    ],
)
def test_chains_of_stacks_are_ordered_by_names_and_sizes(tmp_path, names, sizes, word):
    torch.manual_seed(0)
    network = Two(*names, sizes).eval()
    torch.save(network.state_dict(), tmp_path / "two.pt")
    found = read_classifier(tmp_path / "two.pt")
    x = batch()[0]
    with torch.no_grad():
        torch.testing.assert_close(answers(found, x), network(x), rtol=1e-5, atol=1e-6)
    assert word in found.notes[0]


def test_unrelated_stacks_need_the_users_word(tmp_path):
    torch.manual_seed(0)
    parts = {"a": nn.LSTM(12, 8), "b": nn.LSTM(12, 8), "fc": nn.Linear(8, 3)}
    torch.save(nn.ModuleDict(parts).state_dict(), tmp_path / "m.pt")
    with pytest.raises(UsageError, match=r"a 12 -> 8, b 12 -> 8; name the ones .* `stacks=A,B`"):
        read_classifier(tmp_path / "m.pt")
    assert read_classifier(tmp_path / "m.pt", Wiring(stacks=("b",))).recurrent.keys() == {"b"}
    with pytest.raises(UsageError, match="each stack must take what the one before gives"):
        read_classifier(tmp_path / "m.pt", Wiring(stacks=("a", "b")))
    with pytest.raises(UsageError, match=r"no such stack: c.*the file has a"):
        read_classifier(tmp_path / "m.pt", Wiring(stacks=("c",)))


def write_parts(path, **modules):
    torch.manual_seed(0)
    torch.save(nn.ModuleDict({"rnn": nn.LSTM(12, 16), **modules}).state_dict(), path)
    return path


def test_ambiguous_heads_are_listed_and_head_decides(tmp_path):
    path = write_parts(tmp_path / "m.pt", one=nn.Linear(16, 3), two=nn.Linear(16, 5))
    with pytest.raises(UsageError, match=r"one.weight 3 x 16, two.weight 5 x 16; name one with `head`"):
        read_classifier(path)
    assert read_classifier(path, classes=5).classes == 5
    for key in ("one", "one.weight"):
        assert read_classifier(path, Wiring(head=key)).classes == 3
    with pytest.raises(UsageError, match=r"is not in the file \(did you mean 'one'\?\)"):
        read_classifier(path, Wiring(head="ones"))
    with pytest.raises(UsageError, match=r"one.weight has 3 for data of 5 classes"):
        read_classifier(path, Wiring(head="one"), classes=5)
    with pytest.raises(UsageError, match=r"'rnn.weight_hh_l0' is \(64, 16\)"):
        read_classifier(path, Wiring(head="rnn.weight_hh_l0"))


def test_a_bias_tells_a_head_from_an_embedding(tmp_path):
    found = read_classifier(write_parts(tmp_path / "m.pt", words=nn.Embedding(40, 16), fc=nn.Linear(16, 3)))
    assert found.classes == 3
    assert "the only one with a bias" in found.notes[1]


def test_a_head_without_bias_is_found(tmp_path):
    found = read_classifier(write_parts(tmp_path / "m.pt", fc=nn.Linear(16, 3, bias=False)))
    assert found.head == ("fc.weight",)


def test_no_head_and_wrong_class_counts_say_what_to_do(tmp_path):
    with pytest.raises(InputFileError, match=r"no classifier head .* takes their 16 outputs.*`model=package"):
        read_classifier(write_parts(tmp_path / "none.pt", fc=nn.Linear(15, 3)))
    with pytest.raises(InputFileError, match=r"fc.weight 3 x 16 for data of 4 classes.*`model=package"):
        read_classifier(write_parts(tmp_path / "three.pt", fc=nn.Linear(16, 3)), classes=4)


def test_names_that_pytorch_cannot_place_still_go_back_to_their_keys(tmp_path):
    cell, head = nn.LSTMCell(12, 16), nn.Linear(16, 3)
    tensors = {f"forward.{name}": value for name, value in cell.state_dict().items()}
    tensors |= {"fc_w": head.weight.detach(), "fc_b": head.bias.detach()}
    np.savez(tmp_path / "odd.npz", **{key: value.numpy() for key, value in tensors.items()})
    found = read_classifier(tmp_path / "odd.npz")
    back = found.file_tensors()
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)
    x, state = batch()[0], None
    for step in range(x.shape[1]):
        state = cell(x[:, step], state)
    with torch.no_grad():
        torch.testing.assert_close(answers(found, x), head(state[0]), rtol=1e-5, atol=1e-6)


def test_a_stack_at_the_root_works(tmp_path):
    torch.manual_seed(0)
    rnn, head = nn.GRU(12, 16), nn.Linear(16, 3)
    tensors = dict(rnn.state_dict()) | {f"head.{name}": value for name, value in head.state_dict().items()}
    save_file(tensors, tmp_path / "root.safetensors")
    found = read_classifier(tmp_path / "root.safetensors")
    assert found.file_tensors().keys() == tensors.keys()


def test_half_precision_files_are_computed_in_float32(tmp_path):
    network = small_task.write_network(tmp_path / "model.pt")
    torch.save({k: v.bfloat16() for k, v in network.state_dict().items()}, tmp_path / "half.pt")
    found = read_classifier(tmp_path / "half.pt")
    assert {p.dtype for p in found.module.parameters()} == {torch.float32}


def test_unknown_readouts_and_kinds_are_refused():
    with pytest.raises(UsageError, match="readout must be one of final, last-step, mean, every: got 'first'"):
        Wiring(readout="first")
    with pytest.raises(UsageError, match="kind must be one of lstm, gru, rnn: got 'tcn'"):
        dense_classifier(3, 2, kind="tcn")
