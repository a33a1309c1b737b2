"""SIGKILL at random instants of a checkpointed stream: what is there loads, and is the stream up to that moment."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from headrace.engine.state import same
from parity.models import QUESTION, frames, tiny

PIPELINES = ("streamingllm:200", "full", "recent:3")
MOST_FRAMES, PATIENCE_S = 4000, 60
WATCH = ("w3", "w5 w7")


def engine():
    return tiny("frame", seed=1).engine


def shown(first: int):
    """Frames of an endless stream."""
    return frames(1, first=first)[0]


def started(pipeline: str):
    return engine().open(f"{pipeline}+eos_threshold", chunk_frames=2, watch=WATCH)


def live(folder: Path, pipeline: str) -> None:
    """A process that watches a stream and saves it as often as it can, until it is killed."""
    stream = engine().resume(folder) if (folder / "stream.json").is_file() else started(pipeline)
    with stream.checkpoint(folder, every_s=0):
        while stream.num_frames < MOST_FRAMES:
            stream.push(shown(stream.num_frames))


def killed(folder: Path, pipeline: str, after_s: float) -> None:
    """Let such a process run for a while after its first save, and kill it."""
    manifest = folder / "stream.json"
    before = manifest.stat().st_mtime_ns if manifest.is_file() else 0
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(PATIENCE_S)
            live(folder, pipeline)
        finally:
            os._exit(1)
    begun = time.monotonic()
    while not manifest.is_file() or manifest.stat().st_mtime_ns == before:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the process that was to be killed has ended by itself"
        assert time.monotonic() < begun + PATIENCE_S
        time.sleep(0.001)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def rounds(tmp_path: Path, num: int, seed: int) -> None:
    """Kill processes that go on from what the one before has left, and compare with a stream that ran through."""
    dice = random.Random(seed)
    alone = {pipeline: started(pipeline) for pipeline in PIPELINES}
    for number in range(num):
        pipeline = PIPELINES[number % len(PIPELINES)]
        folder, whole = tmp_path / pipeline.partition(":")[0], alone[pipeline]
        killed(folder, pipeline, dice.uniform(0, 0.1))
        back = engine().resume(folder)
        assert whole.num_frames < back.num_frames < MOST_FRAMES
        while whole.num_frames < back.num_frames:
            whole.push(shown(whole.num_frames))
        assert same(back.state, whole.state)
        assert back.watching == whole.watching
        assert back.ask(QUESTION, max_tokens=3).tokens == whole.ask(QUESTION, max_tokens=3).tokens


def test_three_kills(tmp_path):
    rounds(tmp_path, 3, seed=time.time_ns())


@pytest.mark.long
def test_fifty_kills(tmp_path):
    rounds(tmp_path, 50, seed=time.time_ns())
