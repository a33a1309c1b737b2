"""Photos, folders, arrays and the synthetic world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from headrace import video
from headrace.video.pictures import natural_key
from unit.video_clips import number_of, picture


def read(source, **wanted):
    with video.open(source, **wanted) as opened:
        return list(opened)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "jpg", "jpeg", "JPG"])
def test_a_photo_is_a_video_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(picture(7)).save(path)
    with video.open(str(path)) as s:
        assert (s.num_frames, s.live) == (1, False)
        (frame,) = s
    assert (frame.index, frame.time_s, number_of(frame.image)) == (0, 0.0, 7)


@pytest.mark.parametrize(("mode", "value"), [("L", 9), ("I;16", 9 * 257), ("RGBA", (9, 9, 9, 255)), ("P", 9)])
def test_every_mode_becomes_rgb(tmp_path, mode, value):
    photo = Image.new(mode, (4, 3), value)
    if mode == "P":
        photo.putpalette(bytes(x for i in range(256) for x in (i, i, i)))
    photo.save(tmp_path / "p.png")
    assert read(tmp_path / "p.png")[0].image.tolist() == [[[9, 9, 9]] * 4] * 3


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to show
    Image.fromarray(picture(3)).save(tmp_path / "p.png", exif=exif)
    expected = np.rot90(picture(3), -1)
    assert np.array_equal(read(tmp_path / "p.png")[0].image.numpy(), expected)


def folder_of(path, names):
    for i, name in enumerate(names):
        Image.fromarray(picture(i)).save(path / name)
    return path


def test_a_folder_is_read_in_natural_order(tmp_path):
    folder = folder_of(tmp_path, ["f1.png", "f2.png", "f10.png"])
    (folder / "notes.txt").write_text("not an image")
    assert [(number_of(f.image), f.time_s) for f in read(folder)] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert [f.time_s for f in read(folder, fps=4)] == [0.0, 0.25, 0.5]
    assert [(f.index, f.time_s) for f in read(folder, start=1, end=2)] == [(0, 1.0)]


def test_natural_order_of_awkward_names():
    ordered = ["", "9", "10", "a", "A2", "a02", "a2b3", "a2b12", "a10", "b"]
    assert sorted(ordered, key=natural_key) == ordered


def test_a_damaged_photo_in_a_folder_is_left_out_with_a_warning(tmp_path):
    folder = folder_of(tmp_path, ["f1.png", "f2.png", "f3.png"])
    (folder / "f2.png").write_bytes((folder / "f2.png").read_bytes()[:60])
    with video.open(folder) as s:
        frames = list(s)
    assert [(f.index, f.time_s, f.gap) for f in frames] == [(0, 0.0, False), (1, 2.0, True)]
    assert "f2.png" in s.warnings[0]
    assert s.gaps == 1


def test_wrong_pictures_are_one_clear_line(tmp_path):
    (tmp_path / "p.png").write_text("hello")
    with pytest.raises(video.VideoError, match=r"p\.png: the file is not a picture"):
        video.open(tmp_path / "p.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(video.VideoError, match=r"no images in the folder .*empty"):
        video.open(tmp_path / "empty")
    with video.open(tmp_path) as s, pytest.raises(video.VideoError, match=r"p\.png: the file is not a picture"):
        next(s)


STACK = np.stack([picture(i) for i in range(5)])


@pytest.mark.parametrize(
    "source",
    [
        STACK,
        torch.from_numpy(STACK),
        list(STACK),
        tuple(torch.from_numpy(STACK)),
        np.asfortranarray(STACK),
        STACK[:, ::-1, ::-1],
        np.frombuffer(STACK.tobytes(), np.uint8).reshape(STACK.shape),
    ],
    ids=["numpy", "torch", "list", "tuple", "fortran", "reversed", "readonly"],
)
def test_arrays_are_timed_by_fps(source):
    with video.open(source, fps=2, start=0.5) as s:
        assert (s.num_frames, s.fps, s.duration_s) == (4, 2, 2.5)
        frames = list(s)
    assert [(f.index, f.time_s, number_of(f.image)) for f in frames] == [(i, (i + 1) / 2, i + 1) for i in range(4)]


def test_a_generator_may_be_endless():
    with video.open(picture(i % 50) for i in iter(int, 1)) as s:
        assert (s.num_frames, s.duration_s, s.live) == (None, None, False)
        assert [next(s).time_s for _ in range(3)] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.parametrize("realtime", [False, True])
def test_a_generator_may_fill_one_array_again_and_again(kind, realtime):
    def camera():
        buffer = np.zeros((48, 64, 3), np.uint8)
        for i in range(6):
            buffer[:] = picture(i)
            yield kind(buffer)

    assert [number_of(f.image) for f in read(camera(), fps=100, realtime=realtime)] == list(range(6))


def test_one_array_is_one_frame():
    assert [number_of(f.image) for f in read(picture(4))] == [4]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one frame"),
        ([], "at least one frame"),
        (np.zeros((2, 4, 4, 3)), r"must be uint8 \(T, H, W, 3\), not float64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), r"must be uint8 \(T, H, W, 3\)"),
        (np.zeros((2, 4), np.uint8), r"must be uint8 \(T, H, W, 3\)"),
        ([np.zeros((4, 4), np.uint8)], r"frame 0 must be a uint8 \(H, W, 3\)"),
        (["a", "b"], "frame 0 must be"),
    ],
)
def test_wrong_arrays_are_one_clear_line(source, says):
    with pytest.raises(video.VideoError, match=says):
        video.open(source)


def test_the_world_is_sampled_like_a_video():
    with video.open("world:7,seconds=6") as s:
        assert (s.name, s.num_frames, s.duration_s, s.fps) == ("world:7,seconds=6", 12, 6.0, 2.0)
        whole = list(s)
    assert [f.time_s for f in whole] == [i / 2 for i in range(12)]
    assert [f.time_s for f in read("world:7,seconds=6", fps=1)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    part = read("world:7", start=2.2, end=4)
    assert [f.time_s for f in part] == [2.5, 3.0, 3.5]
    assert torch.equal(part[0].image, whole[5].image)


def test_the_world_is_endless():
    with video.open("world:7") as s:
        assert (s.num_frames, s.duration_s) == (None, None)
        next(s)


def test_a_picture_that_is_too_large_is_not_called_damaged(tmp_path, monkeypatch, recwarn):
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "c.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with video.open(tmp_path / "c.png") as s:
        assert len(list(s)) == 1
    assert not recwarn.list, "Pillow's warning is no user's business"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(video.VideoError, match="more than 178 million pixels"):
        video.open(tmp_path / "c.png")
