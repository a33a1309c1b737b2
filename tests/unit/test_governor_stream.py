"""The governor on real streams: nothing but tuning happens to them, and the target holds on a machine that is busy."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median

import pytest

import headrace
from headrace import video
from headrace.engine.choices import Choice
from headrace.engine.governor import Governor
from headrace.engine.state import same
from headrace.engine.stream import Stream
from headrace.types import Frame
from parity.families import kin
from parity.models import QUESTION, frames, tiny
from unit.test_stream import said

STC = "streamingllm:40+stc_cacher:1.0+uniform:1.0"
HUGE_MS = 1e6  # stages are timed by the real clock: next to this they are nothing, however busy the machine
SLOW_S = 15 * HUGE_MS / 1000  # fifteen targets for full work: more than one at the least there is


class SlowFor:
    """A clock, and stages, on which steps ``first`` to ``last`` of a stream seem to take that long for full work."""

    def __init__(self, stream: Stream, first: int, last: int, seconds: float) -> None:
        self._stream, self._push = stream, stream.push
        self._slow, self._seconds, self._now, self._steps = range(first, last), seconds, 0.0, 0
        stream.push = self.push

    def __call__(self) -> float:
        return self._now

    def push(self, frame):
        events, report = self._push(frame), self._stream.report
        if report is not None:
            methods = self._stream.pipeline
            work = {"encode": getattr(methods.encoder, "update_ratio", 1.0), "prefill": methods.compressor.keep}
            full_s = self._seconds if self._steps in self._slow else 1e-4
            stages = {name: 500 * full_s * (0.1 + 0.9 * share) for name, share in work.items()}
            self._stream.report = replace(report, stage_ms=stages)
            self._now += sum(stages.values()) / 1000
            self._steps += 1
        return events


@pytest.mark.parametrize("max_skip", [0, 2])
@pytest.mark.parametrize("chunk_frames", [1, 2])
def test_a_governed_stream_is_one_that_was_tuned_by_hand(max_skip: int, chunk_frames: int):
    engine = tiny("video", seed=1).engine
    governed = engine.open(STC, chunk_frames=chunk_frames)
    tuned: list[tuple[int, dict]] = []
    tune = governed.tune

    def note(**values):
        tuned.append((governed.num_frames, values))
        tune(**values)

    governed.tune = note
    governor = Governor(governed, target_ms=HUGE_MS, max_skip=max_skip, clock=SlowFor(governed, 10, 30, SLOW_S))
    for frame in frames(110):
        governor.push(frame)
    assert len(tuned) >= 2
    assert governor.setting == "full"
    assert (governor.skipped > 0) == (max_skip > 0)

    skipped = {choice.frame for choice in governor.chose if choice.why == "skip"}
    assert len(skipped) == governor.skipped
    plain = engine.open(STC, chunk_frames=chunk_frames)
    for frame in frames(110):
        if frame.index not in skipped:
            while tuned and tuned[0][0] == plain.num_frames:
                plain.tune(**tuned.pop(0)[1])
            plain.push(frame)
    assert same(plain.state, governed.state)
    assert said(plain.ask(QUESTION)) == said(governed.ask(QUESTION))


def test_bare_pictures_are_counted_where_frames_are_skipped():
    stream = tiny("video", seed=1).engine.open("recent:2+uniform:1.0")
    governor = Governor(stream, target_ms=HUGE_MS, clock=SlowFor(stream, 5, 60, 100 * HUGE_MS / 1000))
    for frame in frames(40):
        governor.push(frame.image.numpy())
        if governor.report is not None:
            assert governor.report.time_s == frame.time_s
            assert governor.report.frames == (frame.index,)
    assert governor.skipped > 10
    last = next(choice.frame for choice in reversed(governor.chose) if choice.why != "skip")
    stream.push(frames(1)[0].image.numpy())
    assert stream.report is not None
    assert stream.report.frames == (last + 1,), "no number is given twice once the governor is gone"


def test_a_tower_that_takes_pairs_has_two_frames_to_a_step():
    stream, now = kin("qwen2_5_vl").engine.open("uniform:1.0"), [0.0]
    push = stream.push

    def taking(frame):
        now[0] += 0.01
        return push(frame)

    stream.push = taking
    governor = Governor(stream, target_ms=20.0, clock=lambda: now[0])
    for frame in frames(8):
        governor.push(frame)
    assert governor.summary()["frames"] == {"full": 8}
    assert [choice.took_ms for choice in governor.chose] == pytest.approx([5.0] * 4)


def test_a_push_that_fails_leaves_the_governor_in_order():
    stream = tiny("video", seed=1).engine.open(STC)
    governor = Governor(stream, target_ms=HUGE_MS)
    for i, frame in enumerate(frames(6)):
        if i == 3:
            with pytest.raises(ValueError, match="push"):
                governor.push("no picture")
        governor.push(frame)
    assert stream.num_frames == 6
    assert len(governor.chose) == 6


@pytest.mark.parametrize("interval", [1, 3])
def test_the_kind_of_a_step_is_known_before_it(interval: int):
    stream = tiny("video", seed=1).engine.open("stc_cacher:0.5", settings=[f"encoder.refresh_interval={interval}"])
    encoder = stream.pipeline.encoder
    for frame in frames(7):
        kind = encoder.next_kind(stream.state.encoder)
        stream.push(frame)
        assert (kind == "refresh") == bool(encoder.updated(stream.state.encoder, 1).all())


@contextmanager
def burning():
    """A second process that does nothing but compute, on the core this one runs on where that can be said."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield burner
    finally:
        burner.kill()
        burner.wait()


@pytest.fixture
def one_core():
    """This process, and what it starts, on one core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    yield
    os.sched_setaffinity(0, before)


TRIALS = 4
ALONE, SHARED = 0.93, (0.42, 0.6)  # shares of the core that this process gets without, and with, one rival


class Watcher:
    """Pushes frames and says which share of the core the process had meanwhile."""

    def __init__(self, governor: Governor, shown: Iterator[Frame]) -> None:
        self._governor, self._shown = governor, shown

    def push(self, num: int) -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        for frame in itertools.islice(self._shown, num):
            self._governor.push(frame.image)
        return (time.process_time() - cpu) / (time.perf_counter() - wall)


def late(choices: Sequence[Choice]) -> float:
    """The 95th percentile in milliseconds."""
    times = sorted(choice.took_ms for choice in choices if choice.took_ms is not None)
    return times[math.ceil(0.95 * len(times)) - 1]


@pytest.mark.long
@pytest.mark.usefixtures("one_core")
def test_the_target_holds_while_another_process_loads_the_core():
    """The promise with a real process: four times the cheapest setting, or a little more than full quality takes alone.

    The machine may be shared. A trial counts only if this process had its core to itself before and after the load and
    shared it with one rival during it, by its own processor time; a trial that counts is judged without allowance.
    """
    engine = headrace.load("nano")
    with video.open("world:7,seconds=20") as source:
        shown = itertools.cycle(list(source))
    pipeline = "streamingllm:1040+stc_cacher:1.0+uniform:1.0"
    shares = []
    for _ in range(TRIALS):
        cheap, full = engine.open(pipeline), engine.open(pipeline)
        cheap.tune(encoder={"update_ratio": 0.05, "refresh_interval": 64}, compressor={"keep": 0.05})
        took: dict = {cheap: [], full: []}
        for frame in itertools.islice(shown, 60):
            for stream in took:
                start = time.perf_counter()
                stream.push(frame.image)
                took[stream].append(1000 * (time.perf_counter() - start))
        target = max(4 * median(took[cheap][5:]), 1.3 * median(took[full][30:]))
        governor = Governor(engine.open(pipeline), target_ms=target)
        watcher = Watcher(governor, shown)
        before = watcher.push(80)
        with burning():
            during = watcher.push(150)
        shares.append((before, during, watcher.push(300)))
        if min(before, shares[-1][2]) < ALONE or not SHARED[0] <= during <= SHARED[1]:
            continue
        choices = list(governor.chose)
        assert late(choices[10:]) <= 1.1 * target, governor.summary()
        assert late(choices[90:230]) <= 1.1 * target, governor.summary()
        loaded, after = ([choice.setting for choice in part] for part in (choices[90:230], choices[-50:]))
        if 2 * median(took[full][30:]) > 1.1 * target:  # else full quality fits beside a rival, too
            assert loaded.count("full") < 70, "the load must be felt for this to be a test"
        assert after.count("full") > 40
        return
    pytest.skip(f"other processes were on the core: shares of it before, during and after the load {shares}")
