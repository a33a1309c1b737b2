"""The contract of memories: against the naive twin, against full memory, and in bytes."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch

from contract.plays import LAYOUTS, Case, MemoryPlay, check_state, equal, frozen, leaves, run, twin_of
from contract.streams import NUM_STEPS, dice, place, places, text_rows, turn_of, wrapped
from headrace import registry
from headrace.cache import KVCache
from headrace.engine.state import alias, fork, pack, same
from headrace.types import Cursor, Kind, LayerSpan, ModelSpec, Placed, Segment, Span, VisualTokens
from reference.naive.decoder import DIM, HEAD_DIM, KV_HEADS, drive, spec, spell_out


def play_at(case: Case, where: str, dtype: torch.dtype = torch.float32) -> MemoryPlay:
    return MemoryPlay(dataclasses.replace(case, where=where), case.build(), dtype=dtype)


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), want.double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_the_naive_twin(memory_variant: Case, layout: str):
    """Every hidden row of every step, and of questions in between, for all position layouts and a sliding window."""
    play = play_at(memory_variant, layout)
    twin = twin_of(memory_variant.name).Twin(play.method, play.spec)
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
        assert [_name(x) for x in got] == twin.items
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
        assert len(got) == len(want)
        for x, (what, *rest) in zip(got, want, strict=True):
            assert isinstance(x, Segment) == (what == "turn")
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
        assert equal([frozen(x) for x in got], [frozen(x) for x in want])
        assert sum(isinstance(x, Segment) for x in play.method.recall(state)) == sum(
            step.tokens is None for step in steps[1:]
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
    """In bf16 the hidden rows and everything stored stay bf16, but for what blocks are found by: index and scores."""
    play = play_at(memory_case, memory_case.where, torch.bfloat16)
    state, outs = run(play, play.init(), 1, range(8))
    tensors = [x for x in leaves(outs) if isinstance(x, torch.Tensor)]
    assert tensors
    assert {x.dtype for x in tensors} == {torch.bfloat16}
    assert {x.device.type for x in tensors} == {"cpu"}
    held: dict[str, torch.Tensor] = {}
    pack(state, held)
    floats = {x.dtype for x in held.values() if x.is_floating_point()}
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


BIG = (8, 8)


def _span(model: ModelSpec, i: int, kind: str, num_rows: int = 64) -> Span:
    """A frame of 64 rows (or a prefix), with keys and values made up."""
    generator = dice(i)
    frame, row, col = places(1, BIG)
    if num_rows < 64:
        seg = text_rows(i, num_rows, model.position_rows, model.dtype, kind=Kind.PREFIX, turn=0)
        return Span(seg, _layers(model, num_rows, generator))
    deep = torch.randn(len(model.taps), 64, DIM, generator=generator) if model.taps else None
    features = torch.randn(64, DIM, generator=generator)
    tokens = VisualTokens(features, frame, row, col, BIG, (i,), (float(i),), deep=deep)
    seg, _ = place(wrapped(tokens, model.position_rows), Cursor(next=5 + 64 * i))
    return Span(seg, tokens=tokens) if kind == "tokens" else Span(seg, _layers(model, 64, generator))


def _layers(model: ModelSpec, num: int, generator: torch.Generator) -> tuple[LayerSpan, ...]:
    def random() -> torch.Tensor:
        return torch.randn(KV_HEADS, num, HEAD_DIM, generator=generator)

    return tuple(LayerSpan(random(), random(), random(), torch.arange(num)) for _ in range(model.layers))


def _fill(method: Any, model: ModelSpec, state: Any, steps: range) -> tuple[Any, list[int]]:
    sizes = []
    for i in steps:
        state = method.write(state, _span(model, i, method.kind, num_rows=5 if i == 0 and method.kind == "kv" else 64))
        check_state(state)
        sizes.append(method.num_bytes(state))
    return state, sizes


def test_bytes_stay_below_the_declared_bound(memory_case: Case):
    """200 frames of 64 rows; flat where a bound is declared, honest growth where there is none.

    Visual tokens may have deepstack features; the rows of a kv memory are the decoder's, whatever joined them.
    """
    method = memory_case.build()
    plain = spec(position_rows=LAYOUTS[memory_case.where][0], grid=BIG)
    for taps in ((), (0, 1)) if method.kind == "tokens" else ((),):
        _check_bytes(method, dataclasses.replace(plain, taps=taps))


def _check_bytes(method: Any, model: ModelSpec) -> None:
    bound = method.bound_bytes(model)
    state, sizes = _fill(method, model, method.init(model), range(200))
    if bound is None:
        steps = {b - a for a, b in pairwise(sizes[100:])}  # parts of it may be bounded, and are full by then
        assert len(steps) == 1, "a memory without a bound grows by the same bytes per frame"
        assert steps.pop() >= 64 * (model.row_bytes if method.kind == "kv" else model.dim * model.dtype.itemsize)
        return
    assert max(sizes) <= bound
    assert max(sizes[100:]) <= max(sizes[:100])
    held = sum(x.numel() * x.itemsize for x in _held(state))
    assert sizes[-1] >= held, "num_bytes leaves something out"


def _held(state: Any) -> list[torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    pack(state, tensors)
    return list(tensors.values())


def test_bytes_follow_a_tuned_value(memory_variant: Case):
    """After a tunable field changed, the bytes soon go below the bound of the new value."""
    method, model = memory_variant.build(), spec(grid=BIG)
    table = twin_of(memory_variant.name).TUNED
    assert table.keys() == set(method.tunable)
    for field, values in table.items():
        wide = dataclasses.replace(method, **{field: 1500 if isinstance(values[0], int) else 1.0})
        full, _ = _fill(wide, model, wide.init(model), range(40))
        for value in values:
            tuned = dataclasses.replace(method, **{field: value})
            _, sizes = _fill(tuned, model, fork(full), range(40, 60))
            bound = tuned.bound_bytes(model)
            assert bound is None or max(sizes[10:]) <= bound, f"{field}: 1500 -> {value}"


def test_caches_of_a_state_are_found_by_the_checks(memory_case: Case):
    """``check`` reaches every cache of a kv memory, so a broken one cannot hide."""
    play = play_at(memory_case, memory_case.where)
    state, _ = run(play, play.init(), 1, range(5))
    caches = [leaf for leaf in leaves(state) if isinstance(leaf, KVCache)]
    assert bool(caches) == (play.method.kind == "kv")


def test_state_comparison_sees_a_difference(memory_case: Case):
    play = play_at(memory_case, memory_case.where)
    assert not same(run(play, play.init(), 1, range(5))[0], run(play, play.init(), 2, range(5))[0])
