"""The recorder against torch.nn's own cells, run by hand."""

import pytest
import torch
from torch import nn

from trcompress.passes.layer_inputs import layer_inputs
from trcompress.passes.matrix_moments import matrix_moments

CASES = [
    (kind, layers, two_way, proj)
    for kind in ("LSTM", "GRU", "RNN")
    for layers in (1, 2)
    for two_way in (False, True)
    for proj in ((0, 3) if kind == "LSTM" else (0,))
]


@pytest.mark.parametrize(("kind", "layers", "two_way", "proj"), CASES)
def test_every_layer_gives_what_the_module_gives(kind: str, layers: int, two_way: bool, proj: int) -> None:
    torch.manual_seed(0)
    options = {"proj_size": proj} if proj else {}
    module = getattr(nn, kind)(4, 5, layers, batch_first=True, bidirectional=two_way, **options).double().eval()
    x, lengths = torch.randn(3, 6, 4).double(), torch.tensor([6, 4, 2])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    whole, _ = nn.utils.rnn.pad_packed_sequence(module(packed)[0], batch_first=True)
    top = [step for step in layer_inputs(module, packed) if f"_l{layers - 1}" in step.suffix]
    for number, step in enumerate(top):
        given = whole.chunk(len(top), -1)[number]
        for row, length in enumerate(lengths.tolist()):
            want = given[row, :length]
            states = step.states[row, :length]
            if number:  # backwards: the state before step t is the output at t + 1
                torch.testing.assert_close(states[:-1], want[1:])
            else:
                torch.testing.assert_close(states[1:], want[:-1])
        if proj:
            weight = getattr(module, f"weight_hr{step.suffix}")
            torch.testing.assert_close((step.unprojected @ weight.T)[step.valid], given[step.valid])


def test_moments_are_those_of_all_real_steps() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.GRU(4, 5, batch_first=True)).double()
    x, lengths = torch.randn(3, 6, 4).double(), torch.tensor([6, 4, 2])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
    seen = matrix_moments(module, [packed, packed], lambda model, batch: model(batch)).moments["0.weight_ih_l0"]
    rows = torch.cat([x[k, :n] for k, n in enumerate(lengths.tolist())])
    assert seen.count == 2 * len(rows)
    torch.testing.assert_close(seen.mean, rows.mean(0))
    torch.testing.assert_close(seen.second, rows.T @ rows / len(rows))


def test_cells_in_a_loop_are_seen_at_every_step() -> None:
    torch.manual_seed(0)
    cell = nn.LSTMCell(4, 5)
    states = []

    def forward(model: nn.Module, batch: torch.Tensor) -> None:
        state = (torch.zeros(2, 5), torch.zeros(2, 5))
        for step in batch:
            states.append(state[0])
            state = model(step, state)

    seen = matrix_moments(cell, [torch.randn(3, 2, 4)], forward).moments["weight_hh"]
    torch.testing.assert_close(seen.mean, torch.cat(states).double().mean(0))


def test_the_modes_of_all_modules_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(3, 2))
    model[0].eval()
    matrix_moments(model, [torch.ones(1, 3)], lambda model, batch: model(batch))
    assert model.training
    assert not model[0].training
