"""One video file: its frames, and what becomes of files that are damaged, cut short or too large."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from video_cases import SETTINGS, counting_frames, cut, noisy_frames, numbers

from trcompress.data.container_tail import ends_early
from trcompress.data.decode import DecodeSettings, UnreadableClipError, decode_clip
from trcompress.data.encode import encode_clip
from trcompress.data.sampling import evenly_spaced, pick_frames


@given(st.integers(1, 500), st.integers(1, 60))
def test_evenly_spaced_frames_cover_the_clip(available, count):
    picks = evenly_spaced(available, count)
    assert len(picks) == count
    assert picks.min() >= 0
    assert picks.max() < available
    if count <= available:
        assert len(set(picks.tolist())) == count
        assert picks[0] <= available / count
        assert picks[-1] >= available - available / count - 1


@given(st.integers(1, 100), st.integers(1, 30), st.integers(0, 5))
def test_random_frames_are_in_order_and_distinct_where_possible(available, count, seed):
    picks = pick_frames(available, count, np.random.default_rng(seed))
    assert len(picks) == count
    assert (np.diff(picks) >= 0).all()
    assert 0 <= picks.min() <= picks.max() < available
    assert len(set(picks.tolist())) == count or available < count


@pytest.mark.parametrize("suffix", [".mpg", ".avi"])
def test_frames_are_the_ones_that_were_asked_for(tmp_path, suffix):
    encode_clip(tmp_path / f"a{suffix}", counting_frames(24))
    clip = decode_clip(tmp_path / f"a{suffix}", SETTINGS)
    assert clip.frames.shape == (8, 24, 32, 3)
    assert (clip.total, clip.damaged, clip.cut) == (24, 0, False)
    assert numbers(clip.frames) == evenly_spaced(24, 8).tolist()


def test_short_clips_keep_all_their_frames(tmp_path):
    encode_clip(tmp_path / "a.mpg", counting_frames(5))
    assert numbers(decode_clip(tmp_path / "a.mpg", SETTINGS).frames) == [0, 1, 2, 3, 4]


def test_rows_columns_and_colours_stay_where_they_are(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:24, 32:] = (255, 0, 0)
    picture[24:, :32] = (0, 0, 255)
    encode_clip(tmp_path / "a.avi", np.stack([picture] * 6))
    found = decode_clip(tmp_path / "a.avi", SETTINGS).frames[0].astype(int)
    assert found[6, 24, 0] > 180 > 80 > found[6, 24, 2]
    assert found[18, 8, 2] > 180 > 80 > found[18, 8, 0]
    assert found[6, 8].max() < 60


@pytest.mark.parametrize("suffix", [".mpg", ".avi"])
@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.65, 0.8, 0.97])
def test_truncated_clips_are_noticed(tmp_path, suffix, share):
    whole = tmp_path / f"whole{suffix}"
    encode_clip(whole, noisy_frames(30))
    part = cut(whole, tmp_path / f"part{suffix}", int(share * whole.stat().st_size) // 2048 * 2048 + 700)
    assert not ends_early(whole)
    assert ends_early(part)
    with pytest.raises(UnreadableClipError, match=r"is cut short|no whole frame|cannot be decoded"):
        decode_clip(part, SETTINGS)


def test_an_mpg_cut_between_two_pictures_is_noticed(tmp_path):
    """Every picture left is whole, so only the packet that ends too early tells."""
    encode_clip(tmp_path / "a.mpg", noisy_frames(30))
    content = (tmp_path / "a.mpg").read_bytes()
    start = content.index(b"\0\0\1\0", len(content) // 2)
    part = cut(tmp_path / "a.mpg", tmp_path / "b.mpg", start)
    with pytest.raises(UnreadableClipError, match="the file ends inside a packet, after"):
        decode_clip(part, SETTINGS)
    kept = decode_clip(part, replace(SETTINGS, keep_cut=True))
    assert kept.cut
    assert 0 < kept.total < 30


def test_an_avi_that_lacks_whole_frames_is_noticed(tmp_path):
    whole, size = tmp_path / "a.avi", 0
    encode_clip(whole, noisy_frames(30))
    content = whole.read_bytes()
    for _ in range(15):
        size = content.index(b"00dc", size + 1)
    with pytest.raises(UnreadableClipError, match="of 30 frames decode"):
        decode_clip(cut(whole, tmp_path / "b.avi", size), SETTINGS)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be decoded"), (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "cannot be decoded")],
)
@pytest.mark.parametrize("suffix", [".mpg", ".avi", ".mp4"])
def test_other_files_are_not_videos(tmp_path, content, message, suffix):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(UnreadableClipError, match=message):
        decode_clip(tmp_path / f"a{suffix}", SETTINGS)


@pytest.mark.parametrize("seed", range(5))
def test_flipped_bytes_never_crash(tmp_path, seed):
    rng = np.random.default_rng(seed)
    encode_clip(tmp_path / "a.mpg", noisy_frames(20))
    content = np.frombuffer((tmp_path / "a.mpg").read_bytes(), np.uint8).copy()
    places = rng.integers(len(content), size=40)
    content[places] = rng.integers(0, 256, size=40)
    (tmp_path / "a.mpg").write_bytes(content.tobytes())
    try:
        assert decode_clip(tmp_path / "a.mpg", SETTINGS).frames.shape[1:] == (24, 32, 3)
    except UnreadableClipError:
        return


def test_a_few_damaged_frames_are_left_out_and_told(tmp_path):
    """Wipe the middle of one picture: it and those that follow it in its group are damaged, the rest are not."""
    encode_clip(tmp_path / "a.avi", noisy_frames(120))
    content = bytearray((tmp_path / "a.avi").read_bytes())
    place = 0
    for _ in range(60):
        place = content.index(b"00dc", place + 1)
    content[place + 400 : place + 600] = bytes(200)
    (tmp_path / "a.avi").write_bytes(content)
    clip = decode_clip(tmp_path / "a.avi", SETTINGS)
    assert 1 <= clip.damaged <= 12
    assert clip.total + clip.damaged == 120


def test_limits_are_refused_with_their_names(tmp_path):
    encode_clip(tmp_path / "a.mpg", counting_frames(20))
    few = DecodeSettings(8, 32, 24, max_frames=10, max_pixels=10**6)
    with pytest.raises(UnreadableClipError, match="more than max_frames = 10 frames"):
        decode_clip(tmp_path / "a.mpg", few)
    small = DecodeSettings(8, 32, 24, max_frames=100, max_pixels=1000)
    with pytest.raises(UnreadableClipError, match="frames of 64x48, more than max_pixels = 1,000"):
        decode_clip(tmp_path / "a.mpg", small)


def test_a_header_that_promises_huge_frames_is_refused(tmp_path):
    encode_clip(tmp_path / "a.mpg", noisy_frames(10))
    content = bytearray((tmp_path / "a.mpg").read_bytes())
    place = content.index(b"\0\0\1\xb3")
    content[place + 4 : place + 7] = b"\xff\xff\xff"  # 4095 x 4095
    (tmp_path / "a.mpg").write_bytes(content)
    with pytest.raises(UnreadableClipError, match="frames of 4095x4095, more than max_pixels"):
        decode_clip(tmp_path / "a.mpg", SETTINGS)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_other_containers_are_read_too(tmp_path, suffix):
    import av

    encode_clip(tmp_path / "a.avi", counting_frames(10))
    with av.open(str(tmp_path / "a.avi")) as source, av.open(str(tmp_path / f"b{suffix}"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    assert numbers(decode_clip(tmp_path / f"b{suffix}", SETTINGS).frames) == evenly_spaced(10, 8).tolist()
