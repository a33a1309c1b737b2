"""Stamps that leap or fall back, in real files and streams."""

from __future__ import annotations

import itertools

import pytest

from headrace import video
from headrace.video.container import ContainerReader, Opening
from unit.video_clips import every, make_clip, number_of

FAR_MS = 72_000_000  # 20 hours: less than what wraps in MPEG-TS
AROUND = [[0, 40, 80], [FAR_MS], [160, 200, 240]]


def joined(path, pieces_ms):
    """One TS file of pieces with these stamps in milliseconds."""
    path.write_bytes(b"".join(make_clip(path.with_name("piece.ts"), piece).read_bytes() for piece in pieces_ms))
    return path


def read(source, **wanted):
    with video.open(source, **wanted) as opened:
        return list(opened)


def live_times(path, clock):
    """Times at which a live source hands out the frames of a file, and which are gaps."""
    reader = ContainerReader(Opening(str(path), "live", live=True), lambda line: None, clock)
    shots = list(reader.shots(0.0))
    reader.close()
    return [s.time_s for s in shots], [s.gap for s in shots]


@pytest.mark.parametrize("wild_ms", [FAR_MS, 0])
def test_one_wild_stamp_in_a_file_does_not_move_its_clock(tmp_path, wild_ms):
    clip = joined(tmp_path / "c.ts", [every(40, 5, first_ms=5000), [wild_ms], every(40, 20, first_ms=5240)])
    with video.open(clip) as s:
        frames = list(s)
    assert [f.time_s for f in frames] == pytest.approx([i * 0.04 for i in range(26)], abs=1e-6)
    assert s.gaps == 0
    assert [f.time_s for f in read(clip, start=0.3)] == pytest.approx([i * 0.04 for i in range(8, 26)], abs=1e-6)


def test_a_pause_in_a_file_keeps_its_length(tmp_path):
    day_ms = 86_400_000
    clip = make_clip(
        tmp_path / "c.mkv", [0, 40, 7 * day_ms, 7 * day_ms + 40, 30 * day_ms], codec="mjpeg", pix_fmt="yuvj420p"
    )
    frames = read(clip)
    assert [f.time_s for f in frames] == [0, 0.04, 604_800, 604_800.04, 2_592_000]
    assert [number_of(f.image) for f in frames] == list(range(5))


def test_short_recordings_that_were_joined_go_on_in_time(tmp_path):
    frames = read(joined(tmp_path / "c.ts", [every(40, 10)] * 5))
    assert len(frames) == 50
    assert frames[-1].time_s == pytest.approx(49 * 0.04)
    assert sum(f.gap for f in frames) == 4
    assert max(b.time_s - a.time_s for a, b in itertools.pairwise(frames)) < 0.2


def test_a_live_stamp_is_held_against_the_clock(tmp_path):
    clip = joined(tmp_path / "c.ts", AROUND)
    times_s, gaps = live_times(clip, lambda: 7.0)
    assert times_s == pytest.approx([i * 0.04 for i in range(7)])
    assert gaps == [False] * 3 + [True] + [False] * 3
    hours = itertools.count(0, 20 * 3600)
    assert live_times(clip, lambda: next(hours))[0][3] == 72_000.0
