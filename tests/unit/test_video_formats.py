"""What single file formats do differently: EXIF in frames, program streams, lengths, animated pictures."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from headrace import video
from unit.video_clips import every, make_clip, number_of, picture


def read(source, **wanted):
    with video.open(source, **wanted) as opened:
        return list(opened)


def clip_of_photos(path, orientation=None):
    """Three JPEGs with EXIF as the frames of a clip, as digital cameras write them."""
    exif = Image.Exif()
    exif[0x010F] = "maker"
    if orientation is not None:
        exif[0x0112] = orientation
    out = av.open(str(path), "w")
    stream = out.add_stream("mjpeg", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
    for i in range(3):
        photo = io.BytesIO()
        Image.fromarray(picture(i)).save(photo, "JPEG", exif=exif, quality=95)
        packet = av.Packet(photo.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 25)
        out.mux(packet)
    out.close()
    return path


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mov", "mjpeg"])
def test_frames_that_carry_exif_are_read(tmp_path, suffix):
    frames = read(clip_of_photos(tmp_path / f"c.{suffix}"))
    assert [number_of(f.image) for f in frames] == [0, 1, 2]
    assert frames[0].image.shape == (48, 64, 3)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (8, 1), (3, 2), (6, 3)])
def test_frames_are_turned_as_their_exif_says(tmp_path, orientation, turns):
    image = read(clip_of_photos(tmp_path / "c.avi", orientation))[1].image.numpy().astype(int)
    expected = np.rot90(picture(1), turns)
    assert image.shape == expected.shape
    assert np.abs(image - expected).mean() < 4


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
@pytest.mark.parametrize("suffix", ["mpg", "vob"])
def test_a_program_stream_is_read_from_any_time_on(tmp_path, suffix, codec):
    clip = make_clip(tmp_path / f"c.{suffix}", range(25, 65), codec=codec, gop=12, b_frames=2, tick=Fraction(1, 25))
    whole = read(clip)
    assert [f.time_s for f in whole] == pytest.approx([i * 0.04 for i in range(40)], abs=0.0111)
    for start in (0.3, 0.52, 0.99, 1.30875, 1.5):
        expected = [f for f in whole if f.time_s >= start]
        part = read(clip, start=start)
        assert [f.time_s for f in part] == [f.time_s for f in expected]
        assert all(torch.equal(a.image, b.image) for a, b in zip(part, expected, strict=True))


@pytest.mark.parametrize("b_frames", [0, 2, 3])
def test_pictures_of_an_avi_file_stand_in_their_order(tmp_path, b_frames):
    """It notes when pictures are decoded only, which is another order where some look ahead."""
    clip = make_clip(tmp_path / "c.avi", range(58), b_frames=b_frames, gop=12, tick=Fraction(1, 25))
    whole = read(clip)
    assert [number_of(f.image) for f in whole] == list(range(58))
    assert [f.time_s - whole[0].time_s for f in whole] == pytest.approx([i * 0.04 for i in range(58)], abs=1e-6)
    assert [number_of(f.image) for f in read(clip, fps=25)] == list(range(58))
    for start in (0.5, 1.0, 1.5):
        expected = [f for f in whole if f.time_s >= start]
        part = read(clip, start=start)
        assert [f.time_s for f in part] == [f.time_s for f in expected]
        assert all(torch.equal(a.image, b.image) for a, b in zip(part, expected, strict=True))


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize(("first_ms", "gop", "shown"), [(-1000, 5, 25), (-900, 50, 27)], ids=["keyframe", "between"])
def test_a_trimmed_recording_is_not_cut_short(tmp_path, suffix, first_ms, gop, shown):
    clip = make_clip(tmp_path / f"c.{suffix}", every(40, 50, first_ms=first_ms), gop=gop)
    with av.open(str(clip)) as c:
        assert c.streams.video[0].frames == 50, "the header counts what its edit list hides"
    with video.open(clip) as s:
        frames = list(s)
    assert [number_of(f.image) for f in frames] == list(range(50 - shown, 50))
    assert (s.warnings, s.duration_s) == ([], pytest.approx(2 + first_ms / 1000, abs=0.001))
    assert s.num_frames == pytest.approx(shown, abs=1)


def test_a_trimmed_recording_that_lost_its_end_is_cut_short(tmp_path):
    options = {"movflags": "faststart"}
    clip = make_clip(tmp_path / "c.mp4", every(40, 50, first_ms=-1000), options=options)
    with av.open(str(clip)) as c:
        end = [p.pos for p in c.demux(video=0) if p.size][-1]
    clip.write_bytes(clip.read_bytes()[:end])
    with video.open(clip) as s:
        assert len(list(s)) == 24
    assert "cut short or damaged: the 24 frames that decode were used" in s.warnings[0]


@pytest.mark.parametrize(("suffix", "codec"), [("wmv", "msmpeg4v3"), ("asf", "msmpeg4v3"), ("nut", "mpeg4")])
def test_a_length_that_counts_from_zero_is_not_that_of_a_recording_that_begins_late(tmp_path, suffix, codec):
    clip = make_clip(tmp_path / f"c.{suffix}", every(40, 50, first_ms=5000), codec=codec)
    with video.open(clip) as s:
        assert len(list(s)) == 50
    assert (s.warnings, s.duration_s) == ([], pytest.approx(2.0, abs=0.05))
    assert s.num_frames == pytest.approx(50, abs=1)


DELAYS_MS = [100, 200, 300, 400, 500]


def animation(path, *, delays_ms=DELAYS_MS, **options):
    """Five pictures, each shown for its own time; ``format`` decides what is written, whatever the file is called."""
    first, *rest = [Image.fromarray(picture(i)) for i in range(5)]
    first.save(path, save_all=True, append_images=rest, duration=delays_ms, **options)
    return path


ANIMATIONS = [("a.webp", {"lossless": True}), ("a.png", {}), ("gif.png", {"format": "GIF"}), ("a.gif", {})]


@pytest.mark.parametrize(("name", "options"), ANIMATIONS, ids=[name for name, _ in ANIMATIONS])
def test_an_animation_is_read_with_its_times(tmp_path, name, options):
    path = animation(tmp_path / name, **options)
    with video.open(path) as s:
        assert (s.num_frames, s.live) == (5, False)
        frames = list(s)
    assert [(number_of(f.image), f.time_s) for f in frames] == [
        (0, 0.0),
        (1, pytest.approx(0.1)),
        (2, pytest.approx(0.3)),
        (3, pytest.approx(0.6)),
        (4, pytest.approx(1.0)),
    ]
    assert [number_of(f.image) for f in read(path, fps=2)] == [0, 2, 4]
    assert [number_of(f.image) for f in read(path, start=0.3, end=0.9)] == [2, 3]
    assert [number_of(f.image) for f in read(path, after=0.3)] == [2, 3, 4]
    assert s.warnings == []


@pytest.mark.parametrize(("name", "options"), ANIMATIONS, ids=[name for name, _ in ANIMATIONS])
def test_an_animation_without_delays_shows_ten_pictures_a_second(tmp_path, name, options):
    frames = read(animation(tmp_path / name, delays_ms=0, **options))
    assert [f.time_s for f in frames] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_the_picture_of_a_png_for_those_who_cannot_animate_is_not_part_of_it(tmp_path):
    with video.open(animation(tmp_path / "a.png", delays_ms=DELAYS_MS[1:], default_image=True)) as s:
        assert s.num_frames == 4
        assert [(number_of(f.image), f.time_s) for f in s][:2] == [(1, 0.0), (2, pytest.approx(0.2))]


def test_several_views_in_one_photo_are_no_animation(tmp_path):
    view = Image.fromarray(picture(3))
    view.save(tmp_path / "3d.jpg", format="MPO", save_all=True, append_images=[view])
    with video.open(tmp_path / "3d.jpg") as s:
        assert s.num_frames == 1
        assert len(list(s)) == 1


def test_an_animation_that_is_cut_short_gives_what_came_and_says_so(tmp_path):
    path = animation(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:-60])
    with video.open(path) as s:
        frames = list(s)
    assert 0 < len(frames) < 5
    assert s.warnings == [f"{path} is cut short or damaged: the {len(frames)} frames that decode were used"]
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(video.VideoError, match=r"a\.png: the file is damaged|no frame of .*a\.png"):
        read(path)
