"""Features: what an ONNX CNN says of every frame, with groups and splits kept; interrupted runs go on."""

import sys
import types
import warnings

import numpy as np
import pytest
import torch

from trcompress.data import extract, find_clips, load_data, make_clips
from trcompress.data.backbones import NORMALIZATIONS
from trcompress.data.decode import DecodeSettings, decode_clip
from trcompress.data.open_backbone import open_backbone
from trcompress.errors import InputFileError, MissingExtraError, OutputFileError, UsageError

pytest.importorskip("av", reason="needs the extra [video]")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

SIZE = (32, 24)


class TinyCNN(torch.nn.Module):
    """Convolution, averaged over places: 5 features. `last` takes (N, H, W, 3), `maps` keeps the places."""

    def __init__(self, last=False, maps=False):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 5, 5, 4)
        self.last, self.maps = last, maps

    def forward(self, x):
        y = self.convolution(x.permute(0, 3, 1, 2) if self.last else x).relu()
        return y if self.maps else y.mean(dim=(2, 3))


def export(model, path, shape, dynamic=("n",)):
    names = {0: "n", 2: "h", 3: "w"}
    axes = {"x": {axis: name for axis, name in names.items() if name in dynamic}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(), (torch.zeros(shape),), path, input_names=["x"], dynamic_axes=axes, dynamo=False
        )
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Trees of both layouts, a CNN, and its ONNX file."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    cnn = TinyCNN()
    export(cnn, folder / "tiny.onnx", (2, 3, 24, 32))
    small = {"classes": 2, "groups": 5, "clips_per_group": 1, "frames": 10, "size": (64, 48)}
    for layout in ("ucf11", "hmdb51"):
        make_clips(folder / layout, layout, **small)
    return types.SimpleNamespace(folder=folder, cnn=cnn, onnx=folder / "tiny.onnx")


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "workers": 0, "frames": 4}


def expected(cnn, clip, normalize="imagenet"):
    """The slow way: decode, normalise and run PyTorch's own module, frame by frame."""
    frames = decode_clip(clip.path, DecodeSettings(4, *SIZE, 100, 10**6)).frames
    mean, deviation = (torch.tensor(values) for values in NORMALIZATIONS[normalize])
    rows = []
    for frame in frames:
        image = ((torch.from_numpy(frame).float() - mean) / deviation).permute(2, 0, 1)[None]
        rows.append(cnn(image)[0])
    return torch.stack(rows).detach()


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("layout", ["ucf11", "hmdb51"])
def test_features_are_the_networks_and_splits_are_kept(work, tmp_path, options, layout, suffix):
    out = tmp_path / f"f.{suffix}"
    made = extract(work.folder / layout, work.onnx, out, **options)
    assert (made.clips, made.frames, made.features) == (10, 4, 5)
    tree = find_clips(work.folder / layout)
    whole = load_data(out, split="none", validation_fraction=0)
    x, y, _ = whole.train.batch(range(10))
    for row, clip in enumerate(tree.clips):
        torch.testing.assert_close(x[row], expected(work.cnn, clip), rtol=1e-4, atol=1e-5)
    assert y.tolist() == [clip.label for clip in tree.clips]
    assert whole.train.groups.tolist() == [clip.group for clip in tree.clips]
    assert whole.classes == tree.classes
    assert whole.notes[0] == f"features of procedural clips ({layout}) by tiny.onnx, imagenet pixels"
    video = load_data(work.folder / layout, **(options | {"size": "32x24"}))
    assert load_data(out).split_note == video.split_note
    assert load_data(out).test.rows.tolist() == video.test.rows.tolist()
    if layout == "hmdb51":
        other = load_data(work.folder / layout, split_number=3, **(options | {"size": "32x24"}))
        assert load_data(out, split_number=3).test.rows.tolist() == other.test.rows.tolist()
    assert load_data(out, frames=2).steps == 2


@pytest.mark.parametrize("normalize", list(NORMALIZATIONS))
def test_pixels_are_normalised_as_asked(work, normalize):
    backbone = open_backbone(work.onnx, None, normalize)
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3)).astype(np.uint8)
    mean, deviation = (torch.tensor(values) for values in NORMALIZATIONS[normalize])
    images = ((torch.from_numpy(frames) - mean) / deviation).permute(0, 3, 1, 2)
    wanted = work.cnn(images).detach().numpy()
    np.testing.assert_allclose(backbone.features(frames), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("model", "shape", "dynamic", "size"),
    [
        ({"maps": True}, (1, 3, 24, 32), ("n",), (32, 24)),
        ({}, (2, 3, 24, 32), (), (32, 24)),
        ({"last": True}, (1, 24, 32, 3), ("n",), (32, 24)),
        ({}, (1, 3, 24, 32), ("n", "h", "w"), None),
    ],
    ids=["feature maps", "fixed batch", "channels last", "any size"],
)
def test_networks_of_every_shape(tmp_path, model, shape, dynamic, size):
    torch.manual_seed(1)
    cnn = TinyCNN(**model)
    backbone = open_backbone(export(cnn, tmp_path / "m.onnx", shape, dynamic), None, "unit")
    assert backbone.size == size
    frames = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3)).astype(np.uint8)
    images = torch.from_numpy(frames) / 255
    wanted = cnn(images if model.get("last") else images.permute(0, 3, 1, 2)).detach()
    wanted = wanted.mean(dim=(2, 3)) if wanted.ndim == 4 else wanted
    np.testing.assert_allclose(backbone.features(frames), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_network_of_any_size_needs_one(tmp_path, work, options):
    path = export(TinyCNN(), tmp_path / "m.onnx", (1, 3, 24, 32), ("n", "h", "w"))
    with pytest.raises(UsageError, match="give size WIDTHxHEIGHT"):
        extract(work.folder / "ucf11", path, tmp_path / "f.npz", **options)
    assert extract(work.folder / "ucf11", path, tmp_path / "f.npz", size="32x24", **options).clips == 10


def test_an_interrupted_run_goes_on_where_it_stopped(work, tmp_path, options, monkeypatch):
    calls = []
    monkeypatch.setattr("trcompress.data.features._CHUNK", 4)

    def stop(done, total, what):
        calls.append(done)
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(work.folder / "ucf11", work.onnx, tmp_path / "f.npz", progress=stop, **options)
    assert not (tmp_path / "f.npz").exists()
    kept = list((options["cache_dir"] / "extract").iterdir())
    assert len(kept) == 8
    kept[0].write_bytes(b"damaged")
    kept[1].with_name(f".{kept[1].name}.trcompress.lock").touch()  # as a run leaves it that is killed right then
    decoded = []
    monkeypatch.setattr(
        "trcompress.data.decode_worker.decode_clip",
        lambda path, settings: decoded.append(path) or decode_clip(path, settings),
    )
    extract(work.folder / "ucf11", work.onnx, tmp_path / "f.npz", **options)
    assert len(decoded) == 3
    assert list((options["cache_dir"] / "extract").iterdir()) == []
    x = load_data(tmp_path / "f.npz", split="none", validation_fraction=0).train.batch(range(10))[0]
    for row, clip in enumerate(find_clips(work.folder / "ucf11").clips):
        torch.testing.assert_close(x[row], expected(work.cnn, clip), rtol=1e-4, atol=1e-5)


def test_bad_clips_are_left_out_and_named(work, tmp_path, options):
    import shutil

    root = tmp_path / "tree"
    shutil.copytree(work.folder / "ucf11", root)
    bad = sorted(root.glob("*/*/*.mpg"))[3]
    bad.write_bytes(b"junk")
    with pytest.raises(InputFileError, match="1 of 10 clips"):
        extract(root, work.onnx, tmp_path / "f.npz", **options)
    made = extract(root, work.onnx, tmp_path / "f.npz", max_bad_clips=1, **options)
    assert made.clips == 9
    assert bad.name in made.notes[1]
    data = load_data(tmp_path / "f.npz")
    assert made.notes[1] in data.notes


@pytest.mark.parametrize(
    ("backbone", "more", "error", "message"),
    [
        ("m.pt", {}, UsageError, "must be a .onnx file or torchvision:NAME"),
        ("none.onnx", {}, InputFileError, "no such backbone"),
        ("junk.onnx", {}, InputFileError, "not an ONNX model that onnxruntime can run"),
        ("flat.onnx", {}, InputFileError, "must have one input of images"),
        ("tiny.onnx", {"weights": "w.pt"}, UsageError, "has its weights in it"),
        ("tiny.onnx", {"normalize": "imagnet"}, UsageError, "did you mean 'imagenet'"),
        ("tiny.onnx", {"split": "random"}, UsageError, "give split when using them"),
        ("tiny.onnx", {"size": "64x64"}, UsageError, r"takes frames of \(32, 24\)"),
        ("torchvision:inception_v3", {"weights": "w.pt"}, MissingExtraError, "pip install torchvision"),
    ],
)
def test_faults_are_told(work, tmp_path, options, monkeypatch, backbone, more, error, message):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.chdir(work.folder)
    (work.folder / "junk.onnx").write_bytes(b"junk")
    if backbone == "flat.onnx":
        export(torch.nn.Linear(4, 2), work.folder / "flat.onnx", (1, 4))
    with pytest.raises(error, match=message):
        extract("ucf11", backbone, tmp_path / "f.npz", **(options | more))
    assert not (tmp_path / "f.npz").exists()


def test_the_output_is_checked_before_the_work(work, tmp_path, options):
    (tmp_path / "f.npz").write_bytes(b"")
    with pytest.raises(OutputFileError, match="exists"):
        extract(work.folder / "ucf11", work.onnx, tmp_path / "f.npz", **options)
    with pytest.raises(UsageError, match="features are written as"):
        extract(work.folder / "ucf11", work.onnx, tmp_path / "f.csv", **options)


class FakeInception(torch.nn.Module):
    """Has what torchvision's has: a classifier, an auxiliary one, transform_input."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 6, 7, 7)
        self.AuxLogits = torch.nn.Linear(2, 2)
        self.fc = torch.nn.Linear(6, 9)
        self.transform_input = False

    def forward(self, x):
        scale = 2.0 if self.transform_input else 1.0
        return self.fc(self.body(x * scale).relu().mean(dim=(2, 3)))


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in for torchvision, which need not be installed."""

    def get_model(name, weights=None):
        if name != "inception_v3":
            raise ValueError(name)
        assert weights is None
        return FakeInception()

    models = types.SimpleNamespace(get_model=get_model, list_models=lambda: ["inception_v3"])
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    return models


def test_torchvision_networks_lose_their_classifier(torchvision, tmp_path):
    trained = FakeInception()
    state = {key: value for key, value in trained.state_dict().items() if not key.startswith("fc.")}
    torch.save(state | {"fc.weight": torch.zeros(3, 6), "fc.bias": torch.zeros(3)}, tmp_path / "w.pt")
    backbone = open_backbone("torchvision:inception_v3", tmp_path / "w.pt", "unit")
    assert backbone.size == (299, 299)
    frames = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3)).astype(np.uint8)
    images = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    wanted = trained.body(images * 2).relu().mean(dim=(2, 3)).detach()
    np.testing.assert_allclose(backbone.features(frames), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_torchvision_weights_are_checked(torchvision, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"body.weight": torch.zeros(6, 3, 7, 7), "other": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"body.weight": torch.zeros(1)}, tmp_path / "shape.pt")
    torch.save(Evil(), tmp_path / "evil.pt")
    torch.save([1], tmp_path / "list.pt")
    for name, message in (
        ("other.pt", r"1 are missing \(\['body.bias'\]"),
        ("shape.pt", "does not fit torchvision:inception_v3"),
        ("evil.pt", "cannot be read safely as weights"),
        ("list.pt", "must hold a state dict: got list"),
        ("none.pt", "no such file of weights"),
    ):
        with pytest.raises(InputFileError, match=message):
            open_backbone("torchvision:inception_v3", tmp_path / name, "unit")
    with pytest.raises(UsageError, match="did you mean 'inception_v3'"):
        open_backbone("torchvision:inception_v4", tmp_path / "other.pt", "unit")
    with pytest.raises(UsageError, match="nothing is downloaded"):
        open_backbone("torchvision:inception_v3", None, "unit")
