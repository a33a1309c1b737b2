"""Going on with a saved stream: with what it was watching, with something else, with nothing, as a service."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.main import get_command

from headrace.cli.again import again
from headrace.cli.app import app
from unit.tiny import objects, run, save_tiny
from unit.video_clips import every, make_clip, picture

SEES = "say when there is a cut"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def common(model: str) -> tuple[str, ...]:
    return ("--model", model, "--max-tokens", "2", "--json")


def steps(stdout: str) -> list[float]:
    return [x["time_s"] for x in objects(stdout) if x["event"] == "step"]


def test_a_stream_that_watches_simply_goes_on(common: tuple[str, ...], tmp_path: Path) -> None:
    folder = str(tmp_path / "s")
    run("ask", "world:7,seconds=4", "--watch", SEES, "--end", "2", "--state", folder, *common)
    code, stdout, stderr = run("ask", "world:7,seconds=4", "--resume", folder, *common)
    assert (code, stderr, steps(stdout)) == (0, "", [2.0, 2.5, 3.0, 3.5])


def test_a_stream_that_watches_for_nothing_needs_a_question(common: tuple[str, ...], tmp_path: Path) -> None:
    folder = str(tmp_path / "s")
    run("ask", "world:7,seconds=2", "hi", "--state", folder, *common)
    code, stdout, stderr = run("ask", "world:7,seconds=4", "--resume", folder, *common)
    assert (code, stdout) == (2, "")
    assert stderr == (
        f"headrace: error: ask: there is nothing to do, and the stream of {folder} watches for nothing; give a"
        " QUESTION, or --watch INSTRUCTION\n"
    )


def test_a_service_has_one_command_line(common: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    """It begins, and goes on after a restart; what is said of a new stream does not stand in the way."""
    command = ("ask", "world:7,seconds=4", "--watch", SEES, "-p", "recent:4", "--start", "1", "--keep", "s")
    monkeypatch.chdir(tmp_path)
    _, stdout, _ = run(*command, "--end", "2", *common)
    assert steps(stdout) == [1.0, 1.5]
    code, stdout, stderr = run(*command, *common)
    assert (code, stderr, steps(stdout)) == (0, "", [2.0, 2.5, 3.0, 3.5])
    _, stdout, stderr = run(*command, "-p", "recent:2", *common)
    assert "memory=recent(frames=4" in objects(stdout)[0]["pipeline"]
    assert stderr.startswith("headrace: --keep: s goes on as it was begun, with encoder=dense")
    _, _, stderr = run(*command, "--state", "t", *common)
    assert stderr == "headrace: error: --keep: begins a stream or goes on with it; leave out --state and --resume\n"
    _, _, stderr = run("ask", "world:7,seconds=4", "--keep", "new", *common)
    assert stderr == "headrace: error: ask: there is nothing to do; give a QUESTION, or --watch INSTRUCTION\n"


def test_another_source_is_told(common: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    clip = make_clip(tmp_path / "c.mkv", every(500, 12))
    folder = str(tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    assert run("ask", "c.mkv", "hi", "--end", "2", "--state", folder, *common)[2] == ""
    assert json.loads((tmp_path / "s" / "source.json").read_text()) == {"source": str(clip)}
    code, _, stderr = run("ask", str(clip), "hi", "--end", "4", "--resume", folder, *common)
    assert (code, stderr) == (0, ""), "the same file, however it is called"
    code, stdout, stderr = run("ask", "world:7,seconds=6", "hi", "--resume", folder, *common)
    assert (code, len(steps(stdout))) == (0, 4)
    assert stderr == f"headrace: {folder} was watching {clip}; goes on with world:7,seconds=6 at 3.5 s\n"
    _, stdout, stderr = run("ask", "world:7,seconds=6", "hi", "--resume", folder, *common)
    assert (steps(stdout), stderr) == ([], "headrace: nothing new: world:7,seconds=6 ends at 5.5 s\n")
    assert objects(stdout)[-1]["frames"] == 0


def images(folder: Path, *numbers: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.fromarray(picture(number)).save(folder / f"shot{number}.png")


def test_a_folder_of_images_goes_on_behind_the_one_that_was_seen_last(common, tmp_path: Path, monkeypatch) -> None:
    """Whatever is removed meanwhile; images are known by their names, and not by their places."""
    monkeypatch.chdir(tmp_path)
    pics = tmp_path / "pics"
    images(pics, *range(6))
    service = ("--watch", SEES, "--keep", "s", *common)
    assert steps(run("ask", "pics", *service)[1]) == [0, 1, 2, 3, 4, 5]
    images(pics, 6, 7, 10)
    for number in range(4):
        (pics / f"shot{number}.png").unlink()
    code, stdout, stderr = run("ask", "pics", *service)
    assert (code, steps(stdout), stderr) == (0, [6, 7, 8], "")
    code, stdout, stderr = run("ask", "pics", *service)
    assert (code, steps(stdout), stderr) == (0, [], "headrace: nothing new: pics ends at 8 s\n")
    for file in pics.iterdir():
        file.unlink()
    images(pics, 9, 11, 12)
    code, stdout, stderr = run("ask", pics.as_uri(), *service, "--fps", "2")
    assert (code, steps(stdout)) == (0, [8.5, 9.0]), "another rate holds from here on"
    assert stderr == (
        f"headrace: shot10.png, seen last, is gone from {pics}; 1 images that sort before it are left out\n"
    )
    for number in (9, 11, 12):
        (pics / f"shot{number}.png").unlink()
    images(pics, 20)
    code, stdout, stderr = run("ask", "pics", *service)
    assert (code, steps(stdout)) == (0, [10.0])
    assert stderr == (
        "headrace: shot12.png, seen last, is gone from pics; images between it and the first one may be, too\n"
    )
    for file in pics.iterdir():
        file.unlink()
    images(pics, 1)
    code, stdout, stderr = run("ask", "pics", *service)
    assert (code, steps(stdout)) == (0, [])
    assert "1 images that sort before it are left out" in stderr


def test_a_source_that_ends_before_the_stream_is_told_in_words_of_the_command(common, tmp_path: Path) -> None:
    folder = str(tmp_path / "s")
    clip = str(make_clip(tmp_path / "c.mkv", every(500, 12)))
    run("ask", "world:7,seconds=9", "hi", "--state", folder, *common)
    seen = "the stream has seen up to 8.5 s"
    for source, args, says in (
        ("world:7,seconds=4", (), f"--resume: {seen}, world:7,seconds=4 ends before that"),
        ("world:7,seconds=9", ("--end", "2"), f"--end 2: {seen}"),
        (clip, (), f"--resume: {seen}, {clip} ends before that"),
    ):
        code, _, stderr = run("ask", source, "hi", "--resume", folder, *args, *common)
        assert (code, stderr.splitlines()[-1]) == (2, f"headrace: error: {says}")
    _, _, stderr = run("ask", "world:7,seconds=4", "hi", "--resume", folder, "--start", "8.5", *common)
    assert "start=8.5 s is past the end" in stderr, "somebody gave this one"


def test_a_time_in_the_past_of_a_stream_is_told(common: tuple[str, ...], tmp_path: Path) -> None:
    folder = str(tmp_path / "s")
    run("ask", "world:7,seconds=9", "hi", "--end", "4", "--state", folder, *common)
    at = ("--at", "1", "--at", "3.5", "--at", "5")
    _, stdout, stderr = run("ask", "world:7,seconds=9", "hi", *at, "--resume", folder, *common)
    assert [x["time_s"] for x in objects(stdout) if x["event"] == "answer"] == [4.0, 4.0, 5.0]
    assert stderr == "headrace: --at 1: the stream is already at 3.5 s; asked at 4 s\n"
    _, stdout, stderr = run("ask", "world:7,seconds=9", "hi", "--at", "1", "--resume", folder, *common)
    assert "headrace: --at 1: the stream is already at 8.5 s; asked at 8.5 s" in stderr, "also where nothing is new"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("http://ann:se@cret@host:80/a@b", "http://USER:PASSWORD@host:80/a@b"),
        ("rtsp://token@host/1", "rtsp://USER@host/1"),
        ("rtsp://host/1", "rtsp://host/1"),
        ("a@b.mp4", "a@b.mp4"),
    ],
)
def test_a_password_does_not_land_in_a_log(source: str, shown: str, monkeypatch) -> None:
    program: Any = get_command(app)
    with typer.Context(program) as outer:
        outer.params = {}
        with program.commands["ask"].make_context("ask", [source, "hi"], parent=outer) as context:
            words = [shlex.split(again(context, [], Path("s"), secret=secret))[2] for secret in (True, False)]
    assert words == [source, shown]
