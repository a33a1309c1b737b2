"""Streams that go on, steps of several frames, and outputs that know few characters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import headrace
from headrace import video
from headrace.cli import app
from headrace.cli.output import Output
from headrace.cli.watching import Asking, watch
from headrace.engine.state import same
from headrace.types import Frame, Query
from unit.tiny import objects, run, save_tiny
from unit.video_clips import every, make_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny(tmp_path_factory.mktemp("model"))


class Source:
    """Frames at given times."""

    def __init__(self, times_s: list[float], *, live: bool, restarts: bool) -> None:
        self.name, self.num_frames, self.fps = "source", None, 2.0
        self.live, self.restarts, self._times_s = live, restarts, times_s

    def __iter__(self) -> Iterator[Frame]:
        for i, time_s in enumerate(self._times_s):
            yield Frame(i, time_s, torch.full((28, 28, 3), 10 * i, dtype=torch.uint8))

    def close(self) -> None:
        """Nothing is held."""


def watched(stream: Any, source: Source, *at: float) -> tuple[list[float], list[tuple[float, int]]]:
    """Times of the steps, and of the answers with the frames seen."""
    steps: list[float] = []
    answers: list[tuple[float, int]] = []
    asks = [Asking(Query("what is there", max_tokens=1), second) for second in at]
    watch(
        stream,
        source,  # type: ignore[arg-type]
        asks,
        Output(verbosity=-1),
        answered=lambda _, answer: answers.append((answer.time_s, answer.frames_seen)),
        stepped=lambda report: steps.append(report.time_s),
    )
    return steps, answers


def begun(model: str) -> Any:
    """A stream that was stopped after its frame at 1.5 s."""
    stream = headrace.load(model).open("recent:4")
    assert watched(stream, Source([0.0, 0.5, 1.0, 1.5], live=False, restarts=False))[0] == [0.0, 0.5, 1.0, 1.5]
    return stream


def test_a_live_source_goes_on_behind_what_was_seen(model: str) -> None:
    """A camera counts from 0 whenever it is opened."""
    steps, answers = watched(begun(model), Source([0.0, 0.5, 1.0], live=True, restarts=True), 2.5)
    assert (steps, answers) == ([2.0, 2.5, 3.0], [(2.5, 6)])


def test_a_program_goes_on_with_a_saved_stream_in_three_lines(model: str, tmp_path: Path) -> None:
    engine, address = headrace.load(model), "world:7,seconds=3"
    whole, stream = engine.open("recent:4"), engine.open("recent:4")
    for frame in video.open(address, fps=2):
        whole.push(frame)
    for frame in video.open(address, fps=2, end=1.5):
        stream.push(frame)
    stream.save(tmp_path)
    resumed = engine.resume(tmp_path)
    with video.open(address, fps=2, after=resumed.state.time_s, begins=resumed.state.began_s) as source:
        for frame in resumed.unseen(source):
            resumed.push(frame)
    assert same(resumed.state, whole.state)


@pytest.mark.parametrize("live", [False, True])
def test_a_source_with_a_beginning_goes_on_at_its_own_times_also_at_its_pace(model: str, live: bool) -> None:
    source = Source([1.5, 2.0, 2.5], live=live, restarts=False)
    assert watched(begun(model), source) == ([2.0, 2.5], [])


def test_a_question_about_the_moment_of_stopping_is_asked_there(model: str) -> None:
    source = Source([1.5, 2.0, 2.5], live=False, restarts=False)
    assert watched(begun(model), source, 1.5, 1.0)[1] == [(2.0, 5), (2.0, 5)], "a moment that was missed comes first"
    assert watched(begun(model), source, 1.5)[1] == [(1.5, 4)]
    assert watched(begun(model), source, 1.7)[1] == [(1.5, 4)]


def test_a_realtime_source_is_gone_on_with(model: str, tmp_path: Path) -> None:
    common = ("hi", "--model", model, "--max-tokens", "1", "--json", "--fps", "8")
    run("ask", "world:7,seconds=3", *common, "--end", "1.5", "--state", str(tmp_path / "s"))
    rest = objects(run("ask", "world:7,seconds=3", *common, "--realtime", "--resume", str(tmp_path / "s"))[1])
    assert [x["time_s"] for x in rest if x["event"] == "step"] == [1.5, 2.0, 2.5]


@pytest.mark.parametrize("chunk", [4, 16])
def test_frames_that_wait_for_their_step_are_counted(model: str, chunk: int) -> None:
    common = ("ask", "world:7,seconds=5", "hi", "--model", model, "--max-tokens", "1", "-p", "full", "--json")
    alone = objects(run(*common)[1])[-1]
    found = objects(run(*common, "--chunk-frames", str(chunk))[1])[-1]
    assert found["frames"] == alone["frames"] == 10
    if chunk == 4:
        assert found["memory_bytes_per_frame"] == pytest.approx(alone["memory_bytes_per_frame"], rel=0.05)
        assert found["tokens_in_per_frame"] == alone["tokens_in_per_frame"]
    assert "10 frames" in run(*common[:-1], "--chunk-frames", str(chunk))[1]


def test_an_explanation_goes_on_with_its_stream(model: str, tmp_path: Path) -> None:
    common = ("ask", "world:7,seconds=4", "hi", "--model", model, "--max-tokens", "1", "--explain", str(tmp_path / "x"))
    run(*common, "--end", "2", "--state", str(tmp_path / "s"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "x" / "frames").iterdir()}
    assert run(*common, "--resume", str(tmp_path / "s"))[0] == 0
    after = {path.name: path.read_bytes() for path in (tmp_path / "x" / "frames").iterdir()}
    assert (len(before), len(after)) == (4, 8)
    assert before.items() <= after.items()
    lines = objects((tmp_path / "x" / "frames.jsonl").read_text())
    assert [line["frame"] for line in lines] == list(range(8))


def test_text_is_shown_as_it_is_and_an_output_that_knows_few_characters_gets_others(model: str) -> None:
    status, stdout, _ = run("ask", "world:7,seconds=1", "time 10:100:5 :b:", "--model", model, "--max-tokens", "1")
    assert status == 0
    assert "time 10:100:5 :b:" in stdout
    found = CliRunner(charset="ascii").invoke(app, ["demo", "--seconds", "4"])
    assert found.exit_code == 0, found.output
    assert "answers are true" in found.stdout


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("ask", "world:7", "hi", "--at", "inf", "--at", "3"), "--at: must be 0 seconds or more, not inf"),
        (("bench", "accuracy", "--every", "0.1"), "every: must be at least 0.5 s, a frame, not 0.1"),
        (("ask", "file://clip.mp4", "hi"), "three slashes"),
        (("world", "--seconds", "inf", "x.mp4"), "--seconds: must be above 0, not inf"),
        (("world", "--seconds", "nan", "x.mp4"), "--seconds: must be above 0, not nan"),
        (("bench", "agreement", "--seconds", "3.75", "--every", "3.75"), "hold no moment of asking"),
    ],
)
def test_wrong_input_names_what_is_wrong(args: tuple[str, ...], says: str) -> None:
    code, stdout, stderr = run(*args)
    assert (code, stdout) == (2, "")
    assert says in stderr
    assert stderr.count("\n") == 1


@pytest.mark.parametrize("start", [None, "0.5"])
def test_a_stream_goes_on_at_its_own_instants_also_from_its_end(model: str, tmp_path: Path, start: str | None) -> None:
    """At 25 frames per second two instants a second fall between frames; the state knows where they count from."""
    clip = str(make_clip(tmp_path / "c.mkv", every(40, 60)))
    common = ("ask", clip, "hi", "--model", model, "--max-tokens", "1", "--json", "--fps", "2.2")
    first = ("--start", start) if start else ()
    whole = [x["time_s"] for x in objects(run(*common, *first)[1]) if x["event"] == "step"]
    run(*common, *first, "--end", "1.2", "--state", str(tmp_path / "s"))
    seen = headrace.load(model).resume(tmp_path / "s").num_frames
    rest = objects(run(*common, "--resume", str(tmp_path / "s"))[1])
    assert 0 < seen < len(whole)
    assert [x["time_s"] for x in rest if x["event"] == "step"] == whole[seen:]
    status, stdout, _ = run(*common, "--resume", str(tmp_path / "s"))
    assert status == 0, "nothing is left to see, and the question is answered"
    assert [x["event"] for x in objects(stdout)].count("answer") == 1


def test_the_end_of_a_world_is_gone_on_with(model: str, tmp_path: Path) -> None:
    common = ("ask", "world:7,seconds=2", "hi", "--model", model, "--max-tokens", "1", "--json")
    run(*common, "--state", str(tmp_path / "s"))
    assert run(*common, "--resume", str(tmp_path / "s"))[0] == 0
