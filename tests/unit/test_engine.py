"""What to run and where: pipelines, their settings, devices and types, and streams that speak by themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

import headrace
from headrace import video
from headrace.engine import Engine, Pipeline
from headrace.engine.state import same
from headrace.types import Decision, Event, Frame, Observation, Query
from parity.models import QUESTION, frames, tiny


@dataclass(frozen=True)
class Loud:
    """Speaks after every ``every``-th step; its state counts steps."""

    every: int = 3
    reads_hidden: bool = False
    reads_reply: ClassVar[bool] = False
    causal: ClassVar[bool] = True

    def init(self, spec: Any) -> int:
        return 0

    def step(self, state: int, seen: Observation) -> tuple[int, Decision]:
        assert (seen.hidden is not None) == self.reads_hidden
        if self.reads_hidden:
            assert seen.hidden.shape[1] == 32
            assert len(seen.hidden) >= len(seen.tokens)
        return state + 1, Decision((state + 1) % self.every == 0, "w5 w6", 0.75)


def speaking(**options) -> Pipeline:
    return replace(Pipeline.parse(options.pop("text", "full")), speaker=Loud(**options))


def test_what_runs_by_default():
    assert str(Pipeline.parse()) == (
        "encoder=dense() compressor=keep_all() memory=full(positions='auto') speaker=on_request() chunk_frames=1"
    )
    assert str(Pipeline.parse("dense")) == str(Pipeline.parse("full+keep_all"))


def test_names_and_settings():
    made = Pipeline.parse("recent:3+uniform:0.5", ["memory.turn_rows=7", "compressor.keep=2"], chunk_frames=4)
    assert (made.memory.frames, made.memory.turn_rows, made.compressor.keep, made.chunk_frames) == (3, 7, 2, 4)
    assert set(made.methods()) == {"encoder", "compressor", "memory", "speaker"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["memory.nothing=1"], "nothing"),
        (["nobody.keep=1"], "nobody"),
        (["keep=1"], "keep"),
        (["compressor.keep"], "compressor.keep"),
        (["compressor.keep=lots"], "keep"),
        (["compressor.keep=-1"], "keep"),
        (["pruner.keep=1"], "pruner"),
    ],
)
def test_wrong_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named) as raised:
        Pipeline.parse("full+uniform", settings)
    assert "\n" not in str(raised.value)


def test_a_method_that_looks_ahead_is_kept_out_of_streams():
    class Later(type(Pipeline.parse("full+uniform").compressor)):
        causal = False

    with pytest.raises(ValueError, match="have not come yet"):
        replace(Pipeline.parse("full"), compressor=Later())


def test_a_stream_speaks_when_its_speaker_says_so():
    stream = tiny(seed=1).engine.open(speaking())
    heard: list[Event] = []
    for frame in frames(7):
        events = stream.push(frame)
        assert len(events) == (frame.index % 3 == 2)
        heard += events
    assert [event.time_s for event in heard] == [2.0, 5.0]
    assert all(event.decision == Decision(True, "w5 w6", 0.75) for event in heard)
    alone = tiny(seed=1).engine.open("full")
    for frame in frames(3):
        alone.push(frame)
    assert heard[0].answer.tokens == alone.ask("w5 w6").tokens
    assert heard[0].answer.frames_seen == 3
    assert stream.state.speaker == 7


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_speaker_may_read_the_decoders_rows(chunk):
    pipeline = replace(speaking(reads_hidden=True, every=2), chunk_frames=chunk)
    stream = tiny(seed=1).engine.open(pipeline)
    assert sum(len(stream.push(frame)) for frame in frames(8)) == 8 // chunk // 2


def test_a_speaker_that_reads_rows_needs_a_memory_that_runs_them():
    with pytest.raises(ValueError, match="token memory"):
        tiny(seed=1).engine.open(speaking(text="recent", reads_hidden=True))


def test_streams_of_one_engine_may_run_different_pipelines():
    engine = tiny(seed=1).engine
    streams = [engine.open(text) for text in ("full", "recent:32", "streamingllm:2048")]
    for frame in frames(5):
        for stream in streams:
            stream.push(frame)
    answers = {stream.ask(QUESTION, max_tokens=8).tokens for stream in streams}
    assert len(answers) == 1, "with room for all, all memories are the same"


def test_what_the_package_shows():
    assert headrace.Engine is Engine
    assert headrace.Pipeline is Pipeline
    assert set(headrace.__all__) <= {*dir(headrace), "Answer", "Frame", "Query", "Engine", "Pipeline", "Stream", "load"}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        headrace.Nothing  # noqa: B018


def test_auto_takes_what_there_is():
    from headrace.engine.engine import choose_device, choose_dtype

    here = choose_device("auto")
    assert here.type == (
        "cpu" if not torch.accelerator.is_available() else torch.accelerator.current_accelerator().type
    )
    assert choose_dtype("auto", torch.device("cpu"), "nano") == torch.float32
    assert choose_dtype("auto", torch.device("cpu"), "a/b") in (torch.float32, torch.bfloat16)
    assert choose_dtype("auto", torch.device("meta"), "a/b") == torch.bfloat16


def test_tuning_checks_types() -> None:
    pipeline = Pipeline.parse("recent:4+uniform:0.5")
    assert "frames=7" in str(pipeline.tuned(memory={"frames": 7}))
    for values in ({"memory": {"frames": "x"}}, {"memory": {"frames": 2.5}}, {"compressor": {"keep": None}}):
        with pytest.raises(ValueError, match=r"recent\.frames|uniform\.keep"):
            pipeline.tuned(**values)


@dataclass(frozen=True)
class Broken(Loud):
    """A speaker that fails at the third step."""

    def step(self, state: int, seen: Observation) -> tuple[int, Decision]:
        if state == 2:
            raise RuntimeError("no voice")
        return state + 1, Decision()


@pytest.mark.parametrize("memory", ["full", "recent:3", "streamingllm:9"])
def test_a_step_that_fails_changes_nothing(memory: str) -> None:
    stream = tiny(seed=1).engine.open(replace(Pipeline.parse(memory), speaker=Broken()))
    for frame in frames(2):
        stream.push(frame)
    before = stream.fork()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no voice"):
            stream.push(frames(3)[2])
    assert same(stream.state, before.state)
    assert stream.ask(QUESTION).tokens == before.ask(QUESTION).tokens


def test_a_remembered_question_hands_on_what_its_step_said():
    stream = tiny(seed=1).engine.open(replace(speaking(every=1), chunk_frames=2))
    for frame in frames(3):
        heard = stream.push(frame)
    assert heard == []
    stream.ask(QUESTION, remember=True, max_tokens=2)
    assert [event.time_s for event in stream.push(frames(4)[3])] == [2.0]


def test_tuning_keeps_to_the_budget():
    engine = tiny(seed=1).engine
    stream = engine.open("streamingllm:64", memory_mb=1)
    with pytest.raises(headrace.engine.MemoryBudgetError, match="memory budget"):
        stream.tune(memory={"window": 10**6})
    assert stream.pipeline.memory.window == 64
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.tune(memory={"window": 32})


def test_queries_check_their_numbers():
    for options in ({"max_tokens": 2.5}, {"max_tokens": True}, {"seed": 2**70}, {"seed": -1}, {"evidence": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Query("hi", **options)
    wrong = ({"temperature": "a"}, {"top_p": None}, {"repetition_penalty": "1"}, {"temperature": True})
    for options in (*wrong, {"text": 5}):
        name = "question" if "text" in options else next(iter(options))
        with pytest.raises(ValueError, match=f"^{name}: "):
            Query(**{"text": "hi", **options})
    assert Query("hi", temperature=1, repetition_penalty=None).temperature == 1
    assert Query("hi", stop="pen").stop == ("pen",)
    assert engine_settings() == 3


def test_what_a_pipeline_has_already_is_not_given_beside_it() -> None:
    engine, pipeline = tiny(seed=1).engine, Pipeline.parse("recent:4", chunk_frames=2)
    for given in ({"settings": "memory.frames=9"}, {"chunk_frames": 4}):
        with pytest.raises(ValueError, match=r"^pipeline: "):
            engine.open(pipeline, **given)
    assert engine.open(pipeline).pipeline is pipeline
    for wrong in (1.5, 0, True, "2"):
        with pytest.raises(ValueError, match=r"^chunk_frames: "):
            engine.open("recent:4", chunk_frames=wrong)


def test_tuning_takes_fields_and_values() -> None:
    with pytest.raises(ValueError, match=r"^memory: takes fields"):
        tiny(seed=1).engine.open("recent:4").tune(memory=3)


def engine_settings() -> int:
    stream = tiny(seed=1).engine.open("uniform", settings="compressor.keep=3")
    return stream.pipeline.compressor.keep


def test_a_question_is_text_in_utf_8() -> None:
    with pytest.raises(ValueError, match=r"^question: 'q\\udcff' holds bytes that are no UTF-8"):
        Query("q\udcff")


@pytest.mark.parametrize(
    ("index", "time_s", "says"),
    [(-1, 0.0, "index"), (2**62, 0.0, "index"), (0, float("nan"), "time_s"), (0, float("inf"), "time_s")],
)
def test_a_frame_has_a_number_and_a_time(index: int, time_s: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Frame(index, time_s, torch.zeros(8, 8, 3, dtype=torch.uint8))


def test_a_frame_follows_the_last_one() -> None:
    """Moments are found again by index and time, so neither goes back."""
    stream = tiny(seed=1).engine.open("recent:4")
    for frame in frames(3):
        stream.push(frame)
    last = stream.state
    for wrong in (replace(frames(3)[2]), replace(frames(4)[3], time_s=0.0), replace(frames(4)[3], index=1)):
        with pytest.raises(ValueError, match=r"^push: frame \d at .* does not follow frame 2"):
            stream.push(wrong)
    assert stream.state is last
    stream.push(replace(frames(4)[3], time_s=last.time_s))  # frames of one instant are taken


def test_another_video_is_appended() -> None:
    stream = tiny(seed=1).engine.open("recent:8")
    for _ in range(2):
        with video.open([torch.zeros(8, 8, 3, dtype=torch.uint8)] * 3, fps=2) as source:
            for frame in stream.unseen(source, append=True):
                stream.push(frame)
    assert [frame for item in stream.state.memory.items for frame in item.frames] == [0, 1, 2, 3, 4, 5]
    assert stream.state.time_s == 2.5
    with video.open("world:7,seconds=12", fps=2, start=10) as source:  # its own start does not count
        first = next(iter(stream.unseen(source, append=True)))
    assert (first.index, first.time_s) == (6, 3.0)
