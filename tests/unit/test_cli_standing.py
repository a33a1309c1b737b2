"""Standing instructions on the command line: what they print, and how the demo marks them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from unit.tiny import objects, run, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random model in the real layout."""
    return save_tiny(tmp_path_factory.mktemp("model"))


SEES = "say when there is a cut"


@pytest.fixture
def speaks_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, set[float]]], None]:
    """Makes the speaker speak at given times of each instruction."""
    from headrace.methods.speakers.eos_threshold import EosThreshold
    from headrace.types import Decision

    def script(times: dict[str, set[float]]) -> None:
        def step(self: Any, state: None, seen: Any) -> Any:
            text = seen.reply.instruction
            return None, Decision(seen.time_s in times[text], text, 0.5)

        monkeypatch.setattr(EosThreshold, "step", step)

    return script


def test_a_standing_instruction_is_one_object_per_event(model: str, speaks_at) -> None:
    speaks_at({SEES: {1.0, 2.5}, "say when the digit changes": {2.5}})
    common = ("ask", "world:7,seconds=4", "--watch", SEES, "--watch", "say when the digit changes", "--model", model)
    code, stdout, stderr = run(*common, "--json", "--max-tokens", "2")
    assert (code, stderr) == (0, "")
    found = objects(stdout)
    spoke = [x for x in found if x["event"] == "spoke"]
    assert [(x["time_s"], x["number"], x["instruction"]) for x in spoke] == [
        (1.0, 1, SEES),
        (2.5, 1, SEES),
        (2.5, 2, "say when the digit changes"),
    ]
    assert all(x["score"] == 0.5 and 1 <= len(x["tokens"]) <= 2 and x["text"] for x in spoke)
    assert "eos_threshold(threshold=" in found[0]["pipeline"]
    at = found.index(spoke[0])
    assert found[at + 1]["event"] == "step", "an event is told when it happens"
    assert found[at + 1]["time_s"] == 1.0
    code, stdout, _ = run(*common, "how many things are there?", "--max-tokens", "2")
    assert code == 0
    lines = [line.split() for line in stdout.splitlines() if " ! " in line]
    assert [line[:3] for line in lines] == [["1.00", "s", "!"], ["2.50", "s", "!"], ["2.50", "s", "!"]]
    assert "how many things are there?" in stdout


def test_a_named_speaker_stays_and_settings_reach_it(model: str) -> None:
    common = ("ask", "world:7,seconds=1", "--watch", SEES, "--model", model, "--json", "--max-tokens", "1")
    for args in (("-p", "recent:2+eos_threshold:0.9"), ("-p", "recent:2", "--set", "speaker.threshold=0.9")):
        code, stdout, stderr = run(*common, *args)
        assert (code, stderr) == (0, "")
        assert "eos_threshold(threshold=0.9)" in objects(stdout)[0]["pipeline"]


def test_a_resumed_stream_goes_on_watching(model: str, tmp_path: Path, speaks_at) -> None:
    speaks_at({SEES: {1.0, 3.0}, "say when something leaves": {3.5}})
    common = ("--model", model, "--max-tokens", "2", "--json")
    run("ask", "world:7,seconds=4", "--watch", SEES, "--end", "2", "--state", str(tmp_path / "s"), *common)
    again = ("--watch", SEES, "--watch", "say when something leaves", "--resume", str(tmp_path / "s"))
    code, stdout, stderr = run("ask", "world:7,seconds=4", *again, *common)
    assert (code, stderr) == (0, "")
    spoke = [(x["time_s"], x["number"]) for x in objects(stdout) if x["event"] == "spoke"]
    assert spoke == [(3.0, 1), (3.5, 2)]


class StopsAfter:
    """Ctrl-C after so many frames."""

    number = 2

    def __init__(self, num: int) -> None:
        self._left = num

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


@pytest.mark.parametrize(("num", "asked"), [(2, True), (4, False)])
def test_going_on_watching_asks_only_what_is_open(model: str, tmp_path: Path, monkeypatch, num: int, asked: bool):
    monkeypatch.setattr("headrace.cli.watching.graceful", lambda source: nullcontext(StopsAfter(num)))
    watched = ("--watch", SEES, "--model", model, "--max-tokens", "1")
    kept = ("--state", str(tmp_path / "s"))
    code, _, stderr = run("ask", "world:7,seconds=9", "what", "--at", "0.5", *watched, *kept)
    assert code == 130
    hint = shlex.split(stderr.splitlines()[-1])
    question = ["what", "--at", "0.5"] if asked else []
    again = [*question, "--resume", str(tmp_path / "s"), *watched]
    assert hint[:4] == ["headrace:", "headrace", "ask", "world:7,seconds=9"]
    assert sorted(hint[4:]) == sorted(again)


def test_the_demo_marks_what_it_says(model: str, speaks_at) -> None:
    from headrace.cli.demo import instruction
    from headrace.video.world import World

    watch = instruction(World(7), 40)
    assert watch is not None
    common = ("demo", "--model", model, "--seconds", "20", "--every", "20", "-p", "recent:1")
    first, *rest = watch.events_s
    speaks_at({watch.text: {first, *(x + 1.5 for x in rest)}})
    found = objects(run(*common, "--json")[1])
    spoke = [x for x in found if x["event"] == "spoke"]
    assert (spoke[0]["time_s"], spoke[0]["right"]) == (first, True)
    truth = found[-1]["spoke"]
    assert truth["hits"] == sum(x["right"] for x in spoke)
    assert truth["alarms"] == sum(not x["right"] for x in spoke)
    assert truth["missed"] == len(watch.events_s) - truth["hits"]
    assert [x["time_s"] for x in found if x["event"] == "missed"] == [
        x
        for x in watch.events_s
        if x + 0.5 < 19.5 and not any(y["right"] and abs(y["time_s"] - x) <= 0.5 for y in spoke)
    ]
    speaks_at({watch.text: set(watch.events_s)})
    code, stdout, _ = run(*common)
    assert code == 0
    assert watch.text in stdout
    assert f"spoke up at {len(watch.events_s)} of {len(watch.events_s)} events within one frame, and 0 times" in stdout
    assert "✓" in stdout
