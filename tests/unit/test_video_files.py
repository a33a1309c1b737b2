"""Video files: exact times, windows, rotation, pixel formats, damage."""

from __future__ import annotations

import io
import itertools
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from headrace import video
from headrace.types import Frame
from headrace.video.spool import read_head
from unit.video_clips import every, make_clip, number_of, picture, set_rotation


def read(source, **wanted) -> list[Frame]:
    with video.open(source, **wanted) as opened:
        return list(opened)


def seen(frames) -> list[tuple[int, float]]:
    return [(number_of(f.image), f.time_s) for f in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi", "mov"])
def test_every_container_gives_every_frame_with_its_time(tmp_path, suffix):
    codec = "ffv1" if suffix == "avi" else "libx264"
    frames = read(make_clip(tmp_path / f"clip.{suffix}", every(40, 20), codec=codec))
    assert [f.index for f in frames] == list(range(20))
    assert [f.time_s for f in frames] == pytest.approx([i * 0.04 for i in range(20)], abs=1e-9)
    assert [number_of(f.image) for f in frames] == list(range(20))
    assert not any(f.gap for f in frames)
    assert frames[0].image.shape == (48, 64, 3)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("first_ms", [0, 3000])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_variable_rate_b_frames_and_a_late_first_stamp(tmp_path, suffix, first_ms, b_frames):
    times_ms = [0, 40, 70, 500, 520, 1700, 1740, 2000, 2600, 2601, 4000]
    clip = make_clip(tmp_path / f"c.{suffix}", [first_ms + t for t in times_ms], b_frames=b_frames)
    # the stream's own start counts, wherever the file places it
    assert seen(read(clip)) == [(i, pytest.approx(t / 1000, abs=2e-5)) for i, t in enumerate(times_ms)]


def test_facts_before_the_first_frame(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 50))
    with video.open(clip) as s:
        assert (s.fps, s.num_frames, s.duration_s) == (25.0, 50, pytest.approx(2.0))
        assert (s.live, s.dropped, s.gaps, s.warnings, s.name) == (False, 0, 0, [], str(clip))
    for wanted, expected in [({"fps": 5}, 10), ({"start": 1.0}, 25), ({"start": 0.5, "end": 1.5, "fps": 2}, 2)]:
        with video.open(clip, **wanted) as s:
            assert s.num_frames == expected == len(list(s))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(("start", "end"), [(0.41, None), (1.0, 1.2), (None, 0.3), (1.96, None)])
def test_start_and_end_are_exact_to_the_frame(tmp_path, suffix, start, end):
    clip = make_clip(tmp_path / f"c.{suffix}", every(40, 50), b_frames=2, gop=12)
    whole = read(clip)
    part = read(clip, start=start, end=end)
    expected = [f for f in whole if (start or 0) <= f.time_s < (end or 9)]
    assert [f.time_s for f in part] == [f.time_s for f in expected]
    assert all(torch.equal(a.image, b.image) for a, b in zip(part, expected, strict=True))
    assert [f.index for f in part] == list(range(len(expected)))


def test_sampling_takes_the_frame_on_the_screen(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", [0, 400, 900, 1100, 2500, 2600, 3000])
    assert seen(read(clip, fps=1)) == [(0, 0.0), (2, 0.9), (3, 1.1), (6, 3.0)]
    assert seen(read(clip, fps=1, start=0.4)) == [(1, 0.4), (3, 1.1)]  # 2.4 s shows frame 3 still


def turned(matrix) -> np.ndarray:
    """The picture moved pixel by pixel as the matrix says."""
    image, (a, b, c, d) = picture(10), matrix
    h, w = image.shape[:2]
    xs = [a * x + c * y for y in (0, h - 1) for x in (0, w - 1)]
    ys = [b * x + d * y for y in (0, h - 1) for x in (0, w - 1)]
    out = np.zeros((max(ys) - min(ys) + 1, max(xs) - min(xs) + 1, 3), np.uint8)
    for y in range(h):
        for x in range(w):
            out[b * x + d * y - min(ys), a * x + c * y - min(xs)] = image[y, x]
    return out


@pytest.mark.parametrize(
    "matrix",
    [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)],
    ids=["none", "90", "180", "270", "mirror", "flip", "transpose"],
)
def test_the_display_matrix_is_honoured(tmp_path, matrix):
    clip = make_clip(tmp_path / "c.mp4", every(40, 12))
    set_rotation(clip, matrix)
    image = read(clip)[10].image.numpy().astype(int)
    expected = turned(matrix).astype(int)
    assert image.shape == expected.shape
    assert np.abs(image - expected).mean() < 4


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [("ffv1", f) for f in ("yuv420p", "yuv444p", "yuv422p10le", "gray", "gray10le", "bgra", "yuv420p10le")]
    + [("rawvideo", "nv12"), ("rawvideo", "rgb24"), ("mjpeg", "yuvj420p")],
)
def test_odd_pixel_formats_become_rgb(tmp_path, codec, pix_fmt):
    frames = read(make_clip(tmp_path / "c.nut", every(40, 3), codec=codec, pix_fmt=pix_fmt))
    for i, frame in enumerate(frames):
        assert frame.image.dtype == torch.uint8
        assert np.abs(frame.image.numpy().astype(int) - picture(i)).mean() < 3
    assert len(frames) == 3


def cut(clip: Path, keep: float) -> Path:
    data = clip.read_bytes()
    clip.write_bytes(data[: int(len(data) * keep)])
    return clip


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_truncated_file_gives_what_decodes_and_says_so(tmp_path, suffix, caplog):
    options = {"movflags": "faststart"} if suffix == "mp4" else {}
    clip = cut(make_clip(tmp_path / f"c.{suffix}", every(40, 50), options=options), 0.6)
    with video.open(clip) as s:
        frames = list(s)
    assert 5 < len(frames) < 50
    assert [number_of(f.image) for f in frames] == list(range(len(frames)))
    (line,) = s.warnings
    assert f"the {len(frames)} frames that decode were used" in line
    assert "cut short" in line
    assert "of 2.00 s" in line
    assert line in caplog.text


def test_a_hole_in_the_middle_is_a_gap_and_a_warning(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 50))
    with av.open(str(clip)) as c:
        packets = [(p.pos, p.size) for p in c.demux(video=0) if p.size]
    data = bytearray(clip.read_bytes())
    at, size = packets[22]
    data[at : at + size] = b"\xff" * size
    clip.write_bytes(data)
    with video.open(clip) as s:
        frames = list(s)
    assert len(frames) == 49
    assert s.gaps == sum(f.gap for f in frames) == 1
    assert next(f.time_s for f in frames if f.gap) == pytest.approx(23 * 0.04)
    assert "the 49 frames that decode were used" in s.warnings[0]


def test_stopping_early_warns_of_nothing(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 50))
    for wanted in ({"end": 0.5}, {"start": 1.5}, {"fps": 3}):
        with video.open(clip, **wanted) as s:
            assert list(s)
            assert s.warnings == []


def test_reading_goes_on_where_it_stopped_and_ends_when_closed(tmp_path):
    s = video.open(make_clip(tmp_path / "c.mp4", every(40, 10)))
    assert next(s).index == 0
    assert [f.index for f in s][:2] == [1, 2]
    assert list(s) == []
    s = video.open(tmp_path / "c.mp4")
    next(s)
    s.close()
    s.close()
    assert list(s) == []


def no_video(path: Path) -> Path:
    out = av.open(str(path), "w")
    stream = out.add_stream("aac", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 8000
    for packet in [*stream.encode(frame), *stream.encode(None)]:
        out.mux(packet)
    out.close()
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: p / "none.mp4", "no such file or folder"),
        (lambda p: ((p / "e.mp4").write_bytes(b"") and None) or p / "e.mp4", "the file is empty"),
        (lambda p: (p / "t.mp4").write_text("some words\n" * 99) and p / "t.mp4", "not a video"),
        (lambda p: (p / "t.txt").write_text("some words\n" * 99) and p / "t.txt", "a text file"),
        (lambda p: no_video(p / "sound.mp4"), "no video stream, only audio"),
        (lambda p: cut(make_clip(p / "c.mp4", every(40, 20)), 0.5), "index is missing"),
        (lambda p: "", "the source is empty"),
        (lambda p: 3, "cannot open a int"),
        (lambda p: "world:seven", "world:seven"),
        (lambda p: "camera:", "needs a number"),
    ],
    ids=["missing", "empty", "text", "txt", "sound", "unfinished", "nothing", "number", "world", "camera"],
)
def test_wrong_input_is_one_clear_line(tmp_path, make, says):
    with pytest.raises(video.VideoError, match=says) as problem:
        video.open(make(tmp_path))
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"fps": 0}, "fps must be"),
        ({"fps": float("nan")}, "fps must be"),
        ({"fps": 1e308}, "fps must be a number above 0, and 1,000,000 at most, not 1e\\+308"),
        ({"start": -1}, "start must be"),
        ({"start": 2, "end": 1}, "end must be later"),
        ({"queue_frames": 0}, "queue_frames must be"),
        ({"open_timeout_s": 0}, "open_timeout_s must be"),
        ({"read_timeout_s": -1}, "read_timeout_s must be"),
    ],
)
def test_wrong_arguments_are_one_clear_line(tmp_path, wanted, says):
    clip = make_clip(tmp_path / "c.mp4", every(40, 10))
    with pytest.raises(ValueError, match=says):
        video.open(clip, **wanted)


def test_a_start_behind_the_end_is_one_clear_line(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 10))
    with video.open(clip, start=7) as s, pytest.raises(video.VideoError, match=r"start=7 s and its end \(0\.40 s by"):
        next(s)
    with pytest.raises(video.VideoError, match=r"start=7 s is past the end of .* 2\.00 s"):
        video.open("world:7,seconds=2", start=7)


def test_a_header_that_promises_too_little_hides_no_frame(tmp_path):
    one = make_clip(tmp_path / "one.ts", every(40, 60))
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() * 2)
    with video.open(both) as s:
        assert s.duration_s < 3
    assert [number_of(f.image) for f in read(both, start=3.6)] == list(range(30, 60))


def test_a_picture_that_is_held_is_no_missing_end(tmp_path):
    pictures = [Image.fromarray(picture(i)) for i in range(4)]
    pictures[0].save(tmp_path / "c.gif", save_all=True, append_images=pictures[1:], duration=[500, 500, 500, 5000])
    with video.open(tmp_path / "c.gif") as s:
        assert len(list(s)) == 4
    assert (s.duration_s, s.warnings) == (pytest.approx(6.5), [])


HALF = [f"{codec}-{suffix}" for codec in ("libx264", "mpeg4") for suffix in ("mp4", "mkv")]


@pytest.mark.parametrize("kind", HALF)
def test_a_second_half_that_does_not_decode_is_missing(tmp_path, kind):
    codec, suffix = kind.split("-")
    clip = make_clip(tmp_path / f"c.{suffix}", every(80, 50), codec=codec)
    with av.open(str(clip)) as c:
        packets = [(p.pos, p.size) for p in c.demux(video=0) if p.size]
    data = bytearray(clip.read_bytes())
    for at, size in packets[25:]:
        data[at : at + size] = bytes(size)
    clip.write_bytes(data)
    with video.open(clip) as s:
        last = list(s)[-1].time_s
    assert last < 2.1
    (line,) = s.warnings
    assert "is cut short or damaged" in line
    assert float(re.search(r"up to ([0-9.]+) s of", line)[1]) < 2.2


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_video_that_begins_late_is_whole(tmp_path, suffix):
    clip = make_clip(tmp_path / f"c.{suffix}", every(40, 50, first_ms=3000))
    with video.open(clip) as s:
        assert len(list(s)) == 50
    assert (s.duration_s, s.warnings) == (pytest.approx(2.0, abs=0.05), [])


@pytest.mark.parametrize("name", ["2024-01-01T12:00:00.mp4", "rec-12:00.mkv", "./cam:b:1.ts"])
def test_a_colon_in_a_name_makes_no_address(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "c.mkv", every(40, 10), format="matroska").rename(tmp_path / name)
    with video.open(name) as s:
        assert len(list(s)) == 10
        assert s.name == str(Path(name))
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(video.VideoError, match="its index is missing"):
        video.open(name)


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_named_pipe_is_read_as_a_pipe_is(tmp_path, suffix):
    clip, pipe = make_clip(tmp_path / f"c.{suffix}", every(40, 30)), tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"cat {clip} > {pipe}"]):
        with video.open(pipe, fps=5) as s:
            assert [number_of(f.image) for f in s] == [0, 5, 10, 15, 20, 25]
        assert s.name == str(pipe)


def test_a_pipe_ends_with_its_source_and_what_cannot_be_read_is_one_clear_line(tmp_path, monkeypatch):
    clip, pipe = make_clip(tmp_path / "c.mkv", every(40, 50)), tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["sh", "-c", f"while cat {clip}; do :; done > {pipe}"], stderr=subprocess.DEVNULL) as writer:
        with video.open(pipe) as s:
            next(s)
        writer.wait(10)  # it was told that nobody reads
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")  # its address takes about a hundred characters, and a path may have more
        with pytest.raises(video.VideoError, match=r"cannot open .*socket"):
            video.open(tmp_path / "socket")


def test_a_source_is_gone_on_with_where_it_has_a_beginning(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 10))
    assert [number_of(f.image) for f in read(clip, after=0.2)] == [5, 6, 7, 8, 9], "the one that was seen is told"
    assert [number_of(f.image) for f in read(clip, after=0.2, start=0.32)] == [8, 9]
    with video.open(clip, after=0.2, realtime=True) as s:
        assert (s.live, s.restarts) == (True, False)
        assert [number_of(f.image) for f in s] == [5, 6, 7, 8, 9]


def test_a_window_without_frames_is_an_error(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", [0, 1000, 2000])
    with video.open(clip, start=0.2, end=0.4) as s, pytest.raises(video.VideoError, match=r"no frame between .*0\.2 s"):
        next(s)
    assert list(s) == []


def test_a_stream_without_times_is_counted_with_a_warning(tmp_path):
    clip = make_clip(tmp_path / "c.h264", every(40, 10), format="h264")
    with video.open(clip) as s:
        frames = list(s)
    assert [f.time_s for f in frames] == pytest.approx([i * 0.04 for i in range(10)])
    assert s.warnings == [f"{clip} carries no times; they were counted at 25 frames per second"]


def test_joined_recordings_go_on_in_time(tmp_path):
    one = make_clip(tmp_path / "one.ts", every(40, 60))
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() * 2)
    with video.open(both) as s:
        frames = list(s)
    assert len(frames) == 120
    assert all(b.time_s > a.time_s for a, b in itertools.pairwise(frames))
    assert s.gaps == 1
    assert frames[60].gap


def test_realtime_paces_a_file_and_treats_it_as_live(tmp_path):
    clip = make_clip(tmp_path / "c.mp4", every(40, 6))
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(round(seconds, 4))
        now[0] += seconds

    with video.open(clip, realtime=True, clock=lambda: now[0], sleep=sleep) as s:
        assert s.live
        assert len(list(s)) == 6
    assert waits == pytest.approx([0.04] * 5)
    assert s.dropped == 0


def test_a_binary_file_object_and_a_pipe_are_read(tmp_path):
    clip = make_clip(tmp_path / "c.mkv", every(40, 30))
    data = clip.read_bytes()
    assert len(read(io.BytesIO(data), start=0.5)) == 17
    reading, writing = os.pipe()
    with subprocess.Popen(["cat", str(clip)], stdout=writing):
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            frames = read(pipe, start=0.5, fps=5)
    assert [number_of(f.image) for f in frames] == [13, 18, 23, 28]


class Pipe(io.BytesIO):
    def seekable(self):
        return False


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["index last", "index first"])
def test_an_mp4_may_be_piped_wherever_its_index_is(tmp_path, suffix, options):
    data = make_clip(tmp_path / f"c.{suffix}", every(40, 50), options=options).read_bytes()
    assert (data.index(b"moov") > data.index(b"mdat")) == (not options)
    with video.open(Pipe(data)) as s:
        frames = list(s)
    assert [number_of(f.image) for f in frames] == list(range(50))
    assert s.warnings == []


def test_the_first_boxes_tell_where_the_index_is():
    def box(kind, size):
        return size.to_bytes(4, "big") + kind + bytes(size - 8)

    def look(data):
        return read_head(io.BytesIO(data).read)

    start = box(b"ftyp", 24)
    assert look(start + box(b"free", 40) + box(b"mdat", 99)) == (start + box(b"free", 40) + box(b"mdat", 99)[:8], True)
    assert look(start + box(b"moov", 99))[1] is False
    for data in (b"", b"abc", b"no video at all", box(b"mdat", 50), start, start[:9], box(b"free", 16)):
        head, index_last = look(data)
        assert data.startswith(head)
        assert not index_last


def test_a_dash_is_standard_input(tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "c.ts", every(40, 10))
    with clip.open("rb") as file, subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE) as cat:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(cat.stdout))
        with video.open("-") as s:
            assert (s.name, s.live) == ("standard input", False)
            assert [f.time_s for f in s] == pytest.approx([i * 0.04 for i in range(10)])
