"""Pretrained networks, compressed for real: a grapheme-to-phoneme GRU's error rate, and silero's LSTM cell."""

import pytest
import torch
from g2p import Words, decode
from samples import sample

import trcompress
from trcompress import Plan

SVD_RANKS = {3: 64, 6: 32}


@pytest.fixture(scope="module")
def g2p():
    checkpoint = trcompress.read_checkpoint(sample("g2p/checkpoint20.npz"))
    words = Words(sample("g2p"))
    return checkpoint, words, list(words.accepted)[:400]


def error_rate(tensors, words, chosen):
    return words.error_rate(chosen, decode(tensors, *words.tokens(chosen)))


def expanded(checkpoint, path):
    """The checkpoint's tensors with the artifact's layers in place of the two input weights."""
    tensors = dict(checkpoint.tensors())
    for name, cell in trcompress.load(path).items():
        assert isinstance(cell, trcompress.TRGRUCell)
        tensors[f"{name}_w_ih"] = cell.weight_ih.to_dense().detach()
    return tensors


def test_phoneme_error_rate_before_and_after(g2p, tmp_path):
    checkpoint, words, chosen = g2p
    rates = {1: error_rate(dict(checkpoint.tensors()), words, chosen)}
    for ratio, rank in SVD_RANKS.items():
        artifact = trcompress.decompose(checkpoint, Plan.of("256:768", f"1,{rank}"), init="tr-svd")
        path = trcompress.write_artifact(tmp_path / f"{ratio}.safetensors", artifact)
        assert trcompress.report(path).compression_ratio == pytest.approx(ratio)
        rates[ratio] = error_rate(expanded(checkpoint, path), words, chosen)
    assert 5 < rates[1] < 12  # percent; about 9.7 on all 2,000 words
    assert rates[1] - 1 < rates[3] < rates[1] + 3
    assert rates[3] - 0.5 < rates[6] < rates[1] + 7


def test_full_ranks_leave_every_decoded_word_as_it_was(g2p, tmp_path):
    checkpoint, words, chosen = g2p
    artifact = trcompress.decompose(checkpoint, Plan.of("16x16:32x24", "full"), init="tr-svd")
    path = trcompress.write_artifact(tmp_path / "full.safetensors", artifact)
    tokens = words.tokens(chosen)
    assert decode(expanded(checkpoint, path), *tokens) == decode(dict(checkpoint.tensors()), *tokens)


def test_sileros_cell_step_for_step(tmp_path):
    checkpoint = trcompress.read_checkpoint(sample("silero_vad_16k.safetensors"))
    artifact = trcompress.decompose(checkpoint, Plan.of("16x8:8x4x4", "full"), init="tr-svd")
    path = trcompress.write_artifact(tmp_path / "vad.safetensors", artifact)
    (ring,) = trcompress.load(path).values()
    dense = torch.nn.LSTMCell(128, 128)
    dense.load_state_dict({k.removeprefix("lstm_cell."): v for k, v in checkpoint.tensors() if "lstm_cell" in k})
    torch.manual_seed(0)
    state, twin = (torch.zeros(4, 128),) * 2, (torch.zeros(4, 128),) * 2
    with torch.no_grad():
        for _ in range(20):
            x = torch.randn(4, 128)
            state, twin = dense(x, state), ring(x, twin)
            torch.testing.assert_close(twin, state, rtol=0, atol=1e-5)
    for key, tensor in checkpoint.tensors():
        if key != "lstm_cell.weight_ih":
            assert torch.equal(artifact.tensors[key], tensor)
