"""Standing instructions: when a stream speaks up, what it says then, and that nothing else notices."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from headrace import registry
from headrace.engine import Engine, Pipeline, Stream
from headrace.engine.folder import checksum_of
from headrace.engine.state import same
from headrace.types import Decision, Event, Observation
from parity.models import QUESTION, frames, tiny

PIPELINES = [
    "full",
    "recent:4",
    "streamingllm:40",
    "streamingllm:24+uniform:3",
    "recent:3+random:0.5",
    "full+stc_cacher+stc_pruner:3",
]
EVERY = pytest.mark.parametrize("pipeline", PIPELINES)
TEXTS = ("w1 w2", "w30 w31 w32 w33", "w7")
WORD = 20


class Scripted:
    """A backbone whose reply to each instruction begins as a script says; everything else is the real one's."""

    def __init__(self, backbone: Any, **scripts: list[float]) -> None:
        self._backbone = backbone
        self._scripts = {text: iter(script) for text, script in scripts.items()}
        self._asked: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def turn(self, text: str, cursor: Any) -> Any:
        """Note what is asked."""
        self._asked = text
        return self._backbone.turn(text, cursor)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """Silence has the script's probability, one word the rest."""
        real = self._backbone.logits(h)
        text, self._asked = self._asked, None
        if text not in self._scripts:
            return real
        silence = next(self._scripts[text])
        scores = torch.full_like(real, -1e9)
        scores[-1, self._backbone.spec.stop_ids[0]] = math.log(silence)
        scores[-1, WORD] = math.log(1 - silence)
        return scores


class Leaning:
    """A backbone that would often rather stop, so that some replies begin with silence and some do not."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """Silence gets more than the random weights give it."""
        scores = self._backbone.logits(h).clone()
        scores[:, self._backbone.spec.stop_ids[0]] += 4.5
        return scores


def leaning() -> Engine:
    return Engine(Leaning(tiny("frame", seed=1).engine.backbone))


def scripted(pipeline: str = "full+eos_threshold:0.725", *, watch=(), chunk=1, **scripts: list[float]) -> Stream:
    stream = Engine(Scripted(tiny(seed=1).engine.backbone, **scripts)).open(pipeline, chunk_frames=chunk)
    for text in (watch,) if isinstance(watch, str) else watch:
        stream.watch(text, max_tokens=3)
    return stream


def opened(pipeline="full", *, threshold=1.0, watch=(), num=0, engine=None, **options) -> Stream:
    stream = (engine or leaning()).open(f"{pipeline}+eos_threshold:{threshold}", **options)
    for text in (watch,) if isinstance(watch, str) else watch:
        stream.watch(text, max_tokens=4)
    play(stream, range(num))
    return stream


def play(stream: Stream, span: range, *, seed: int = 0) -> list[Event]:
    return [event for i in span for event in stream.push(frames(1, first=i, seed=seed)[0])]


def told(events: list[Event]) -> list[tuple[Any, ...]]:
    """What events say, without what they cost and what they are called by."""
    return [
        (x.time_s, x.instruction, x.decision, x.answer.text, x.answer.tokens, x.answer.finish, x.answer.frames_seen)
        for x in events
    ]


def said(stream: Stream) -> tuple[int, ...]:
    return stream.ask("w3", max_tokens=4).tokens


def unwatched(state: Any) -> Any:
    return replace(state, watching=(), num_watches=0)


def typical(pipeline: str, num: int) -> float:
    """A threshold that half of the replies to all instructions pass."""
    scores = sorted(x.decision.score for x in play(opened(pipeline, watch=TEXTS), range(num)))
    assert len(scores) == 3 * num
    return 1 - scores[len(scores) // 2]


def test_it_speaks_below_the_threshold():
    stream = scripted(watch="w1", w1=[0.99, 0.73, 0.72, 0.999, 0.1])
    heard = play(stream, range(5))
    assert [event.time_s for event in heard] == [2.0, 4.0]
    assert [event.number for event in heard] == [1, 1]
    assert [round(event.decision.score, 4) for event in heard] == [0.28, 0.9]
    assert [event.answer.tokens[0] for event in heard] == [WORD, WORD]
    assert {event.instruction for event in heard} == {"w1"}
    assert [event.answer.frames_seen for event in heard] == [3, 5]


def test_a_small_threshold_leaves_it_to_the_model():
    assert [x.time_s for x in play(scripted("eos_threshold:0.01", watch="w1", w1=[0.6, 0.4]), range(2))] == [1.0]


def test_instructions_come_true_each_in_its_own_time():
    stream = scripted(watch=["w1", "w2"], w1=[0.9, 0.1, 0.9, 0.1], w2=[0.9, 0.9, 0.1, 0.1])
    heard = play(stream, range(4))
    assert [(event.time_s, event.number) for event in heard] == [(1.0, 1), (2.0, 2), (3.0, 1), (3.0, 2)]


def test_an_instruction_holds_from_the_next_step_on():
    stream = scripted(chunk=2, w1=[0.1] * 9, w2=[0.1] * 9)
    play(stream, range(1))
    assert stream.watch("w1") == 1
    assert [(x.time_s, x.number) for x in play(stream, range(1, 3))] == [(1.0, 1)]
    assert stream.watch("w2") == 2
    assert [(x.time_s, x.number) for x in play(stream, range(3, 5))] == [(3.0, 1), (3.0, 2)]
    stream.unwatch(1)
    assert [(x.time_s, x.number) for x in play(stream, range(5, 6))] == [(5.0, 2)]
    assert stream.watching == {2: "w2"}
    stream.unwatch(2)
    assert stream.watch("w1") == 3, "numbers are not used again"


def test_a_remembered_question_completes_a_step_and_its_events_are_handed_on():
    stream = scripted(watch="w1", chunk=2, w1=[0.1] * 3)
    assert play(stream, range(1)) == []
    stream.ask("w5", remember=True, max_tokens=2)
    assert [event.time_s for event in play(stream, range(1, 2))] == [0.0]


@EVERY
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_reply_is_what_ask_would_have_said(pipeline, chunk):
    engine = tiny("frame", seed=1).engine
    watched = opened(pipeline, engine=engine, watch=TEXTS, chunk_frames=chunk)
    asked = opened(pipeline, engine=engine, chunk_frames=chunk)
    compared = 0
    for i in range(9):
        heard = play(watched, range(i, i + 1))
        play(asked, range(i, i + 1))
        assert len(heard) == (3 if i % chunk == chunk - 1 else 0)
        for event in heard:
            answer = asked.ask(event.instruction, max_tokens=4)
            assert (event.answer.time_s, event.answer.frames_seen) == (answer.time_s, answer.frames_seen)
            assert event.answer.prompt_rows == answer.prompt_rows
            if answer.tokens:
                compared += 1
                assert event.answer.tokens == answer.tokens
                assert (event.answer.text, event.answer.finish) == (answer.text, answer.finish)
    assert compared >= 3


@EVERY
def test_nothing_else_notices(pipeline):
    """State, memory and answers are those of a stream that watches nothing, whether it spoke or not."""
    watched = opened(pipeline, threshold=typical(pipeline, 8), watch=TEXTS)
    plain = opened(pipeline)
    for i in range(8):
        play(watched, range(i, i + 1))
        play(plain, range(i, i + 1))
        assert same(unwatched(watched.state), plain.state)
        if i == 4:
            answers = [stream.ask("w9 w8", max_tokens=5, remember=True) for stream in (watched, plain)]
            assert answers[0].tokens == answers[1].tokens
    assert said(watched) == said(plain)


def test_nothing_else_notices_with_any_memory():
    for entry in registry.entries().values():
        if entry.role == "memory":
            watched, plain = opened(entry.name, watch=TEXTS, num=6), opened(entry.name, num=6)
            assert same(unwatched(watched.state), plain.state), entry.name


@EVERY
def test_three_instructions_are_each_alone(pipeline):
    threshold = typical(pipeline, 7)
    together = play(opened(pipeline, threshold=threshold, watch=TEXTS), range(7))
    assert 0 < len(together) < 21
    for text in TEXTS:
        alone = play(opened(pipeline, threshold=threshold, watch=text), range(7))
        assert told(alone) == [x for x in told(together) if x[1] == text]


@EVERY
def test_two_streams_in_turn_are_each_alone(pipeline):
    threshold = typical(pipeline, 6)
    streams = [opened(pipeline, threshold=threshold, watch=text) for text in TEXTS[:2]]
    heard: list[list[Event]] = [[], []]
    for i in range(6):
        for seed, stream in enumerate(streams):
            heard[seed] += play(stream, range(i, i + 1), seed=seed)
    for seed, text in enumerate(TEXTS[:2]):
        alone = play(opened(pipeline, threshold=threshold, watch=text), range(6), seed=seed)
        assert told(alone) == told(heard[seed])


@EVERY
def test_forks_and_resumed_streams_go_on_watching(pipeline, tmp_path):
    threshold = typical(pipeline, 10)
    stream = opened(pipeline, threshold=threshold, watch=TEXTS, num=4)
    stream.unwatch(2)
    want = told(play(stream.fork(), range(4, 10)))
    stream.save(tmp_path)
    copy, again = stream.fork(), leaning().resume(tmp_path)
    assert copy.watching == again.watching == {1: TEXTS[0], 3: TEXTS[2]}
    copy.unwatch(1)
    assert again.watch("w50") == 4
    again.unwatch(4)
    assert told(play(again, range(4, 10))) == want
    assert told(play(copy, range(4, 10))) == [x for x in want if x[1] == TEXTS[2]]
    assert told(play(stream, range(4, 10))) == want


def test_a_stream_saved_before_there_were_instructions_resumes(tmp_path):
    stream = opened(num=3)
    stream.save(tmp_path)
    manifest = json.loads((tmp_path / "stream.json").read_text())
    fields = manifest["stream"]["state"]["fields"]
    assert fields.pop("watching") == {"tuple": []}
    assert fields.pop("num_watches") == 0
    manifest["sha256"] = checksum_of(manifest["stream"])
    (tmp_path / "stream.json").write_text(json.dumps(manifest))
    again = leaning().resume(tmp_path)
    assert same(again.state, stream.state)
    assert again.watch("w1") == 1


@dataclass(frozen=True)
class Counting:
    """Speaks at every third reply of an instruction; breaks at the reply ``breaks`` of any."""

    breaks: int = -1
    causal: ClassVar[bool] = True
    reads_hidden: ClassVar[bool] = False
    reads_reply: ClassVar[bool] = True

    def init(self, spec: Any) -> int:
        return 0

    def step(self, state: int, seen: Observation) -> tuple[int, Decision]:
        assert seen.reply is not None
        assert seen.hidden is None
        assert seen.reply.logits.ndim == 1
        if state == self.breaks:
            raise RuntimeError("no voice")
        return state + 1, Decision(state % 3 == 2, seen.reply.instruction, 0.5)


def test_the_speaker_has_a_state_for_each_instruction():
    stream = tiny(seed=1).engine.open(replace(Pipeline.parse("full"), speaker=Counting()))
    stream.watch("w1", max_tokens=2)
    play(stream, range(1))
    stream.watch("w2", max_tokens=2)
    assert [(x.time_s, x.number) for x in play(stream, range(1, 7))] == [(2.0, 1), (3.0, 2), (5.0, 1), (6.0, 2)]
    assert [standing.speaker for standing in stream.state.watching] == [7, 6]


@EVERY
@pytest.mark.parametrize("chunk", [1, 2])
def test_a_step_that_fails_changes_nothing(pipeline, chunk):
    """The third reply fails, with the step's rows already written; afterwards the stream is what it was."""
    made = replace(Pipeline.parse(pipeline, chunk_frames=chunk), speaker=Counting(breaks=3))
    stream = tiny("frame", seed=1).engine.open(made)
    for text in TEXTS[:2]:
        stream.watch(text, max_tokens=4)
    num = 4 * chunk - 1
    play(stream, range(num))
    before = stream.fork()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no voice"):
            play(stream, range(num, num + 1), seed=3)
    assert same(stream.state, before.state)
    assert said(stream) == said(before)
    after = []
    for each in (stream, before):
        each.pipeline = replace(made, speaker=Counting())
        after.append(told(play(each, range(num, num + 5))))
    assert after[0] == after[1]
    assert same(stream.state, before.state)


def test_a_step_says_what_listening_took():
    stream = scripted(w1=[0.1] * 9, w2=[0.1] * 9)
    play(stream, range(1))
    assert stream.report is not None
    idle = stream.report.stage_ms["speak"]
    stream.watch("w1", max_tokens=40)
    heard = play(stream, range(1, 2))
    assert stream.report.stage_ms["speak"] > max(idle, heard[0].answer.total_ms - 1)
    assert len(heard[0].answer.tokens) <= 40


def test_replies_may_be_kept_short():
    stream = opened()
    stream.watch("w1", max_tokens=2)
    assert {len(x.answer.tokens) for x in play(stream, range(3))} <= {1, 2}


def test_tuning_the_threshold():
    stream = scripted("eos_threshold", watch="w1", w1=[0.7, 0.7, 0.7])
    assert not play(stream, range(1))
    stream.tune(speaker={"threshold": 0.8})
    assert play(stream, range(1, 2))
    with pytest.raises(ValueError, match="threshold"):
        stream.tune(speaker={"threshold": 1.5})


@pytest.mark.parametrize("text", ["", "  \n", "w1 <video>", "<|im_end|>"])
def test_instructions_that_cannot_be_asked(text):
    stream = opened(num=1)
    named = r"^watch: holds .* a control token" if text.strip() else r"^watch: is empty; give an instruction in words$"
    with pytest.raises(ValueError, match=named) as raised:
        stream.watch(text)
    assert "\n" not in str(raised.value)
    assert stream.watching == {}


def test_what_cannot_be_watched():
    engine = tiny(seed=1).engine
    with pytest.raises(ValueError, match=r"^watch: .*on_request.*\+eos_threshold"):
        engine.open("full").watch("w1")
    with pytest.raises(ValueError, match=r"\+eos_threshold"):
        engine.open("full", watch=["w1"])
    assert engine.open("eos_threshold", watch="w1").watching == {1: "w1"}
    assert engine.open("eos_threshold", watch=["w1", "w2"]).watching == {1: "w1", 2: "w2"}
    stream = opened(watch="w1")
    for number in (0, 2, "1"):
        with pytest.raises(ValueError, match=r"^unwatch: .*there are: 1"):
            stream.unwatch(number)
    with pytest.raises(ValueError, match="max_tokens"):
        stream.watch("w2", max_tokens=0)
    stream.unwatch(1)
    with pytest.raises(ValueError, match="none"):
        stream.unwatch(1)
    stream.close()
    for call in (lambda: stream.watch("w1"), lambda: stream.unwatch(1)):
        with pytest.raises(ValueError, match="closed"):
            call()


@pytest.mark.parametrize("how", ["goes on", "is resumed", "is forked"])
def test_what_was_said_before_the_next_frame_is_heard_with_it(how, tmp_path):
    """A remembered question takes a frame in that waits for its step; its event waits for the next push."""
    engine = tiny(seed=1).engine
    stream = engine.open("full+eos_threshold:1.0", chunk_frames=2)
    stream.watch("w1", max_tokens=1)
    shown = frames(4)
    assert stream.push(shown[0]) == []
    stream.ask(QUESTION, remember=True, max_tokens=1)
    if how == "is resumed":
        stream.save(tmp_path)
        stream = engine.resume(tmp_path)
    stream = stream.fork() if how == "is forked" else stream
    heard = [stream.push(frame) for frame in shown[1:]]
    assert [[event.time_s for event in events] for events in heard] == [[0.0], [2.0], []]
    assert heard[0][0].instruction == "w1"


def test_what_was_handed_out_is_not_said_again_after_a_crash(tmp_path):
    engine = tiny(seed=1).engine
    stream = engine.open("full+eos_threshold:1.0")
    stream.watch("w1", max_tokens=1)
    kept, shown = stream.checkpoint(tmp_path, every_s=0), frames(2)
    assert len(stream.push(shown[0])) == 1
    kept.wait()
    assert len(engine.resume(tmp_path).push(shown[1])) == 1


def test_a_reply_is_what_an_answer_would_be_where_repetition_is_punished(monkeypatch):
    """From its first word on; only that it may not be silence."""
    engine = tiny(seed=1).engine
    monkeypatch.setattr(engine.backbone, "spec", replace(engine.backbone.spec, repetition_penalty=1.7))
    same = 0
    for number in range(8):
        stream = engine.open("full+eos_threshold:1.0")
        stream.watch(f"w{number}", max_tokens=4)
        (event,) = stream.push(frames(number + 1)[number])
        told = stream.ask(f"w{number}", max_tokens=4).tokens
        assert not told or event.answer.tokens == told
        same += bool(told)
    assert same > 4
