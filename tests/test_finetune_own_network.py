"""The user's own network, swapped and trained."""

import pytest
import small_task
import torch
from safetensors.torch import load_file

from trcompress.artifact.file import read_artifact
from trcompress.errors import UsageError
from trcompress.network.classifier import Wiring
from trcompress.training.evaluate import evaluate


def test_users_own_network_is_swapped_and_trained(files, tune):
    wiring = Wiring(model="small_task:Network")
    result = tune(teacher=files["dense"], wiring=wiring, settings={"distill": {"hidden": 1.0}})
    before, after = read_artifact(files["ring"]), read_artifact(result.out)
    assert after.tensors.keys() == before.tensors.keys()
    assert evaluate(result.out, files["data"], wiring=wiring).accuracy == result.metrics["accuracy_after"]
    assert result.history[-1]["loss"] < result.history[1]["loss"]


class Fixed(small_task.Network):
    def __init__(self):
        super().__init__()
        self.classify.requires_grad_(False)

    def forward(self, x):
        return {"logits": 1} if x is None else (super().forward(x), None)


def test_what_the_users_network_froze_stays_frozen(files, tune):
    wiring = Wiring(model="test_finetune_own_network:Fixed")
    before, after = load_file(files["ring"]), load_file(tune(wiring=wiring).out)
    assert torch.equal(before["classify.weight"], after["classify.weight"])
    assert not torch.equal(before["encoder.rnn.weight_hh_l0"], after["encoder.rnn.weight_hh_l0"])
    with pytest.raises(UsageError, match=r"take \(x, lengths\), or a mask; Fixed.forward takes x alone"):
        tune(small_task.data_set(variable=True), wiring=wiring, overwrite=True)


def test_head_of_the_users_network_is_named_by_the_user(files, tune):
    with pytest.raises(UsageError, match="name it with `head`"):
        tune(wiring=Wiring(model="small_task:Network"), settings={"freeze": "head"})
    wiring = Wiring(model="small_task:Network", head="classify")
    after = load_file(tune(wiring=wiring, settings={"freeze": "head"}, overwrite=True).out)
    assert torch.equal(after["classify.weight"], load_file(files["ring"])["classify.weight"])


@pytest.mark.parametrize("model", ["small_task:Netwerk", "nowhere.at_all:Network", "small_task:CLASSES"])
def test_factories_that_do_not_exist_are_refused(files, model):
    with pytest.raises(UsageError):
        evaluate(files["ring"], files["data"], wiring=Wiring(model=model))
