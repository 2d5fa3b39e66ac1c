"""Layers that are fed what they were fed before give what they gave before, without running again."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from trcompress.calibration import LiveNetwork
from trcompress.network import layerwise
from trcompress.network.calls import Calls
from trcompress.network.layerwise import Substitute, layer_by_layer


class Net(nn.Module):
    """Packed layers under a decoder loop; it changes what its layers give in place, as users do."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 5, 3, batch_first=True)
        self.cell = nn.LSTMCell(5, 4)

    def forward(self, x):
        lengths = torch.arange(len(x)) % x.shape[1] + 1
        _, last = self.rnn(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        focus, state, steps = last[-1].mul_(0.5), None, []
        for _ in range(3):
            state = self.cell(focus, state)
            steps.append(state[0].add_(1.0))
        return torch.stack(steps, 1)


def count_runs(monkeypatch):
    """The layers that run from here on."""
    ran, run = [], layerwise._run_layer

    def counted(layer, *given):
        ran.append(layer.weights[0])
        return run(layer, *given)

    monkeypatch.setattr(layerwise, "_run_layer", counted)
    return ran


def other(model, weight):
    torch.manual_seed(1)
    own = model.get_parameter(weight).detach()
    return {weight: Substitute(own + 0.1 * torch.randn_like(own))}


def test_only_layers_behind_a_substitute_run_again(monkeypatch):
    torch.manual_seed(0)
    model, batches = Net().eval(), [torch.randn(4, 7, 6) for _ in range(4)]
    live = LiveNetwork.of(model, batches)
    held = live.held_out
    for weight, expected in {
        "rnn.weight_ih_l2": ["rnn.weight_ih_l2", "cell.weight_ih", "cell.weight_ih", "cell.weight_ih"],
        "cell.weight_ih": ["cell.weight_ih"] * 3,
    }.items():
        ran = count_runs(monkeypatch)
        found = held.distance(other(model, weight))
        assert ran == expected
        (batch,) = held.batches
        with torch.no_grad():
            dense = model(batch).reshape(-1, 4)
            with layer_by_layer(model, other(model, weight)):
                plain = float(live.difference([model(batch).reshape(-1, 4)], [dense]))
        assert found > 1e-4
        assert abs(found - plain) < 1e-6 * plain
        assert found == held.distance(other(model, weight)), "what users change in place is not what is kept"
    assert held.distance({}) == 0


def test_no_more_is_kept_than_allowed():
    calls, x = Calls(most_bytes=2 * 4 * 8), torch.ones(8)
    for place in range(3):
        calls.answer("rnn", x + place, lambda place=place: x * place)
    calls.rewind()
    ran = []
    for place in range(3):
        calls.answer("rnn", x + place, lambda place=place: ran.append(place))
    assert ran == [1, 2]


def test_nothing_of_the_layers_is_kept_once_the_search_is_over(monkeypatch):
    torch.manual_seed(0)
    live = LiveNetwork.of(model := Net().eval(), [torch.randn(4, 7, 6) for _ in range(4)])
    substitute = other(model, "cell.weight_ih")
    before = live.distance(substitute)
    live.release()
    ran = count_runs(monkeypatch)
    assert live.distance(substitute) == before
    assert len(ran) == 6, "three layers and three steps: none is known"
