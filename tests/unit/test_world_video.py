"""The world as a file: real H.264, exact times, questions beside it."""

import json

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from headrace.cli import app
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, LEVELS, World, open_world, questions, render, write_video


def test_the_file_decodes_to_the_world(tmp_path):
    seen = []
    sheet = write_video(tmp_path / "out.mp4", 7, 12, progress=lambda done, total: seen.append((done, total)))
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 256, 256)
        frames = list(container.decode(stream))
        assert [float(frame.pts * frame.time_base) for frame in frames] == [tick / 2 for tick in range(24)]
        for tick, frame in enumerate(frames):
            small = frame.to_ndarray(format="rgb24").reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
            assert np.abs(small - render(World(7), tick)).mean() < 6
    assert seen[-1] == (24, 24)
    assert len(seen) == 24
    content = json.loads(sheet.read_text())
    assert sheet == tmp_path / "out.json"
    assert (content["seed"], content["level"], content["seconds"]) == (7, "standard", 12.0)
    asked = [q for tick in (7, 15, 23) for q in questions(World(7), tick)]
    assert [(q["kind"], q["text"], q["answer"], q["time_s"]) for q in content["questions"]] == [
        (q.kind, q.text, q.answer, q.time_s) for q in asked
    ]
    assert {watch["text"] for watch in content["watches"]} >= {"say when the star appears"}


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_every_level_can_be_a_file(tmp_path, name):
    level = LEVELS[name]
    sheet = write_video(
        tmp_path / "out.mp4", 3, 10, level=level, kinds=tuple(ALL_KINDS), instructions=ALL_INSTRUCTIONS, fair=True
    )
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    size = level.size
    assert [(frame.width, frame.height) for frame in frames] == [(2 * size, 2 * size)] * 20
    for tick, frame in enumerate(frames):
        small = frame.to_ndarray(format="rgb24").reshape(size, 2, size, 2, 3).mean(axis=(1, 3))
        assert np.abs(small - render(World(3, level), tick)).mean() < 6
    content = json.loads(sheet.read_text())
    asked = [q for tick in (7, 15) for q in questions(World(3, level), tick, kinds=tuple(ALL_KINDS), fair=True)]
    assert content["level"] == name
    assert [(q["kind"], q["answer"]) for q in content["questions"]] == [(q.kind, q.answer) for q in asked]
    assert {watch["text"] for watch in content["watches"]} >= {"say when there is a cut", "say when something leaves"}
    assert open_world(f"3,level={name}").width == size


def test_the_command_writes_a_level(tmp_path):
    target = tmp_path / "out.mp4"
    assert CliRunner().invoke(app, ["world", "--level", "hard", "--seconds", "2", str(target)]).exit_code == 0
    assert json.loads(target.with_suffix(".json").read_text())["level"] == "hard"
    with av.open(str(target)) as container:
        assert container.streams.video[0].width == 320
    refused = CliRunner().invoke(app, ["world", "--level", "soft", str(target)])
    assert refused.exit_code == 2
    assert "easy, standard, hard" in refused.stderr


@pytest.mark.parametrize(
    ("name", "seconds", "size", "word"),
    [
        ("out.mp4", 0.2, 256, "seconds"),
        ("out.mp4", -3, 256, "seconds"),
        ("out.mp4", 5, 200, "multiple of 128"),
        ("out.mp4", 5, 0, "multiple of 128"),
        ("nowhere/out.mp4", 5, 256, "no folder"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, seconds, size, word):
    with pytest.raises(ValueError, match=word):
        write_video(tmp_path / name, 1, seconds, size=size)
    assert not list(tmp_path.iterdir())
