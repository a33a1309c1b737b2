"""Whatever a host has set for torch, a stream is the same: modes of a thread, and the number type of the process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import headrace
from headrace import registry
from headrace.backbones import FAMILIES
from headrace.engine import Stream
from headrace.engine.modes import own_modes
from headrace.engine.state import same
from headrace.types import Answer
from parity.families import kin, write
from parity.models import QUESTION, frames, tiny

MEMORIES = (
    "flash_vstream:2",
    "full",
    "group_position",
    "infllm:2@memory.window=20",
    "livevlm:9@memory.frames=2@memory.advance=1@memory.page=2",
    "recent:3",
    "rekv:2@memory.window=20",
    "streamingllm:30",
    "streamingvlm:2",
    "video_xl_2:1@memory.block=1@memory.previous=1",
    "videoscan:4",
)
WAYS = ("dense+eos_threshold", "stc_adaptive+random:2", "stc_cacher+stc_pruner:0.5", "uniform:0.5")
PAIRS = [(family, WAYS[(i + k) % len(WAYS)]) for i, family in enumerate(FAMILIES) for k in (0, 1)]  # every way twice


@contextmanager
def number_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES: dict[str, Callable[[], Any]] = {
    "float64": partial(number_type, torch.float64),
    "bfloat16": partial(number_type, torch.bfloat16),
    "inference": torch.inference_mode,
    "gradients": torch.enable_grad,
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "device": partial(torch.device, "meta"),
}
NOTHING: tuple[Callable[[], Any], ...] = (nullcontext,)
EVERY_MODE = pytest.mark.parametrize("mode", MODES)


def played(engine: Any, pipeline: str, folder: Path, modes: tuple[Callable[[], Any], ...]) -> list[Any]:
    """A stream's life, and what it said; the modes take turns."""
    turn = itertools.cycle(modes)

    def do(what: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with next(turn)():
            return what(*args, **options)

    stream, said = do(engine.open, pipeline), []
    if stream.pipeline.speaker.reads_reply:
        do(stream.watch, "w4 w5", max_tokens=3)
    for frame in frames(5):
        said += do(stream.push, frame)
    said += [do(stream.ask, QUESTION, max_tokens=4, remember=remember) for remember in (False, True, False)]
    do(stream.save, folder)
    streams = [stream, do(stream.fork), do(engine.resume, folder)]
    for one in streams:
        for frame in frames(4, first=5):
            said += do(one.push, frame)
        with next(turn)():  # handed out bit by bit, and asked for in one mode
            said += [part for part in one.ask_live(QUESTION, max_tokens=4) if isinstance(part, Answer)]
    return [[(x.answer if hasattr(x, "answer") else x) for x in said], streams]


def check_same(found: list[Any], wanted: list[Any]) -> None:
    for mine, other in zip(found[0], wanted[0], strict=True):
        assert (mine.text, mine.tokens, mine.evidence) == (other.text, other.tokens, other.evidence)
    for mine, other in zip(found[1], wanted[1], strict=True):
        assert same(mine.state, other.state)


def test_every_memory_is_tried():
    tried = {registry.name_of(tiny("frame").engine.open(text).pipeline.memory) for text in MEMORIES}
    assert tried == {entry.name for entry in registry.entries().values() if entry.role == "memory"}


@pytest.mark.parametrize("pipeline", MEMORIES)
def test_memories_are_the_same_in_every_mode(pipeline, tmp_path):
    engine = tiny("frame", seed=1).engine
    wanted = played(engine, pipeline, tmp_path, NOTHING)
    for mode in MODES.values():
        check_same(played(engine, pipeline, tmp_path, (mode, nullcontext, mode)), wanted)


@pytest.mark.parametrize(("family", "way"), PAIRS)
def test_families_are_the_same_in_every_mode(family, way, tmp_path):
    engine, pipeline = kin(family).engine, f"streamingllm:40+{way}"
    wanted = played(engine, pipeline, tmp_path, NOTHING)
    for mode in MODES.values():
        check_same(played(engine, pipeline, tmp_path, (mode, mode, nullcontext)), wanted)


@pytest.mark.parametrize(("mode", "family"), list(zip(MODES, itertools.cycle(FAMILIES), strict=False)))
def test_a_model_may_be_loaded_in_every_mode(mode, family, tmp_path):
    write(family, tmp_path / "model")
    with MODES[mode]():
        engine = headrace.load(str(tmp_path / "model"), dtype="float32", device="cpu")
    assert engine.backbone.spec.fingerprint == kin(family).engine.backbone.spec.fingerprint
    wanted = played(kin(family).engine, "streamingllm:40", tmp_path / "s", NOTHING)
    check_same(played(engine, "streamingllm:40", tmp_path / "s", NOTHING), wanted)


def test_streams_run_on_while_a_model_of_another_number_type_is_loaded(tmp_path):
    """transformers sets the number type of the whole process while it builds a model."""
    write("llava_onevision", tmp_path / "model")
    engine, seen, done = tiny("frame", seed=1).engine, set(), threading.Event()
    wanted = played(engine, "rekv:2@memory.window=20", tmp_path / "s", NOTHING)

    def load() -> None:
        while not done.is_set():
            headrace.load(str(tmp_path / "model"), dtype="bfloat16", device="cpu")

    def look() -> None:
        while not done.is_set():
            seen.add(torch.get_default_dtype())
            time.sleep(1e-4)

    threads = [threading.Thread(target=work) for work in (load, load, look)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            check_same(played(engine, "rekv:2@memory.window=20", tmp_path / "s", NOTHING), wanted)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert torch.get_default_dtype() == torch.float32, "two loads at once put each other's type back"
    assert torch.bfloat16 in seen


@EVERY_MODE
def test_the_callers_modes_are_what_they_were(mode):
    """Also between the tokens of an answer, and after an error."""
    engine, seen = tiny("frame").engine, frames(2)
    with MODES[mode]():
        before = told()
        stream: Stream = engine.open("recent:3")
        with pytest.raises(ValueError, match="no frame"):
            stream.ask(QUESTION)
        for frame in seen:
            stream.push(frame)
        assert all(told() == before for _ in stream.ask_live(QUESTION, max_tokens=3))
        live = stream.ask_live(QUESTION, max_tokens=3)
        next(live)
        assert told() == before
        live.close()
        assert told() == before


def told() -> tuple[Any, ...]:
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    return *modes, torch.get_default_device(), torch.get_default_dtype()


def test_where_nothing_was_set_nothing_is_in_the_way_of_calls():
    with own_modes(torch.device("cpu")):
        assert told() == (False, False, False, torch.device("cpu"), torch.float32)
        assert not torch.overrides._get_current_function_mode_stack()
