"""Procedural clips: real files in the originals' layouts, where the motion alone tells the class."""

import json

import numpy as np
import pytest

from trcompress.data import find_clips, load_data, make_clips
from trcompress.data.decode import DecodeSettings, decode_clip
from trcompress.data.drawing import draw_clip, group_looks
from trcompress.data.glyphs import NAMES, glyph
from trcompress.data.motions import MOTIONS, Tempo
from trcompress.data.sampling import evenly_spaced
from trcompress.errors import OutputFileError, UsageError

SMALL = {"classes": 2, "groups": 2, "clips_per_group": 2, "frames": 6, "size": (64, 48)}
SIMPLE = list(MOTIONS)[:11]


def track(motion, seed=0, groups=5):
    """Centre (x, y), area and mean angle of the glyph in 6 evenly spaced frames of a drawn clip."""
    look = group_looks(groups, seed)[seed % groups]
    rng = np.random.default_rng(seed)
    clip = draw_clip(look, MOTIONS[motion], 30, (320, 240), rng)[evenly_spaced(30, 6)].astype(float)
    found = np.abs(clip - 255 * look.color).sum(axis=3) < 40
    rows, columns = np.mgrid[:240, :320]
    area = found.sum(axis=(1, 2))
    return np.stack([(found * columns).sum((1, 2)) / area, (found * rows).sum((1, 2)) / area], 1), area


def turn(points):
    """Signed angle swept around the middle of a track."""
    centred = points - points.mean(axis=0)
    steps = np.diff(np.unwrap(np.arctan2(centred[:, 1], centred[:, 0])))
    return steps.sum()


@pytest.mark.parametrize("seed", range(5))
def test_six_frames_tell_the_eleven_motions_apart(seed):
    tracks = {name: track(name, seed) for name in SIMPLE}
    moved = {name: points[-1] - points[0] for name, (points, _) in tracks.items()}
    assert moved["right"][0] > 60 > -60 > moved["left"][0]
    assert moved["down"][1] > 60 > -60 > moved["up"][1]
    growth = {name: area[-1] / area[0] for name, (_, area) in tracks.items()}
    assert growth["zoom_in"] > 3
    assert growth["zoom_out"] < 1 / 3
    assert turn(tracks["circle_clockwise"][0]) > 2.5
    assert turn(tracks["circle_counterclockwise"][0]) < -2.5
    for name in ("rotate", "bounce", "shake"):
        assert 0.7 < growth[name] < 1.4
    spread = {name: np.ptp(points, axis=0) for name, (points, _) in tracks.items()}
    assert spread["rotate"].max() < 20
    assert spread["bounce"][1] > 60 > 2 > spread["bounce"][0]
    assert spread["shake"][0] > 20 > 2 > spread["shake"][1]
    assert np.abs(np.diff(np.sign(np.diff(tracks["shake"][0][:, 0])))).sum() >= 4


def test_there_are_as_many_motions_as_hmdb51_has_classes():
    u, tempo = np.linspace(0, 1, 13), Tempo(0.5, 1.0, 0.3)
    poses = [
        np.concatenate([p.x, p.y, p.scale, p.angle]) for p in (motion(u, tempo) for motion in MOTIONS.values())
    ]
    assert len(MOTIONS) == 51
    distances = np.array([[np.abs(a - b).max() for b in poses] for a in poses])
    assert (distances + np.eye(51) > 0.1).all()
    assert all(np.abs(pose[:26]).max() < 0.5 for pose in poses)


def test_groups_share_nothing():
    looks = group_looks(25, 3)
    assert len({look.glyph for look in looks}) == 25
    for name in ("color", "shades", "waves", "place", "height", "reach", "rate"):
        values = np.array([np.ravel(getattr(look, name)) for look in looks])
        apart = np.abs(values[:, None] - values[None]).max(axis=2) + np.eye(25)
        assert apart.min() > 1e-3, name


def test_glyphs_are_all_different():
    assert len({glyph(name).tobytes() for name in NAMES}) == 36
    assert min(glyph(name).sum() for name in NAMES) >= 8


@pytest.mark.parametrize("layout", ["ucf11", "hmdb51"])
def test_trees_are_what_the_layouts_say(tmp_path, layout):
    made = make_clips(tmp_path / "tree", layout, **SMALL)
    tree = find_clips(tmp_path / "tree")
    assert (tree.layout, tree.classes, len(tree.clips)) == (layout, ("left", "right"), 8)
    assert (made.clips, made.classes) == (8, ("right", "left"))
    assert made.size_bytes == sum(clip.path.stat().st_size for clip in tree.clips)
    names = {clip.name for clip in tree.clips}
    if layout == "ucf11":
        assert "right/v_right_02/v_right_02_01.mpg" in names
        assert {clip.group for clip in tree.clips} == {"1", "2"}
    else:
        assert "right/look02_right_f_nm_np1_fr_goo_1.avi" in names
        assert {clip.group for clip in tree.clips} == {"look01", "look02"}
        lists = sorted(path.name for path in (tmp_path / "tree").glob("*.txt"))
        assert lists == [f"{kind}_test_split{k}.txt" for kind in ("left", "right") for k in (1, 2, 3)]
    settings = DecodeSettings(6, 64, 48, 100, 10**6)
    for clip in tree.clips:
        assert decode_clip(clip.path, settings).total == 6


def test_files_are_mpeg_1_and_mpeg_4(tmp_path):
    import av

    found = set()
    for layout in ("ucf11", "hmdb51"):
        make_clips(tmp_path / layout, layout, **SMALL)
        with av.open(str(find_clips(tmp_path / layout).clips[0].path)) as container:
            found.add((container.format.name, container.streams.video[0].codec_context.name))
    assert found == {("mpeg", "mpeg1video"), ("avi", "mpeg4")}


@pytest.mark.parametrize("layout", ["ucf11", "hmdb51"])
def test_the_seed_decides(tmp_path, layout):
    content = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_clips(tmp_path / name, layout, seed=seed, **SMALL)
        content[name] = [clip.path.read_bytes() for clip in find_clips(tmp_path / name).clips]
    assert content["a"] == content["b"]
    assert all(x != y for x, y in zip(content["a"], content["c"], strict=True))


def test_official_lists_test_on_other_groups_each_time(tmp_path):
    make_clips(tmp_path / "tree", "hmdb51", **(SMALL | {"groups": 10}))
    tests = []
    for number in (1, 2, 3):
        lines = (tmp_path / "tree" / f"left_test_split{number}.txt").read_text().splitlines()
        assert len(lines) == 20
        tests.append({line.split("_")[0] for line in lines if line.split()[1] == "2"})
    assert [len(test) for test in tests] == [3, 3, 3]
    assert not tests[0] & tests[1]
    assert not tests[1] & tests[2]


def test_results_never_call_them_by_a_data_sets_name(tmp_path):
    make_clips(tmp_path / "UCF11", **SMALL)
    data = load_data(tmp_path / "UCF11", cache_dir=tmp_path / "cache", workers=0, validation_fraction=0)
    assert data.name == "procedural clips (UCF11)"
    assert json.loads((tmp_path / "UCF11" / "procedural_clips.json").read_text())["layout"] == "ucf11"


def test_only_its_own_folders_are_replaced(tmp_path):
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputFileError, match="need a new or empty folder"):
            make_clips(foreign, overwrite=overwrite, **SMALL)
    assert (foreign / "thesis.txt").read_text() == "years of work"
    make_clips(tmp_path / "tree", **SMALL)
    with pytest.raises(OutputFileError, match="or allow `overwrite=True`"):
        make_clips(tmp_path / "tree", **SMALL)
    made = make_clips(tmp_path / "tree", overwrite=True, **(SMALL | {"groups": 3}))
    assert len(find_clips(tmp_path / "tree").clips) == made.clips == 12
    (tmp_path / "empty").mkdir()
    assert make_clips(tmp_path / "empty", **SMALL).clips == 8


def test_an_interrupted_run_leaves_nothing(tmp_path):
    def stop(done, total, what):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_clips(tmp_path / "tree", progress=stop, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_all_faults_are_named_at_once(tmp_path):
    with pytest.raises(UsageError, match=r"classes = 52 .*2\.\.51.*; frames = 2 .*; size = 63x48 .*; seed = -1"):
        make_clips(tmp_path / "t", classes=52, frames=2, size=(63, 48), seed=-1)
    with pytest.raises(
        UsageError, match=r"layout must be ucf11 or hmdb51: got 'ucf101' \(did you mean 'ucf11'\?\)"
    ):
        make_clips(tmp_path / "t", "ucf101")
