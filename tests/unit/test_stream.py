"""A running stream: what it says does not depend on who else runs, what else was asked, or how it was cut."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrace.engine.state import fork, same
from headrace.types import Answer, Frame, Query, Token
from parity.models import QUESTION, frames, tiny

PIPELINES = [
    "full",
    "recent:4",
    "streamingllm:40",
    "full+uniform:2",
    "recent:3+random:0.5",
    "streamingllm:24+uniform:3",
]
BOTH = pytest.mark.parametrize("clip", ["video", "frame"])
EVERY = pytest.mark.parametrize("pipeline", PIPELINES)


def opened(pipeline="full", *, clip="video", num=0, seed=0, **options):
    stream = tiny(clip, seed=1).engine.open(pipeline, **options)
    for frame in frames(num, seed=seed):
        stream.push(frame)
    return stream


def said(answer: Answer) -> tuple:
    """What an answer says, without what it cost."""
    return answer.text, answer.tokens, answer.finish, answer.evidence, answer.frames_seen, answer.time_s


@BOTH
@EVERY
def test_interleaved_equals_alone_bit_for_bit(clip, pipeline):
    options = {"max_tokens": 5, "temperature": 0.8, "seed": 2}

    def play(*streams):
        """Push and ask in turns, remembering one of the questions."""
        got = [[] for _ in streams]
        for i in range(9):
            for number, stream in streams:
                stream.push(frames(1, seed=number, first=i)[0])
            for heard, (_, stream) in zip(got, streams, strict=True):
                if i % 3 == 2:
                    heard.append(said(stream.ask(f"w{i}", remember=i == 5, **options)))
        return got

    def pair():
        return (1, opened(pipeline, clip=clip)), (2, opened(pipeline, clip=clip))

    together, alone = pair(), pair()
    assert play(*together) == [*play(alone[0]), *play(alone[1])]
    for (_, a), (_, b) in zip(together, alone, strict=True):
        assert same(a.state, b.state)
    assert not same(together[0][1].state, together[1][1].state)


@BOTH
@EVERY
@pytest.mark.parametrize("chunk", [1, 4])
def test_questions_change_nothing(clip, pipeline, chunk):
    stream = opened(pipeline, clip=clip, num=7, chunk_frames=chunk)
    before = fork(stream.state)
    first = stream.ask(QUESTION, max_tokens=6)
    other = stream.ask("w9 w9", max_tokens=40, temperature=2.0, seed=1)
    assert other.tokens != first.tokens
    assert same(stream.state, before)
    assert said(stream.ask(QUESTION, max_tokens=6)) == said(first)
    for part in stream.ask_live("w4", max_tokens=9):  # one that is left in the middle
        if isinstance(part, Token):
            break
    assert same(stream.state, before)
    stream.push(frames(1, first=7)[0])
    untouched = opened(pipeline, clip=clip, num=8, chunk_frames=chunk)
    assert same(stream.state, untouched.state)
    assert said(stream.ask(QUESTION, max_tokens=6)) == said(untouched.ask(QUESTION, max_tokens=6))


@BOTH
def test_recent_4_after_100_frames_equals_a_fresh_stream_of_the_last_4(clip):
    old = opened("recent:4", clip=clip, num=100)
    new = opened("recent:4", clip=clip)
    for frame in frames(100)[-4:]:
        new.push(frame)
    a, b = (stream.ask(QUESTION, max_tokens=12, repetition_penalty=1.3) for stream in (old, new))
    assert (a.tokens, a.evidence) == (b.tokens, b.evidence)
    assert len(set(a.tokens)) > 2
    assert (a.frames_seen, b.frames_seen) == (100, 4)
    assert old.pipeline.memory.num_bytes(old.state.memory) == new.pipeline.memory.num_bytes(new.state.memory)
    assert (
        opened("recent:5", clip=clip, num=100).ask(QUESTION, max_tokens=12, repetition_penalty=1.3).evidence
        != a.evidence
    )


@BOTH
@EVERY
def test_a_fork_and_its_origin_go_their_own_ways(clip, pipeline):
    origin = opened(pipeline, clip=clip, num=5)
    twin = origin.fork()
    for i in range(5, 12):
        origin.push(frames(1, seed=1, first=i)[0])
        twin.push(frames(1, seed=2, first=i)[0])
    for seed, stream in ((1, origin), (2, twin)):
        alone = opened(pipeline, clip=clip, num=5)
        for i in range(5, 12):
            alone.push(frames(1, seed=seed, first=i)[0])
        assert same(stream.state, alone.state)
        assert said(stream.ask(QUESTION, max_tokens=5)) == said(alone.ask(QUESTION, max_tokens=5))
    twin.close()
    assert origin.ask(QUESTION, max_tokens=2).frames_seen == 12


@BOTH
@EVERY
def test_pending_frames_are_seen_by_a_question_and_committed_later(clip, pipeline):
    stream, eager = opened(pipeline, clip=clip, chunk_frames=4), opened(pipeline, clip=clip)
    for i, frame in enumerate(frames(9)):
        stream.push(frame)
        eager.push(frame)
        assert len(stream.state.pending) == (i + 1) % 4
        assert (stream.report is None) == bool((i + 1) % 4)
        before = fork(stream.state)
        a, b = (s.ask(QUESTION, max_tokens=4) for s in (stream, eager))
        assert (a.frames_seen, a.time_s) == (i + 1, float(i))
        assert same(stream.state, before)
        if not pipeline.startswith("streamingllm"):  # there a chunk's rows see rows that singles no longer see
            assert (a.tokens, a.text) == (b.tokens, b.text)
            assert [m.frame for m in a.evidence] == [m.frame for m in b.evidence]


@BOTH
@pytest.mark.parametrize("pipeline", ["full", "recent:4"])
def test_a_remembered_question_takes_pending_frames_in(clip, pipeline):
    stream, eager = opened(pipeline, clip=clip, chunk_frames=4, num=6), opened(pipeline, clip=clip, num=6)
    for s in (stream, eager):
        s.ask("w3", max_tokens=3, remember=True)
        for frame in frames(2, first=6):
            s.push(frame)
    assert len(stream.state.pending) == 2
    a, b = (s.ask(QUESTION, max_tokens=6) for s in (stream, eager))
    assert a.tokens == b.tokens


@BOTH
@EVERY
def test_a_remembered_question_changes_what_comes_after(clip, pipeline):
    plain, told = (opened(pipeline, clip=clip, num=4) for _ in range(2))
    first = told.ask("w7 w8", max_tokens=4, remember=True)
    assert said(first) == said(plain.ask("w7 w8", max_tokens=4))
    assert told.ask(QUESTION, max_tokens=12).tokens != plain.ask(QUESTION, max_tokens=12).tokens
    assert told.state.cursor.turn == 1


@pytest.mark.parametrize("pipeline", ["full", "recent:4"])
def test_an_abandoned_remembered_question_leaves_nothing(pipeline):
    stream = opened(pipeline, num=3)
    before = fork(stream.state)
    live = stream.ask_live(QUESTION, remember=True, max_tokens=8)
    next(live)
    live.close()
    assert same(stream.state, before)
    stream.push(frames(1, first=3)[0])
    assert same(stream.state, opened(pipeline, num=4).state)


@pytest.mark.parametrize("act", ["push", "ask", "fork", "save"])
def test_the_thread_that_remembers_waits_for_the_end_of_the_answer(act, tmp_path):
    """The lock lets its own thread pass, so the stream says no instead of mixing two pasts."""
    stream = opened(num=3)
    acts = {
        "push": lambda: stream.push(frames(1, first=3)[0]),
        "ask": lambda: stream.ask("w4", max_tokens=2, remember=True),
        "fork": stream.fork,
        "save": lambda: stream.save(tmp_path),
    }
    twin = opened(num=3)
    twin.ask(QUESTION, remember=True, max_tokens=8)
    live = stream.ask_live(QUESTION, remember=True, max_tokens=8)
    next(live)
    if act == "push" or act == "ask":
        with pytest.raises(ValueError, match="answer"):
            acts[act]()
    else:
        acts[act]()
    assert isinstance(list(live)[-1], Answer)
    assert same(stream.state, twin.state)


def test_a_token_memory_that_writes_in_place_is_not_polluted_by_a_question():
    """``write`` may change the state it is given; a question with pending frames must give it a copy."""
    stream = opened("recent:4", num=6, chunk_frames=4)
    kept = stream.state.memory
    stream.pipeline = replace(stream.pipeline, memory=_InPlace(stream.pipeline.memory))
    items = kept.items
    stream.ask(QUESTION, max_tokens=1)
    assert stream.state.memory is kept
    assert kept.items is items


class _InPlace:
    """A memory that puts its next state into the one it was given."""

    kind = "tokens"

    def __init__(self, memory):
        self._memory = memory

    def write(self, state, span):
        state.items = self._memory.write(state, span).items
        return state

    def __getattr__(self, name):
        return getattr(self._memory, name)


def test_tokens_come_one_by_one_and_then_the_answer():
    stream = opened(num=3)
    parts = list(stream.ask_live(QUESTION, max_tokens=7))
    assert [type(part) for part in parts] == [Token] * 7 + [Answer]
    assert tuple(part.id for part in parts[:-1]) == parts[-1].tokens
    assert "".join(part.text for part in parts[:-1]).strip() == parts[-1].text
    assert parts[-1].finish == "length"
    assert said(parts[-1]) == said(stream.ask(Query(QUESTION, max_tokens=7)))


@pytest.mark.parametrize("num", [1, 2, 5])
def test_max_tokens(num):
    answer = opened(num=3).ask(QUESTION, max_tokens=num)
    assert len(answer.tokens) == num
    assert answer.tokens == opened(num=3).ask(QUESTION, max_tokens=9).tokens[:num]


@pytest.mark.parametrize("remember", [False, True])
def test_stop_strings_also_across_tokens(remember):
    whole = opened(num=3).ask(QUESTION, max_tokens=12)
    words = whole.text.split(" ")
    at = next(i for i in range(2, 10) if f"{words[i]} {words[i + 1]}" not in " ".join(words[: i + 1]))
    stop = f"{words[at][-1]} {words[at + 1]}"
    stream = opened(num=3)
    parts = list(stream.ask_live(QUESTION, max_tokens=12, stop=("never", stop), remember=remember))
    answer = parts[-1]
    assert answer.finish == "stop"
    assert answer.text == whole.text[: whole.text.index(stop)].strip()
    assert "".join(part.text for part in parts[:-1]).strip() == answer.text
    assert len(answer.tokens) < 12


def test_sampling_follows_the_seed():
    stream = opened(num=3)
    options = {"temperature": 1.5, "max_tokens": 12}
    assert stream.ask(QUESTION, seed=1, **options).tokens == stream.ask(QUESTION, seed=1, **options).tokens
    assert stream.ask(QUESTION, seed=1, **options).tokens != stream.ask(QUESTION, seed=2, **options).tokens
    greedy = stream.ask(QUESTION, max_tokens=12).tokens
    assert stream.ask(QUESTION, temperature=1e-6, seed=3, max_tokens=12).tokens == greedy
    assert stream.ask(QUESTION, temperature=5.0, top_p=1e-9, seed=3, max_tokens=12).tokens == greedy


@BOTH
def test_reports_and_answers_say_what_things_cost(clip):
    stream = opened("full+uniform:3", clip=clip, chunk_frames=2)
    stream.push(frames(1)[0])
    assert stream.report is None
    held = stream.pipeline.memory.num_bytes(stream.state.memory)
    stream.push(frames(1, first=1)[0])
    report = stream.report
    assert (report.frames, report.time_s) == ((0, 1), 1.0)
    assert (report.tokens_in, report.tokens_kept) == (8, 6)
    assert {"encode", "compress", "prefill", "speak"} <= set(report.stage_ms)
    assert all(ms >= 0 for ms in report.stage_ms.values())
    assert report.memory_bytes == stream.pipeline.memory.num_bytes(stream.state.memory) > held
    assert (stream.state.num_tokens_in, stream.state.num_tokens_kept) == (8, 6)
    start = time.perf_counter()
    answer = stream.ask(QUESTION, max_tokens=3)
    spent = 1000 * (time.perf_counter() - start)
    assert 0 < answer.first_token_ms <= answer.total_ms <= spent
    assert answer.question == QUESTION
    assert answer.prompt_rows == len(stream._backbone.turn(QUESTION, stream.state.cursor)) + (clip == "video")


def test_pictures_without_a_frame_are_a_second_apart():
    stream = opened()
    for image in (np.zeros((28, 28, 3), np.uint8), torch.zeros(40, 30, 3, dtype=torch.uint8)):
        stream.push(image)
    stream.push(Frame(7, 9.5, torch.zeros(28, 28, 3, dtype=torch.uint8)))
    stream.push(np.zeros((28, 28, 3), np.uint8))
    assert stream.state.time_s == 10.5
    assert {(m.frame, m.time_s) for m in stream.ask(QUESTION, max_tokens=1, evidence=9).evidence} == {
        (0, 0.0),
        (1, 1.0),
        (7, 9.5),
        (8, 10.5),
    }


def test_a_caller_may_use_its_picture_buffer_again():
    """Cameras hand out one buffer over and over; frames wait in the stream until their chunk is full."""
    buffer = np.zeros((28, 28, 3), np.uint8)
    reused, fresh = (opened(chunk_frames=3) for _ in range(2))
    for i in range(3):
        picture = frames(1, first=i)[0].image.numpy()
        buffer[:] = picture
        reused.push(buffer)
        fresh.push(picture.copy())
    assert same(reused.state, fresh.state)


def test_a_frame_that_waits_does_not_change_with_its_makers_buffer():
    buffer = torch.zeros(28, 28, 3, dtype=torch.uint8)
    reused, fresh = (opened(chunk_frames=3) for _ in range(2))
    for frame in frames(5):
        buffer.copy_(frame.image)
        reused.push(dataclasses.replace(frame, image=buffer))
        fresh.push(frame)
    assert same(reused.state, fresh.state)
    assert same(reused.ask(QUESTION, max_tokens=2).evidence, fresh.ask(QUESTION, max_tokens=2).evidence)


@pytest.mark.parametrize("pipeline", ["full", "streamingllm:40", "rekv:2", "recent:3", "livevlm", "video_xl_2"])
@pytest.mark.parametrize("deed", ["push", "remember"])
def test_an_interrupt_behind_the_write_leaves_the_memory_as_it_was(pipeline, deed, monkeypatch):
    """Ctrl-C in a notebook, and the cell is run again: nothing is in the memory twice."""
    stream, alone = (opened(pipeline, num=4, clip="frame") for _ in range(2))
    kind, done = type(stream.pipeline.memory), []

    def write(self, state, span, real=kind.write):
        done.append(real(self, state, span))
        raise KeyboardInterrupt

    def do(one):
        return one.push(frames(5)[4]) if deed == "push" else one.ask(QUESTION, max_tokens=3, remember=True)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "write", write)
        with pytest.raises(KeyboardInterrupt):
            do(stream)
    assert done
    assert same(stream.state.memory, alone.state.memory)
    for one in (stream, alone):
        do(one)
        one.push(frames(6)[5])
    assert same(stream.state, alone.state)


def test_tuning_a_running_stream():
    stream = opened("full+uniform:3", num=2)
    stream.tune(compressor={"keep": 1})
    stream.push(frames(1, first=2)[0])
    assert stream.report.tokens_kept == 1
    for wrong, named in (
        ({"memory": {"positions": "repack"}}, "memory.positions"),
        ({"pruner": {"x": 1}}, "pruner"),
        ({"compressor": {"keep": 0}}, "keep"),
    ):
        with pytest.raises(ValueError, match=named):
            stream.tune(**wrong)
    stream.push(frames(1, first=3)[0])
    assert stream.report.tokens_kept == 1


def test_numbers_of_numpy_are_numbers(tmp_path):
    stream = opened("recent:3")
    for index, time_s in zip(np.arange(3), np.linspace(0, 1, 3, dtype=np.float32), strict=True):
        stream.push(Frame(index, time_s, frames(1)[0].image))
    twin = stream.fork()
    stream.save(tmp_path)
    again = tiny("video", seed=1).engine.resume(tmp_path)
    assert said(stream.ask(QUESTION, max_tokens=3)) == said(again.ask(QUESTION, max_tokens=3))
    assert said(stream.ask(QUESTION, max_tokens=3)) == said(twin.ask(QUESTION, max_tokens=3))
