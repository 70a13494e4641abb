"""Frames of videos that the test writes."""

import numpy as np
import pytest

from segjax.data import video

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (240, 240, 10), (20, 20, 20)]
SIZE = (48, 64)


def write_clip(path, count=5, rotation=0):
    """Frames of one colour each, the left quarter white; 10 a second."""
    av = pytest.importorskip("av")
    height, width = SIZE
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = 4_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for i in range(count):
            pixels = np.full((height, width, 3), COLOURS[i], np.uint8)
            pixels[:, : width // 4] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_frames_their_numbers_and_their_times(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    assert video.is_video(path) and not video.is_video(tmp_path / "a.png")
    assert video.count_frames(path) == 5 and video.count_frames(path, 2) == 3
    assert video.count_frames(tmp_path / "a.png") == 1
    frames = list(video.read_frames(path))
    assert [number for number, _, _ in frames] == [0, 1, 2, 3, 4]
    np.testing.assert_allclose([s for _, s, _ in frames], np.arange(5) / 10, atol=1e-3)
    for (_, _, pixels), colour in zip(frames, COLOURS, strict=True):
        assert pixels.shape == (*SIZE, 3) and pixels.dtype == np.uint8
        # The codec is lossy, and its colours are not RGB's.
        assert np.abs(pixels[:, 32:].mean((0, 1)) - colour).max() < 20
        assert pixels[:, :12].min() > 200
    assert [number for number, _, _ in video.read_frames(path, every=2)] == [0, 2, 4]


def test_frames_are_turned_as_a_player_turns_them(tmp_path):
    # Counter-clockwise: what was left is at the bottom.
    path = write_clip(tmp_path / "a.mp4", count=1, rotation=90)
    ((_, _, pixels),) = video.read_frames(path)
    assert pixels.shape == (64, 48, 3)
    assert pixels[52:].min() > 200
    assert np.abs(pixels[:40].mean((0, 1)) - COLOURS[0]).max() < 20
    path = write_clip(tmp_path / "b.mp4", count=1, rotation=-90)
    ((_, _, pixels),) = video.read_frames(path)
    assert pixels.shape == (64, 48, 3) and pixels[:12].min() > 200


def test_a_broken_video_gives_what_is_before_the_damage_and_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"not a video at all")
    with pytest.raises(ValueError, match=r"a\.mp4: unreadable or truncated video"):
        list(video.read_frames(path))
    assert video.count_frames(path) == 1
    with pytest.raises(ValueError, match="gone.mp4: unreadable"):
        list(video.read_frames(tmp_path / "gone.mp4"))


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ValueError, match=r"a\.mp4: .* pip install 'segjax\[video\]'"):
        next(video.read_frames(tmp_path / "a.mp4"))
