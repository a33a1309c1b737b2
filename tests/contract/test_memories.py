"""The contract of memories: against the naive twin and against full memory; in bytes in ``test_memory_bytes.py``."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from contract.plays import (
    LAYOUTS,
    Case,
    MemoryPlay,
    check_state,
    equal,
    frozen,
    leaves,
    nodes,
    run,
    through_bytes,
    twin_of,
)
from contract.streams import NUM_STEPS, deepened, place, text_rows, turn_of
from headrace import registry
from headrace.cache import KVCache
from headrace.engine.state import alias, pack, same
from headrace.types import Cursor, Kind, Placed, Segment, Span, VisualTokens
from reference.naive.decoder import drive, spell_out


def play_at(case: Case, where: str, dtype: torch.dtype = torch.float32, *, bare: bool = False) -> MemoryPlay:
    return MemoryPlay(dataclasses.replace(case, where=where), case.build(), dtype=dtype, bare=bare)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), want.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_naive_twin(memory_variant: Case, layout: str):
    """Every hidden row of every step, and of questions in between, for all position layouts and a sliding window."""
    _is_like(play_at(memory_variant, layout))


@pytest.mark.parametrize("layout", ["p1", "interleaved"])
def test_frames_of_which_nothing_is_left_are_frames_too(memory_variant: Case, layout: str):
    """A compressor may drop all tokens of a frame, the first one's, too: as the twin has it.

    Not where tokens are made of others: a frame without any may be as the one before, and no twin breaks ties.
    """
    play = play_at(memory_variant, layout, bare=True)
    assert any(step.tokens is not None and not len(step.segment) for step in play.walk(1))
    assert any(step.tokens is not None and 0 < step.tokens.frame.unique().numel() < 2 for step in play.walk(1)[2:])
    if not hasattr(twin_of(memory_variant.name).Twin, "recall"):
        _is_like(play)
    state, outs = run(play, play.init(), 1, range(NUM_STEPS))
    assert all(bool(x.isfinite().all()) for x in leaves(outs) if isinstance(x, torch.Tensor) and x.is_floating_point())
    again = through_bytes(state, play.spec)
    assert same(again, state)
    last = play.item(1, NUM_STEPS - 1)
    assert equal(frozen(play.ask(again, last)), frozen(play.ask(state, last)))


def _is_like(play: MemoryPlay) -> None:
    twin = twin_of(play.case.name).Twin(play.method, play.spec)
    if play.method.kind == "tokens":
        _recalls_like(play, twin)
    else:
        _attends_like(play, twin)


def _attends_like(play: MemoryPlay, twin: Any) -> None:
    state, first = play.method.init(play.spec), 0
    for i, item in enumerate(play.walk(1)[:15]):
        context = play.method.read(state, play.spec, query=False)
        got = drive(play.decoder, item.segment, context, drop=item.drop, watch=True)
        past = _past_of(twin, len(item.segment))
        want = spell_out(play.decoder, item.segment, past, twin, first=first, drop=item.drop)
        close(got, want.hidden)
        span = context.finish()
        if len(item.segment):
            assert span.attention is not None
            assert abs(float(span.attention.mass.sum()) - 1) < 1e-5
        state = play.method.write(state, span)
        check_state(state)
        twin.write(want.rows)
        first += len(item.segment)
        if i % 4 == 2:
            _asks_like(play, twin, state, item.cursor, first)


def _past_of(twin: Any, num: int) -> list[Any]:
    """The rows a twin has when ``num`` more come; most have what they have."""
    return twin.left_for(num) if hasattr(twin, "left_for") else twin.rows


def _asks_like(play: MemoryPlay, twin: Any, state: Any, cursor: Cursor, first: int) -> None:
    """A question of three rows and two answer rows, decoded one by one on the Context's private tail."""
    context = play.method.read(state, play.spec, query=True)
    tail: list[Any] = []
    for num in (3, 1, 1):
        asked, cursor = turn_of(num, num, cursor, play.spec.position_rows, play.spec.dtype)
        got = drive(play.decoder, asked, context)
        past = [*_past_of(twin, len(tail) + num), *tail]
        want = spell_out(play.decoder, asked, past, twin, first=first + len(tail), query=True)
        close(got, want.hidden)
        tail += want.rows


def _recalls_like(play: MemoryPlay, twin: Any) -> None:
    """What is recalled; a twin that says nothing of ``recall`` keeps frames as they were."""
    if hasattr(twin, "recall"):
        _makes_like(play, twin)
        return
    state = play.init()
    for i in range(NUM_STEPS):
        item = play.item(1, i)
        if item.tokens is None:
            state = play.method.write(state, Span(segment=item.raw))
            twin.write([("turn", len(item.raw), item.raw.turn)])
        else:
            state = play.method.write(state, Span(segment=item.segment, tokens=item.tokens))
            twin.write([("frame", index) for index in item.tokens.frames])
        got = play.method.recall(state)
        assert [_name(x) for x in got] == twin.items, (
            f"step {i}: not what the twin keeps; does it keep remembered turns?"
        )
        fed = {index: part for part in _parts(play, i) for index in part.frames}
        for x in got:
            if isinstance(x, VisualTokens):
                assert equal(frozen(x), frozen(fed[x.frames[0]]))


def _makes_like(play: MemoryPlay, twin: Any) -> None:
    """A memory that makes tokens of its own: what they show, where each stands, and in which order."""
    state = play.init()
    for i in range(NUM_STEPS):
        item = play.item(1, i)
        segment = item.raw if item.tokens is None else item.segment
        state = play.method.write(state, Span(segment=segment, tokens=item.tokens))
        twin.write(segment if item.tokens is None else item.tokens)
        got, want = play.method.recall(state), twin.recall()
        assert len(got) == len(want), f"step {i}: {len(got)} items are recalled, the twin's recall() has {len(want)}"
        for x, (what, *rest) in zip(got, want, strict=True):
            assert isinstance(x, Segment) == (what == "turn"), (
                f"step {i}: {type(x).__name__} where the twin has a {what}"
            )
            if isinstance(x, Segment):
                assert [len(x), x.turn] == rest
                continue
            frame, time_s, grid, slots, features, ids, advance = rest
            tokens = x.tokens if isinstance(x, Placed) else x
            assert (tokens.frames, tokens.grid, list(zip(tokens.row.tolist(), tokens.col.tolist(), strict=True))) == (
                (frame,),
                grid,
                slots,
            )
            assert tokens.times_s[0] == pytest.approx(time_s)
            close(tokens.features, features)
            assert tokens.deep is not None, "the tokens fed have deepstack features: those made of them have, too"
            close(tokens.deep, deepened(features))
            assert tokens.weight is None or tokens.weight.shape == (len(tokens),)
            assert (x.ids.tolist(), x.advance) == (ids, advance) if isinstance(x, Placed) else ids is None


def _name(item: VisualTokens | Segment) -> tuple[Any, ...]:
    if isinstance(item, Segment):
        return ("turn", len(item), item.turn)
    assert len(item.frames) == 1
    return ("frame", item.frames[0])


def _parts(play: MemoryPlay, last: int) -> list[VisualTokens]:
    steps = [play.item(1, i).tokens for i in range(last + 1)]
    return [part for step in steps if step is not None for part in step.split()]


def test_with_room_for_everything_nothing_is_forgotten(memory_identity: Case):
    """What full memory would give, to 1e-5: the yardstick is a naive list of all rows."""
    play = play_at(memory_identity, memory_identity.where)
    steps = play.walk(1)[:15]
    if play.method.kind == "tokens":
        state, _ = run(play, play.init(), 1, range(14))
        want = _parts(play, 13)
        items = [x.tokens if isinstance(x, Placed) else x for x in play.method.recall(state)]
        got = [x for x in items if isinstance(x, VisualTokens)]
        assert equal([frozen(x) for x in got], [frozen(x) for x in want]), "with room for all, frames come back as fed"
        turns = sum(isinstance(x, Segment) for x in play.method.recall(state))
        assert turns == sum(step.tokens is None for step in steps[1:]), (
            "with room for all, turns are kept as frames are"
        )
        return
    full = registry.build("full")
    twin, first, state = twin_of("full").Twin(full, play.spec), 0, play.method.init(play.spec)
    for item in steps:
        context = play.method.read(state, play.spec, query=False)
        want = spell_out(play.decoder, item.segment, twin.rows, twin, first=first, drop=item.drop)
        close(drive(play.decoder, item.segment, context, drop=item.drop), want.hidden)
        state = play.method.write(state, context.finish())
        twin.write(want.rows)
        first += len(item.segment)


@pytest.mark.parametrize("sizes", [(1,), (3,), (5, 1, 2)])
def test_with_room_for_everything_the_cut_does_not_matter(memory_identity: Case, sizes: tuple[int, ...]):
    """Rows one by one, in threes or all at once give the same."""
    play = play_at(memory_identity, memory_identity.where)
    seg, _ = place(text_rows(5, 17, play.spec.position_rows, play.spec.dtype, kind=Kind.TEXT, turn=0), Cursor())
    whole = drive(play.decoder, seg, play.method.read(play.method.init(play.spec), play.spec, query=False))
    state, parts, at = play.method.init(play.spec), [], 0
    context = play.method.read(state, play.spec, query=True)
    while at < len(seg):
        part = seg.cut(at, at + sizes[len(parts) % len(sizes)])
        at += len(part)
        if play.method.kind == "kv":
            context = play.method.read(state, play.spec, query=False)
        parts.append(drive(play.decoder, part, context))
        if play.method.kind == "kv":
            state = play.method.write(state, context.finish())
    close(torch.cat(parts), whole)


def test_reading_and_asking_change_nothing(memory_case: Case):
    play = play_at(memory_case, memory_case.where)
    state, _ = run(play, play.init(), 1, range(6))
    before: dict[str, torch.Tensor] = {}
    text = pack(state, before)
    num_bytes = play.method.num_bytes(state)
    first = play.ask(state, play.item(1, 5))
    second = play.ask(state, play.item(1, 5))
    assert equal(frozen(first), frozen(second))
    after: dict[str, torch.Tensor] = {}
    assert pack(state, after) == text
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert play.method.num_bytes(state) == num_bytes


def test_an_open_question_does_not_see_later_frames(memory_case: Case):
    """A Context sees the memory as it was when it was read, whatever is written and forgotten meanwhile."""
    play = play_at(memory_case, memory_case.where)
    state, _ = run(play, play.init(), 1, range(6))
    item = play.item(1, 5)
    want, _ = play.ask(state, item)
    context = play.method.read(state, play.spec, query=True)
    cursor = play.replay(state, context) if play.method.kind == "tokens" else item.cursor
    for i in range(6, 16):
        state, _ = play.step(state, play.item(2, i))
    asked, _ = turn_of(7, 3, cursor, play.spec.position_rows, play.spec.dtype)
    assert torch.equal(drive(play.decoder, asked, context), want)


def test_type_and_device_are_kept(memory_case: Case):
    """In bf16 hidden rows and all that is stored stay bf16, but for what counts: an index, scores, weights."""
    play = play_at(memory_case, memory_case.where, torch.bfloat16)
    state, outs = run(play, play.init(), 1, range(8))
    tensors = [x for x in leaves(outs) if isinstance(x, torch.Tensor)]
    assert tensors
    assert {x.dtype for x in tensors} == {torch.bfloat16}
    assert {x.device.type for x in tensors} == {"cpu"}
    held: dict[str, torch.Tensor] = {}
    pack(state, held)
    weights = [x.weight for x in nodes(state) if isinstance(x, VisualTokens) and x.weight is not None]
    floats = {
        x.dtype
        for x in held.values()
        if x.is_floating_point() and not any(x.dtype == w.dtype and torch.equal(x, w) for w in weights)
    }
    wide = {torch.float64} | getattr(twin_of(memory_case.name), "WIDE", set())
    assert floats - wide == {torch.bfloat16}, "features, keys and values in bf16; times in fp64, long sums as declared"


def test_a_token_memory_leaves_the_old_state_alone(memory_case: Case):
    """The engine shows waiting frames to a question by writing them to a state it then throws away."""
    play = play_at(memory_case, memory_case.where)
    if play.method.kind != "tokens":
        assert play.method.recall(play.init()) == (), "a kv memory recalls nothing"
        return
    state, _ = run(play, play.init(), 1, range(5))
    old = play.method.recall(state)
    play.step(state, play.item(1, 5))
    assert play.method.recall(state) is old or equal(frozen(old), frozen(play.method.recall(state)))


def test_forked_contexts_go_their_own_ways(memory_case: Case):
    """One reading of the past serves several prompts: each is what it would be on a Context of its own."""
    play = play_at(memory_case, memory_case.where)
    state, _ = run(play, play.init(), 1, range(7))
    cursor = play.item(1, 6).cursor

    def asked(context: Any, *numbers: int) -> list[torch.Tensor]:
        found, at = [], cursor
        for number in numbers:
            rows, at = turn_of(number, 1 + number % 3, at, play.spec.position_rows, play.spec.dtype)
            found.append(drive(play.decoder, rows, context))
        return found

    def opened() -> Any:
        context = play.method.read(state, play.spec, query=True)
        if play.method.kind == "tokens":
            play.replay(state, context)
        return context

    def alone(*numbers: int) -> list[torch.Tensor]:
        return asked(opened(), *numbers)

    shared = opened()
    forks = [shared.fork(), shared.fork()]
    assert equal(asked(forks[0], 1, 2, 3), alone(1, 2, 3))
    assert equal(asked(forks[1], 4, 2), alone(4, 2))
    assert equal(asked(shared, 5), alone(5))
    rest = forks[1].fork()
    assert equal(asked(rest, 6), asked(forks[1], 6))
    assert equal(frozen(forks[1].finish().layers), frozen(rest.finish().layers))


def test_a_write_to_an_alias_can_be_taken_back(memory_case: Case):
    """The engine writes a step to an alias while the step may still fail; then either of the two goes on."""
    play = play_at(memory_case, memory_case.where)
    want = run(play, play.init(), 1, range(10))[1][4:]
    for thrown_away in (True, False):
        state, _ = run(play, play.init(), 1, range(4))
        other = alias(state)
        assert same(other, state)
        if thrown_away:
            run(play, other, 2, range(4, 7))
            other = state
        assert equal(run(play, other, 1, range(4, 10))[1], want)


def test_caches_of_a_state_are_found_by_the_checks(memory_case: Case):
    """``check`` reaches every cache of a kv memory, so a broken one cannot hide."""
    play = play_at(memory_case, memory_case.where)
    state, _ = run(play, play.init(), 1, range(5))
    caches = [leaf for leaf in leaves(state) if isinstance(leaf, KVCache)]
    assert bool(caches) == (play.method.kind == "kv")


def test_state_comparison_sees_a_difference(memory_case: Case):
    play = play_at(memory_case, memory_case.where)
    assert not same(run(play, play.init(), 1, range(5))[0], run(play, play.init(), 2, range(5))[0])
