"""Several threads on one engine and on one stream: every push arrives, and nobody hears of the others."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace.engine import Engine, gate
from headrace.engine.state import same
from headrace.types import Answer, Token
from parity.models import QUESTION, Recorder, frames, tiny

WAIT_S = 60
BOTH = pytest.mark.parametrize("clip", ["video", "frame"])
EVERY = pytest.mark.parametrize("pipeline", ["full", "recent:4", "streamingllm:40"])


def opened(pipeline="full", *, clip="video", num=0, seed=0, **options):
    stream = tiny(clip, seed=1).engine.open(pipeline, **options)
    for frame in frames(num, seed=seed):
        stream.push(frame)
    return stream


@BOTH
@EVERY
@pytest.mark.parametrize("chunk", [1, 4])
def test_pushes_between_the_tokens_of_an_answer(clip, pipeline, chunk):
    """Without threads: the same interleaving in every run, a push after every token."""
    stream, quiet = (opened(pipeline, clip=clip, num=6, chunk_frames=chunk) for _ in range(2))
    want = quiet.ask(QUESTION, max_tokens=12)
    got, index = None, 6
    for part in stream.ask_live(QUESTION, max_tokens=12):
        if isinstance(part, Answer):
            got = part
        else:
            stream.push(frames(1, first=index)[0])
            index += 1
    assert (got.tokens, got.evidence, got.frames_seen) == (want.tokens, want.evidence, 6)
    assert index == 18
    for frame in frames(12, first=6):
        quiet.push(frame)
    assert same(stream.state, quiet.state)


@BOTH
@EVERY
def test_pushes_from_another_thread_while_an_answer_is_produced(clip, pipeline):
    stream, quiet = (opened(pipeline, clip=clip, num=6) for _ in range(2))
    want = quiet.ask(QUESTION, max_tokens=40)
    started, later = threading.Event(), frames(30, first=6)

    def push() -> None:
        assert started.wait(WAIT_S)
        for frame in later:
            stream.push(frame)

    pusher = threading.Thread(target=push)
    pusher.start()
    parts = []
    for part in stream.ask_live(QUESTION, max_tokens=40):
        started.set()
        parts.append(part)
    pusher.join(WAIT_S)
    assert not pusher.is_alive()
    assert parts[-1].tokens == want.tokens
    assert parts[-1].evidence == want.evidence
    assert stream.num_frames == 36
    for frame in later:
        quiet.push(frame)
    assert same(stream.state, quiet.state)


@pytest.mark.parametrize("pipeline", ["full", "recent:4"])
def test_a_push_waits_until_a_remembered_answer_is_written_down(pipeline):
    stream, alone = (opened(pipeline, num=3) for _ in range(2))
    arrived = threading.Event()

    def push() -> None:
        stream.push(frames(1, first=3)[0])
        arrived.set()

    live = stream.ask_live(QUESTION, max_tokens=6, remember=True)
    next(live)
    pusher = threading.Thread(target=push)
    pusher.start()
    assert not arrived.wait(0.2)
    list(live)
    pusher.join(WAIT_S)
    assert arrived.is_set()
    alone.ask(QUESTION, max_tokens=6, remember=True)
    alone.push(frames(1, first=3)[0])
    assert same(stream.state, alone.state)


def test_streams_in_threads_equal_each_alone():
    def play(number: int) -> tuple:
        pipeline = ("full", "recent:3", "streamingllm:30", "full+random:0.5")[number % 4]
        stream, heard = opened(pipeline, clip="frame"), []
        for i, frame in enumerate(frames(8, seed=number)):
            stream.push(frame)
            if i % 3 == 2:
                answer = stream.ask(f"w{number}", max_tokens=5, temperature=1.0, seed=number, remember=i == 5)
                heard.append((answer.tokens, answer.text, answer.evidence))
        return stream.state, heard

    alone = [play(number) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(play, range(8)))
    for (state, heard), (state_alone, heard_alone) in zip(together, alone, strict=True):
        assert heard == heard_alone
        assert same(state, state_alone)


def test_many_questions_at_once_on_one_stream():
    stream = opened(num=6)
    questions = [f"w{i} w{i + 1}" for i in range(8)]
    want = [stream.ask(q, max_tokens=8).tokens for q in questions]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda q: stream.ask(q, max_tokens=8).tokens, questions))
    assert got == want


def test_pushes_from_many_threads_all_arrive():
    stream = opened("full")
    picture = frames(1)[0].image
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: stream.push(picture), range(24)))
    assert stream.num_frames == 24
    shown = stream.state.memory.cache.table.view().column("frame")
    assert sorted(set(shown.tolist()) - {-1}) == list(range(24))


@pytest.mark.parametrize("pipeline", ["full", "streamingllm:40", "recent:4"])
def test_forks_and_saves_while_another_thread_pushes(pipeline, tmp_path):
    """Every snapshot is the stream after some whole number of frames."""
    stream, alone = opened(pipeline), {}
    whole = opened(pipeline)
    seen = frames(30)
    for frame in seen:
        whole.push(frame)
        alone[whole.num_frames] = whole.fork().state
    alone[0] = opened(pipeline).state
    done = threading.Event()

    def push() -> None:
        for frame in seen:
            stream.push(frame)
        done.set()

    pusher = threading.Thread(target=push)
    pusher.start()
    twins = []
    while not done.is_set():
        twins.append(stream.fork())
        stream.save(tmp_path)
        twins.append(tiny(seed=1).engine.resume(tmp_path))
    pusher.join(WAIT_S)
    assert len(twins) >= 2
    for twin in twins:
        assert same(twin.state, alone[twin.num_frames])


def test_a_question_sees_whole_frames_only():
    """Whatever a push is doing, the rows a question runs on are those of some moment between two pushes."""
    recorder = Recorder(tiny(seed=1).engine.backbone)
    stream = Engine(recorder).open("full")
    stream.push(frames(1)[0])
    want = {}
    for num in range(1, 21):
        alone = opened(num=num)
        want[num] = alone.ask(QUESTION, max_tokens=3).tokens
    pusher = threading.Thread(target=lambda: [stream.push(frame) for frame in frames(19, first=1)])
    pusher.start()
    answers = []
    while pusher.is_alive():
        answers.append(stream.ask(QUESTION, max_tokens=3))
    pusher.join(WAIT_S)
    answers.append(stream.ask(QUESTION, max_tokens=3))
    assert answers[-1].frames_seen == 20
    for answer in answers:
        assert answer.tokens == want[answer.frames_seen]


def test_tokens_are_of_one_answer():
    stream = opened(num=3)
    first, second = (stream.ask_live(q, max_tokens=5) for q in (QUESTION, "w9 w8"))
    mixed: tuple[list, list] = ([], [])
    for a, b in zip(first, second, strict=True):
        mixed[0].append(a)
        mixed[1].append(b)
    for parts, question in zip(mixed, (QUESTION, "w9 w8"), strict=True):
        assert parts[-1].tokens == tuple(p.id for p in parts if isinstance(p, Token))
        assert parts[-1].tokens == stream.ask(question, max_tokens=5).tokens


def test_a_remembered_answer_may_be_iterated_by_any_thread() -> None:
    """As web servers do that drain a generator in a pool."""
    stream, twin = (tiny(seed=1).engine.open("full") for _ in "ab")
    for one in (stream, twin):
        for frame in frames(3):
            one.push(frame)
    live = stream.ask_live(QUESTION, remember=True, max_tokens=6)
    parts = []
    for _ in range(20):
        with ThreadPoolExecutor(1) as pool:
            part = pool.submit(next, live, None).result()
        if part is None:
            break
        parts.append(part)
    assert parts[-1].tokens == twin.ask(QUESTION, remember=True, max_tokens=6).tokens
    for one in (stream, twin):
        one.push(frames(4)[3])
    assert same(stream.state, twin.state)


def test_an_answer_that_nobody_iterates_any_more_is_told_of_and_can_be_closed() -> None:
    stream = tiny(seed=1).engine.open("full")
    for frame in frames(3):
        stream.push(frame)
    live = stream.ask_live(QUESTION, remember=True, max_tokens=6)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(next, live).result()
    with pytest.raises(ValueError, match="whose thread has ended"):
        stream.push(frames(4)[3])
    assert stream.ask(QUESTION, max_tokens=2).frames_seen == 3, "what only reads goes on"
    live.close()
    stream.push(frames(4)[3])
    assert stream.num_frames == 4


def test_what_is_remembered_is_written_under_the_lock(monkeypatch) -> None:
    """A fork, a save or a question in between would see rows of which half are there."""
    stream = opened(num=3)
    held = []

    def write(self, state, span):
        with ThreadPoolExecutor(1) as pool:
            held.append(not pool.submit(stream._lock.acquire, blocking=False).result())
        return real(self, state, span)

    real = type(stream.pipeline.memory).write
    monkeypatch.setattr(type(stream.pipeline.memory), "write", write)
    stream.ask(QUESTION, remember=True, max_tokens=2)
    assert held == [True]


def test_a_push_that_waited_for_a_stream_that_was_closed_says_so() -> None:
    stream = opened(num=3)
    live = stream.ask_live(QUESTION, remember=True, max_tokens=4)
    next(live)
    with ThreadPoolExecutor(2) as pool:
        closed = pool.submit(stream.close)
        time.sleep(0.1)
        pushed = pool.submit(stream.push, frames(4)[3])
        time.sleep(0.1)
        list(live)
        closed.result(timeout=10)
        error = pushed.exception(timeout=10)
    assert error is None or "this stream is closed" in str(error)


def test_a_pool_may_push_between_the_tokens_it_hands_out() -> None:
    """Whichever worker takes the push: it waits for the one that goes on with the answer."""
    for _ in range(6):
        stream = opened(num=3)
        live = stream.ask_live(QUESTION, remember=True, max_tokens=4)
        with ThreadPoolExecutor(2) as pool:
            pool.submit(next, live).result()
            pushed = pool.submit(stream.push, frames(4)[3])
            rest = [pool.submit(list, live)]
            assert pushed.result(timeout=20) == []
            assert rest[0].result()[-1].frames_seen == 3


def test_a_push_waits_while_another_thread_writes_an_answer_down(monkeypatch) -> None:
    stream = tiny(seed=1).engine.open("full")
    for frame in frames(3):
        stream.push(frame)
    live = stream.ask_live(QUESTION, remember=True, max_tokens=6)
    next(live)
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(stream.push, frames(4)[3])
        time.sleep(0.2)
        assert not pushed.done()
        monkeypatch.setattr(gate, "PATIENCE_S", 0.1)
        with pytest.raises(ValueError, match="iterate that to its end first"):
            stream.push(frames(4)[3])
        answer = list(live)[-1]
        pushed.result(timeout=10)
    assert answer.frames_seen == 3
    assert stream.num_frames == 4
