"""What LiveVLM's card promises of its bucketing and its pages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contract.streams import dice, place, text_rows, thinned, turn_of, wrapped
from headrace.methods.memories.livevlm import LiveVLM, LiveVLMState, best_pages, bucketed
from headrace.types import Cursor, Kind, LayerSpan, ModelSpec, Span
from reference.livevlm import pick
from reference.naive.decoder import Decoder, drive, spec


@pytest.mark.parametrize(("buckets", "room", "kept"), [(4, 1, [0, 2, 4, 6]), (2, 2, [0, 1, 4, 5])])
def test_the_cards_example(buckets: int, room: int, kept: list[int]):
    scores = torch.tensor([9.0, 8, 7, 6, 5, 4, 3, 2])
    assert bucketed(scores, torch.arange(8), buckets, room, 1).tolist() == kept


@given(
    num=st.integers(1, 60),
    rows=st.integers(1, 30),
    bucket=st.integers(1, 5),
    salient=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    holes=st.integers(0, 3),
    seed=st.integers(0, 500),
)
def test_bucketing_equals_row_after_row(num: int, rows: int, bucket: int, salient: float, holes: int, seed: int):
    """Never more than the budget, in order, and what the card's loop keeps."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(num, generator=generator)
    positions = torch.randint(1, holes + 2, (num,), generator=generator).cumsum(0) - 1
    method = LiveVLM(rows=rows, bucket=bucket, salient=salient)
    buckets, room = max(rows // bucket, 1), min(bucket, rows)
    kept = bucketed(scores, positions, buckets, room, round(salient * rows))
    assert len(kept) <= max(rows, 1)
    assert bool((kept.diff() > 0).all())
    if num > buckets * room:
        assert set(kept.tolist()) == pick(scores.tolist(), positions.tolist(), method)
    else:
        assert kept.tolist() == list(range(num))


def test_every_stretch_of_a_stream_without_favourites_keeps_a_row():
    kept = bucketed(torch.ones(1000), torch.arange(1000), 50, 1, 0)
    assert (kept // 20).tolist() == list(range(50))


def test_pages_do_not_know_positions_and_a_planted_one_is_found():
    """Keys are un-rotated, so only their content counts; the last page is shorter."""
    generator = torch.Generator().manual_seed(1)
    q, keys = torch.randn(4, 3, 16, generator=generator), torch.randn(2, 70, 16, generator=generator)
    keys[:, 32:48] = 3 * q.mean(1).view(2, 2, 16).mean(1)[:, None]
    pages, mass = best_pages(keys, q, 16, 0.4, 0.25)
    assert (len(mass), len(pages)) == (5, 2)
    assert 2 in pages.tolist()
    assert abs(float(mass.sum()) - 1) < 1e-5


@pytest.mark.parametrize("num", [300, pytest.param(10_000, marks=pytest.mark.long)])
def test_an_endless_stream_without_favourites_keeps_a_row_of_every_stretch(num: int):
    """Thinned again and again, every stretch that has a row left keeps one; in order, and never more than allowed."""
    model = spec(windows=(None,))
    method = LiveVLM(rows=40, salient=0.0, frames=2, advance=1)
    state = method.init(model)
    for i in range(num):
        seg, _ = place(text_rows(i % 50, 3, 1, torch.float32, kind=Kind.VISUAL, turn=0), Cursor(next=3 * i))
        seg = replace(seg, frame=seg.frame * 0 + i)
        keys = torch.randn(model.kv_heads, 3, model.head_dim, generator=dice(i))
        before, held = state.strands[0].rows, state.near.table.first
        state = method.write(state, Span(seg, (LayerSpan(keys, keys, keys, torch.arange(3)),)))
        rows, left = state.strands[0].rows, torch.arange(held, state.near.table.first)
        assert len(rows) <= 40
        assert bool((rows.diff() > 0).all())
        every = torch.cat((before, left))
        if len(left):
            stretch = [set((x * 40 // (int(every[-1]) + 1)).tolist()) for x in (every, rows)]
            assert stretch[0] == stretch[1]
    tenths = torch.bincount(rows * 10 // (3 * num), minlength=10)
    assert int(tenths.min()) >= 2, "no part of the stream is forgotten"


@pytest.mark.parametrize("axes", [1, 3])
def test_pages_do_not_move_with_the_stream(axes: int):
    """A stream whose positions all lie a thousand further on looks the same pages up."""
    model = spec(position_rows=axes, trained_length=10**6)
    method, found = LiveVLM(rows=12, frames=1, advance=1, page=2, positions="original"), []
    for start in (0, 1000):
        state, cursor = method.init(model), Cursor(next=start)
        raws = [text_rows(0, 5, axes, model.dtype, kind=Kind.PREFIX, turn=0)]
        raws += [wrapped(part, axes) for i in range(8) for part in thinned(1, i, model.dtype).split()]
        for raw in raws:
            segment, cursor = place(raw, cursor)
            context = method.read(state, model, query=False)
            drive(Decoder(model), segment, context)
            state = method.write(state, context.finish())
        context = method.read(state, model, query=True)
        drive(Decoder(model), turn_of(7, 3, cursor, axes, model.dtype)[0], context)
        found.append([layout.found for layout in context._layouts.values()])
    assert 0 < len(found[0][0].ids) < 6
    for one, other in zip(*found, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)


def shown(method: LiveVLM, model: ModelSpec, num: int) -> tuple[Decoder, LiveVLMState, Cursor]:
    """A stream after so many frames."""
    decoder, state, cursor = Decoder(model), method.init(model), Cursor()
    for i in range(num):
        segment, cursor = place(wrapped(thinned(3, 2 * i, model.dtype), 1), cursor)
        context = method.read(state, model, query=False)
        drive(decoder, segment, context)
        state = method.write(state, context.finish())
    return decoder, state, cursor


def test_a_turn_that_makes_frames_leave_lets_the_newest_frame_judge_them():
    """A long one does. It brings no queries of its own; what the newest frame looked with is kept."""
    model, method = spec(), LiveVLM(rows=8, bucket=4, frames=2, advance=6)
    decoder, state, cursor = shown(method, model, 7)
    looked = tuple(x.clone() for x in state.queries)
    assert len(looked) == model.layers
    assert not any(len(strand.rows) for strand in state.strands)
    context = method.read(state, model, query=True)
    drive(decoder, turn_of(7, 60, cursor, 1, model.dtype)[0], context)
    state = method.write(state, context.finish())
    assert all(torch.equal(a, b) for a, b in zip(state.queries, looked, strict=True))
    for layer, strand in enumerate(state.strands):
        assert 0 < len(strand.rows) <= 8
        assert float(looked[layer].abs().max()) > 0
    assert len({tuple(strand.rows.tolist()) for strand in state.strands}) > 1, "layers judge for themselves"


def test_talking_makes_no_frame_leave_and_stays_bounded():
    """Turns go with the frame before them; only as many words as frames have rows push frames out."""
    model, method = spec(), LiveVLM(rows=8, frames=2, advance=1)
    decoder, state, cursor = shown(method, model, 3)
    first = state.near.table.first
    for i in range(200):
        context = method.read(state, model, query=True)
        asked, cursor = turn_of(i, 4, cursor, 1, model.dtype)
        drive(decoder, asked, context)
        state = method.write(state, context.finish())
        if i < 3:
            assert (len(state.ends), state.near.table.first) == (2, first), "both frames are whole"
        assert method.num_bytes(state) <= method.bound_bytes(model)
    assert state.near.table.first > first


@pytest.mark.parametrize("size", [1, 16, 70])
def test_a_share_of_nothing_looks_no_page_up_and_a_small_one_looks_up_one(size: int):
    q, keys = torch.randn(4, 3, 16, generator=dice(1)), torch.randn(2, 70, 16, generator=dice(2))
    assert best_pages(keys, q, size, 0.0, 0.25)[0].tolist() == []
    assert len(best_pages(keys, q, size, 1e-6, 0.25)[0]) == 1
