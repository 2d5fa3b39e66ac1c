"""What of a file of inputs reaches which layer of a network without code."""

import numpy as np
import pytest
import torch
from file_networks import first_batch, network_of, save_network
from torch import nn

from trcompress.errors import InputFileError, UsageError
from trcompress.network.record import record


def test_layers_are_fed_what_the_dense_network_feeds_them(tmp_path):
    torch.manual_seed(0)
    rnn = nn.GRU(5, 4, 3, bidirectional=True)
    x = torch.randn(7, 9, 5)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=rnn)
    wanted, state = rnn(x.transpose(0, 1))
    for compare, rows in (
        ("every", wanted.transpose(0, 1).flatten(0, 1)),
        ("final", torch.cat(tuple(state[-2:]), -1)),
    ):
        network, data = network_of(checkpoint, {"x": x.numpy()}, tmp_path, compare=compare)
        (found,) = network(first_batch(data, 7))
        assert torch.allclose(found, rows, atol=1e-6)
    names = network.weights
    assert record(network, data.batches(np.arange(7), 7)).inputs[names["rnn.weight_ih_l2_reverse"]].count == 63


def test_steps_after_the_end_of_a_sequence_do_not_count(tmp_path):
    torch.manual_seed(0)
    rnn = nn.LSTM(5, 4, bidirectional=True)
    x, lengths = torch.randn(3, 9, 5), np.array([9, 2, 5])
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=rnn)
    arrays = {"x": x.numpy(), "length": lengths}
    every, data = network_of(checkpoint, arrays, tmp_path)
    final, _ = network_of(checkpoint, arrays, tmp_path, compare="final")
    alone = [rnn(one[:length].unsqueeze(1)) for one, length in zip(x, lengths, strict=True)]
    assert len(every(first_batch(data, 3))[0]) == lengths.sum()
    (found,) = final(first_batch(data, 3))
    for place, (_, (hidden, _)) in enumerate(alone):
        assert torch.allclose(found[place], hidden[:, 0].flatten(), atol=1e-6)


def test_a_chain_of_stacks_is_followed(tmp_path):
    torch.manual_seed(0)
    first, second = nn.LSTM(5, 6), nn.GRU(6, 4)
    checkpoint = save_network(tmp_path / "m.safetensors", rnn1=first, rnn2=second)
    x = torch.randn(3, 7, 5)
    network, data = network_of(checkpoint, {"x": x.numpy()}, tmp_path)
    wanted = second(first(x.transpose(0, 1))[0])[0].transpose(0, 1).flatten(0, 1)
    assert torch.allclose(network(first_batch(data, 3))[0], wanted, atol=1e-6)
    assert any("rnn2 is fed what rnn1 gives" in note for note in network.notes)


def encoder_decoder(tmp_path):
    torch.manual_seed(0)
    parts = {
        "enc": nn.GRUCell(6, 5),
        "dec": nn.GRUCell(6, 5),
        "enc_emb": nn.Embedding(9, 6),
        "dec_emb": nn.Embedding(7, 6),
        "out": nn.Linear(5, 7),
    }
    random = np.random.default_rng(0)
    arrays = {
        "enc": random.integers(0, 9, (40, 8)),
        "length_enc": random.integers(1, 9, 40),
        "x_dec": random.integers(0, 7, (40, 5)),
        "state_dec": np.array("enc"),
    }
    return parts, save_network(tmp_path / "m.safetensors", **parts), arrays


def test_a_decoder_starts_where_its_encoder_ends(tmp_path):
    parts, checkpoint, arrays = encoder_decoder(tmp_path)
    network, data = network_of(checkpoint, arrays, tmp_path)
    hidden = torch.zeros(40, 5)
    for step in range(8):
        moved = parts["enc"](parts["enc_emb"](torch.from_numpy(arrays["enc"][:, step])), hidden)
        hidden = torch.where(torch.from_numpy(arrays["length_enc"] > step).unsqueeze(1), moved, hidden)
    wanted = []
    for step in range(5):
        hidden = parts["dec"](parts["dec_emb"](torch.from_numpy(arrays["x_dec"][:, step])), hidden)
        wanted.append(parts["out"](hidden))
    (found,) = network(first_batch(data, 40))
    assert torch.allclose(found.view(40, 5, 7), torch.stack(wanted, 1), atol=1e-6)
    assert network.outputs.kind == "scores", "the head has one row for each token"
    assert any("out.weight" in note and "each step" in note for note in network.notes)
    keys = network.file_keys
    assert set(keys.values()) == set(checkpoint.shapes)
    state = network.state_dict()
    assert all(torch.equal(state[name], checkpoint.tensor(key)) for name, key in keys.items())


def test_padding_of_tokens_is_minus_one(tmp_path):
    _, checkpoint, arrays = encoder_decoder(tmp_path)
    arrays["x_dec"][3, 2:] = -1
    network, data = network_of(checkpoint, arrays, tmp_path)
    assert len(network(first_batch(data, 40))[0]) == 40 * 5 - 3


def test_time_is_folded_to_what_the_layer_takes(tmp_path):
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(12, 4))
    x = np.random.default_rng(0).normal(size=(5, 8, 3)).astype(np.float32)
    _, data = network_of(checkpoint, {"x": x}, tmp_path)
    assert np.array_equal(first_batch(data, 5)["fed"]["rnn"][0].numpy().reshape(-1, 12), x.reshape(-1, 12))
    assert "folded into 2 steps" in data.notes[0]


def test_only_training_rows_of_a_labelled_file_are_read(tmp_path):
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(3, 4), fc=nn.Linear(4, 2))
    x = np.arange(20, dtype=np.float32).reshape(20, 1, 1).repeat(3, 2)
    arrays = {"x": x, "y": np.arange(20) % 2, "group": np.arange(20) // 2}
    _, data = network_of(checkpoint, arrays, tmp_path, split="group", test_groups="3,4")
    values = data.feeds["rnn"].read(np.arange(data.count))[0][:, 0, 0]
    assert sorted(values.tolist()) == [0, 1, 2, 3, 4, 5, *range(10, 20)]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((3, 2, 5))}, "must hold x or x_train"),
        ({"x": np.zeros((3, 2, 7))}, r"7 values a step, but rnn takes 5"),
        ({"x": np.zeros((3, 2), int)}, "need an embedding"),
        ({"x": np.full((3, 2, 5), np.nan)}, "must be finite"),
        ({"x": np.zeros((3, 2, 5)), "length": np.array([1, 2, 9])}, "length must be 1 to 2: got 1 to 9"),
        ({"x_rmn": np.zeros((3, 2, 5))}, r"x_rmn names no recurrent stack \(did you mean 'rnn'\?\)"),
        ({"x_rnn": np.zeros((3, 2, 5)), "state_rnn": np.zeros((3, 9))}, r"\(N, 1, 4\) values"),
        ({"x_rnn": np.zeros((3, 2, 5)), "state_rnn": np.array("enc")}, "state_rnn must name another stack"),
    ],
)
def test_data_that_does_not_fit_is_refused(arrays, message, tmp_path):
    checkpoint = save_network(tmp_path / "m.safetensors", rnn=nn.LSTM(5, 4))
    with pytest.raises(InputFileError, match=message):
        network_of(checkpoint, arrays, tmp_path)


def test_tokens_must_say_which_stack_they_are_for(tmp_path):
    _, checkpoint, arrays = encoder_decoder(tmp_path)
    with pytest.raises(UsageError, match="x_dec, x_enc"):
        network_of(checkpoint, {"x": arrays["enc"]}, tmp_path)
    with pytest.raises(InputFileError, match="rows"):
        network_of(checkpoint, {"enc": arrays["enc"], "dec": arrays["x_dec"][:9]}, tmp_path)


def test_an_embedding_is_found_by_name_or_named(tmp_path):
    _, checkpoint, arrays = encoder_decoder(tmp_path)
    assert network_of(checkpoint, arrays, tmp_path)[1].feeds["dec"].embedding_key == "dec_emb.weight"
    named = arrays | {"embedding_dec": np.array("enc_emb.weight")}
    assert network_of(checkpoint, named, tmp_path)[1].feeds["dec"].embedding_key == "enc_emb.weight"
    with pytest.raises(InputFileError, match="embedding of dec"):
        network_of(checkpoint, arrays | {"embedding_dec": np.array("out.weight")}, tmp_path)
