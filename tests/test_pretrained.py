"""Folders of the Hub's layout: written, read back, refused where they are not what they should be."""

import json

import pytest
import torch
from torch import nn

import trcompress
from trcompress.errors import InputFileError, OutputFileError, UsageError


class Tagger(nn.Module, trcompress.PretrainedMixin):
    def __init__(self, width, hidden=16, *, act=None):
        super().__init__()
        self.rnn = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3)
        self.act = act

    def forward(self, x):
        return self.head(self.rnn(x)[0])


@pytest.fixture
def tagger():
    torch.manual_seed(0)
    model = Tagger(12, act=nn.ReLU())
    return trcompress.compress_(model, trcompress.Plan.of("4x3:4x4", "2")).model


def test_a_network_comes_back_by_its_own_class(tagger, tmp_path):
    folder = tagger.save_pretrained(tmp_path / "model")
    assert json.loads((folder / "config.json").read_text()) == {"width": 12, "hidden": 16}
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: trcompress")
    again = Tagger.from_pretrained(folder)
    x = torch.randn(2, 5, 12)
    assert torch.equal(again(x), tagger.eval()(x))
    assert not again.training
    assert isinstance(again.rnn, trcompress.TRLSTM)


def test_without_code_the_stacks_come_back(tagger, tmp_path):
    trcompress.save_pretrained(tagger, tmp_path / "model", config={"width": 12})
    stacks = trcompress.from_pretrained(tmp_path / "model")
    x = torch.randn(2, 5, 12)
    assert torch.equal(stacks["rnn"](x)[0], tagger.eval().rnn(x)[0])


def test_files_are_kept_unless_told(tagger, tmp_path):
    tagger.save_pretrained(tmp_path)
    with pytest.raises(OutputFileError, match="the output exists"):
        tagger.save_pretrained(tmp_path)
    tagger.save_pretrained(tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [("[]", "must hold a JSON object"), ("{", "is not a JSON object"), ('{"depth": 3}', "is not of Tagger")],
)
def test_other_configs_are_refused(tagger, tmp_path, config, message):
    tagger.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputFileError, match=message):
        Tagger.from_pretrained(tmp_path)


def test_what_is_no_folder_is_not_fetched(tmp_path):
    with pytest.raises(InputFileError, match="names on the Hub are not fetched"):
        trcompress.from_pretrained("someone/some-model")
    with pytest.raises(UsageError, match="must hold JSON values"):
        trcompress.save_pretrained(nn.LSTM(2, 2), tmp_path, config={"a": {1, 2}})


class Flexible(nn.Module, trcompress.PretrainedMixin):
    def __init__(self, width=12, *layers, **options):
        super().__init__()
        self.rnn = nn.LSTM(width, 16, **options)


def test_keyword_arguments_of_any_name_come_back(tmp_path):
    model = trcompress.compress_(Flexible(12, bidirectional=True), trcompress.Plan.of("4x3:4x4", "2")).model
    folder = model.save_pretrained(tmp_path / "model")
    assert json.loads((folder / "config.json").read_text()) == {"width": 12, "bidirectional": True}
    assert Flexible.from_pretrained(folder).rnn.bidirectional


class Wrapped(nn.Module, trcompress.PretrainedMixin):
    def __init__(self, layers):
        super().__init__()
        self.model = Flexible(num_layers=layers)


def test_the_config_is_the_networks_own_whatever_its_parts_are_called(tmp_path):
    net = Wrapped(1)
    trcompress.compress_(net, trcompress.Plan.of("4x3:4x4", 2))
    folder = trcompress.save_pretrained(net, tmp_path / "net")
    assert json.loads((folder / "config.json").read_text()) == {"layers": 1}


def test_what_the_hubs_mixin_takes_is_taken(tagger, tmp_path):
    folder = tagger.save_pretrained(tmp_path, config={"width": 12, "hidden": 16}, push_to_hub=False)
    of_the_hub = {"force_download": False, "token": None, "cache_dir": None, "local_files_only": True}
    again = Tagger.from_pretrained(folder, map_location="cpu", strict=True, revision="main", **of_the_hub)
    assert torch.equal(again.head.weight, tagger.head.weight)
    assert Tagger.from_pretrained(folder, act="tanh").act == "tanh"
    with pytest.raises(UsageError, match="`push_to_hub` needs the network"):
        tagger.save_pretrained(tmp_path / "other", push_to_hub=True)
    with pytest.raises(TypeError, match=r"Tagger\.__init__\(\) got an unexpected keyword argument 'nonsense'"):
        Tagger.from_pretrained(folder, nonsense=1)


class Speller(nn.Module, trcompress.PretrainedMixin):
    """Tokens in; its embedding is wider than there are words, so that it folds."""

    def __init__(self, words=12, width=24, hidden=16):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, tokens):
        return self.head(self.rnn(self.embed(tokens))[1][0][-1])


GOALS = [
    {"target_size": 6000, "passes": ("fold", "rounding"), "packed": True},
    {"target_size": 5000, "units": 8, "trained": True},
    {"target_size": 6000, "rank": 2, "matrices": ("ih", "hh"), "trained": True},
]


@pytest.fixture(params=GOALS, ids=["folded and rounded", "fewer units", "low rank"])
def made_small(request):
    torch.manual_seed(0)
    tokens = torch.randint(12, (24, 7))
    return trcompress.compress_(Speller(), calibrate=list(tokens.split(8)), **request.param), tokens


def test_a_network_with_a_goal_of_bytes_comes_back_as_small_as_it_was(made_small, tmp_path):
    result, tokens = made_small
    folder = trcompress.save_pretrained(result, tmp_path / "model")
    assert json.loads((folder / "config.json").read_text()) == {"words": 12, "width": 24, "hidden": 16}
    assert (folder / "model.safetensors").stat().st_size <= result.nbytes
    again = Speller.from_pretrained(folder)
    assert torch.equal(again(tokens), result.model.eval()(tokens))


def test_an_artifact_becomes_a_folder_as_it_is(made_small, tmp_path):
    result, tokens = made_small
    path = result.save(tmp_path / "small.safetensors")
    folder = trcompress.save_pretrained(path, tmp_path / "model", config={"words": 12})
    assert (folder / "model.safetensors").read_bytes() == path.read_bytes()
    assert torch.equal(Speller.from_pretrained(folder)(tokens), result.model.eval()(tokens))
    with pytest.raises(OutputFileError, match="input"):
        trcompress.save_pretrained(folder / "model.safetensors", folder, overwrite=True)
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(InputFileError):
        trcompress.save_pretrained(tmp_path / "a.pt", tmp_path / "none")
    assert not (tmp_path / "none" / "model.safetensors").exists()


def test_a_network_that_its_class_does_not_build_is_refused(made_small, tmp_path):
    result, _ = made_small
    with pytest.raises(UsageError, match=r"other sizes than the network .*trcompress\.save_pretrained"):
        result.model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
