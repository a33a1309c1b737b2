"""The rules of the benches, one by one: whose turn it is, what counts into which figure, and in which unit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from headrace.bench import accuracy, overhead, recall, recalled, retrieval, space, timed
from headrace.bench.statistics import Outcome
from headrace.bench.statistics import accuracy as mean
from headrace.bench.table import replace_between
from headrace.engine import Engine
from headrace.methods.speakers.eos_threshold import EosThreshold
from unit.test_bench import engine  # noqa: F401 a fixture


def test_askings_of_one_moment_are_no_questions_of_their_own() -> None:
    setting = recall.Setting(ages=(1.0,), askings=4)
    asked = [(age, x.kind) for found in recall.plan(0, setting).values() for age, _, x in found]
    row = recall.Row("recent:2", "", 0, [(age, kind, number % 3 == 0) for number, (age, kind) in enumerate(asked)])
    (found,) = recalled.summarise([row], ["recent:2"], 1, setting)
    for age, repeats in ((0.0, 1), (1.0, 4)):
        own = [Outcome(kind, 0, right) for at, kind, right in row.outcomes if at == age]
        assert found["by_age"][f"{age:g}"]["ci95"] == mean(own, repeats=repeats).ci95
    assert mean(own, repeats=4).ci95 > 1.3 * mean(own).ci95


def test_contenders_of_overhead_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, run = list[str](), overhead._Timer.__call__

    def timer(self: Any, name: str, work: Callable[[], Any]) -> Any:
        turns.append(name)
        return run(self, name, work)

    monkeypatch.setattr(overhead._Timer, "__call__", timer)
    overhead.overhead(shape="tiny", frames=4, dtype=torch.float32)
    rounds = [turns[i : i + 3] for i in range(len(turns) - 12, len(turns), 3)]
    assert all(sorted(each) == ["bare", "engine", "transformers"] for each in rounds)
    assert sum(each.index("bare") < each.index("engine") for each in rounds) == 2
    assert sum(each[0] == "transformers" for each in rounds) == 2


def test_the_last_quarter_is_where_the_past_is_longest() -> None:
    timer = overhead._Timer(torch.device("cpu"))
    timer.seconds = {name: [1.0] * 16 for name in ("engine", "bare", "transformers")}
    timer.seconds["prefill"] = 2 * [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 5.0]
    found = overhead._result(timer, "tiny", 8, 2, 4)
    assert (found.prefill_ratio, found.prefill_ratio_last) == (1.75, 4.0)


def test_the_long_and_the_short_stream_are_asked_first_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[int]()
    monkeypatch.setattr(retrieval, "ask", lambda pipeline, backbone, state: asked.append(state.num_frames) or 1.0)
    retrieval.retrieval(retrieval.Setting(shape="tiny", few=1, many=2, today=0, repeats=4, dtype="float32"), tmp_path)
    assert asked == [1, 2, 2, 1, 1, 2, 2, 1, 1, 2]


def test_what_is_run_before_questions_and_for_instructions_is_counted_where_it_belongs(
    engine: Engine,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every question would pay for the past it is asked of, and no frame pays for what is watched."""
    show, step = accuracy.show_past, EosThreshold.step

    def slow(work: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: time.sleep(0.2) or work(*args)

    monkeypatch.setattr(accuracy, "show_past", slow(show))
    monkeypatch.setattr(EosThreshold, "step", slow(step))
    setting = accuracy.Setting(seconds=6.0, every_s=6.0, h264=False, watches=1)
    (row,) = accuracy.run_seed(engine, ["streamingllm:200"], 3, setting)
    assert len(row.outcomes) > 1
    assert len(row.watched) == 1
    assert min(row.ms_per_question, row.ms_per_watch) >= 200 > row.ms_per_frame


def test_a_stage_is_timed_until_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was asked for before belongs to another one."""
    clock = [0.0]

    def takes(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(timed, "wait", lambda device: takes(3.0))
    monkeypatch.setattr(timed.time, "perf_counter", lambda: clock[0])
    inner = SimpleNamespace(spec=SimpleNamespace(device="cpu"), pixels=lambda frames: takes(1.0))
    backbone = timed.Timed(inner)
    backbone.pixels([])
    assert backbone.ms["pixels"] == 4000


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_the_most_memory_is_told_in_bytes(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space.sys, "platform", platform)
    monkeypatch.setattr(space.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=5))
    assert space.peak_bytes(torch.device("cpu")) == {"resident": 5 * unit}


def test_a_table_ends_at_its_own_mark(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- t -->\nold\n<!-- /t -->\nkept, and so is <!-- /t -->\n")
    replace_between(page, "t", "new")
    assert page.read_text() == "a\n<!-- t -->\nnew\n<!-- /t -->\nkept, and so is <!-- /t -->\n"
