"""StreamingLLM as published: which rows stay, and that a one-layer model sees exactly them, numbered anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contract.streams import dice, place, text_rows
from headrace import load, registry
from headrace.types import Cursor, Kind, Segment
from reference.naive.attention import attend
from reference.naive.decoder import Decoder, drive, spec, spell_out, turn
from reference.naive.rows import Row
from unit.tiny import save_tiny


def token(i: int, cursor: Cursor, position_rows: int = 1, num: int = 1) -> tuple[Segment, Cursor]:
    """Rows that leave a gap of ids behind every third of them, as dropped tokens do."""
    raw = text_rows(i, num, position_rows, torch.float32, kind=Kind.TEXT, turn=0)
    seg, cursor = place(raw, cursor)
    return seg, Cursor(next=cursor.next + (2 if i % 3 == 0 else 0))


def kept(state: object) -> list[int]:
    return [
        int(row)
        for cache in (state.sinks, state.window)
        for run in cache.runs(0)
        for row in run.rows
    ]  # fmt: skip


@pytest.mark.parametrize("position_rows", [1, 3])
def test_golden_case(position_rows: int):
    """4 sinks, 6 recent rows, 13 tokens one by one: rows 0-3 and 7-12 stay; room for two more leaves 0-3 and 9-12."""
    model = spec(windows=(None,), position_rows=position_rows)
    decoder, method = Decoder(model), registry.build("streamingllm", window=6, sinks=4)
    state, cursor = method.init(model), Cursor()
    history = []
    for i in range(13):
        seg, cursor = token(i, cursor, position_rows)
        context = method.read(state, model, query=False)
        drive(decoder, seg, context)
        state = method.write(state, context.finish())
        history.append(kept(state))
    assert history[-1] == [0, 1, 2, 3, 7, 8, 9, 10, 11, 12]
    assert history[9] == list(range(10)), "nothing is forgotten before the cache is full"
    assert history[10] == [0, 1, 2, 3, *range(5, 11)]
    for evict, seen in (("after", [0, 1, 2, 3, *range(7, 13)]), ("before", [0, 1, 2, 3, *range(9, 13)])):
        context = registry.build("streamingllm", window=6, sinks=4, evict=evict).read(state, model, query=False)
        assert looked_at(context, token(13, cursor, position_rows, num=2)[0], model) == [*seen, 13, 14]


def looked_at(context: object, seg: Segment, model: object) -> list[int]:
    """The rows that the last row of a segment pays attention to, in a stream of one layer."""
    num = len(seg)
    context.begin(seg)
    zeros = torch.zeros(model.heads, num, model.head_dim)
    context.attend(0, None, zeros, zeros[: model.kv_heads], zeros[: model.kv_heads], watch=True)
    mass = context.finish().attention.mass
    rows = [int(row) for part in context._past for row in range(part.rows.first, part.rows.stop)]
    assert len(mass) == len(rows) + num
    at = [i for i, share in enumerate(mass.tolist()) if share > 0]
    return [[*rows, *range(rows[-1] + 1, rows[-1] + 1 + num)][i] for i in at]


@pytest.mark.parametrize("positions", ["repack", "original"])
@pytest.mark.parametrize("position_rows", [1, 3])
@pytest.mark.parametrize("sinks", [0, 1, 4])
def test_after_many_evictions_it_is_dense_attention_over_what_is_left(positions: str, position_rows: int, sinks: int):
    """400 rows through sinks + 12; the newest row's output equals a softmax over those rows re-indexed 0..n-1."""
    model = spec(windows=(None,), position_rows=position_rows)
    decoder = Decoder(model)
    method = registry.build("streamingllm", window=12, sinks=sinks, positions=positions)
    state, cursor, rows = method.init(model), Cursor(), []

    class Places:
        """Index among what is left; with ids: the gaps stay in the window, sinks stand just before it."""

        def places(self, everything: list[Row]) -> list[tuple[int, ...]]:
            if positions == "repack":
                return [(i,) * position_rows for i in range(len(everything))]
            if everything[-1].arrival + 1 == len(everything):
                return [row.ids for row in everything]
            oldest = everything[sinks].ids
            return [tuple(x - sinks + i for x in oldest) for i in range(sinks)] + [r.ids for r in everything[sinks:]]

    for i in range(100):
        seg, cursor = token(i, cursor, position_rows, num=1 + i % 7)
        context = method.read(state, model, query=False)
        got = drive(decoder, seg, context)
        if i < 8 or i > 93:
            left = rows[:sinks] + rows[sinks:][-12:]
            want = spell_out(decoder, seg, left, Places(), first=len(rows))
            torch.testing.assert_close(got.double(), want.hidden, atol=1e-5, rtol=0)
        rows += spell_out(decoder, seg, [], _Nowhere(), first=len(rows)).rows
        state = method.write(state, context.finish())
        state.sinks.check()
        state.window.check()
        assert len(kept(state)) == min(len(rows), sinks + 12)


class _Nowhere:
    """Keys and values of a one-layer model do not depend on places or on what was seen."""

    def places(self, rows: list[Row]) -> list[tuple[int, ...]]:
        return [row.ids for row in rows]


def test_the_text_prefix_becomes_the_sinks():
    model = spec(windows=(None,))
    decoder, method = Decoder(model), registry.build("streamingllm", window=3)
    state = method.init(model)
    prefix, cursor = place(text_rows(0, 5, 1, torch.float32, kind=Kind.PREFIX, turn=0), Cursor())
    for i in range(9):
        seg, cursor = (prefix, cursor) if i == 0 else token(i, cursor)
        context = method.read(state, model, query=False)
        drive(decoder, seg, context)
        state = method.write(state, context.finish())
    assert kept(state) == [0, 1, 2, 3, 4, 10, 11, 12]


@pytest.mark.parametrize("sizes", [(3,), (5, 1, 2), (17,)])
@pytest.mark.parametrize("axes", [1, 3])
def test_what_stays_does_not_depend_on_the_cut(sizes: tuple[int, ...], axes: int):
    """Which rows, and in a model of one layer their keys, rotated and not, and values."""
    model = spec(windows=(None,), position_rows=axes)
    decoder, method = Decoder(model), registry.build("streamingllm", window=6, sinks=4)
    held = []
    for cut in ((1,), sizes):
        state, at = method.init(model), 0
        seg, _ = place(text_rows(0, 17, axes, torch.float32, kind=Kind.TEXT, turn=0), Cursor())
        while at < len(seg):
            part = seg.cut(at, min(at + cut[at % len(cut)], len(seg)))
            context, at = method.read(state, model, query=False), at + len(part)
            drive(decoder, part, context)
            state = method.write(state, context.finish())
        runs = [run for cache in (state.sinks, state.window) for run in cache.runs(0)]
        held.append([torch.cat([getattr(run, x) for run in runs], 1) for x in ("keys", "values", "rotated")])
        assert kept(state) == [0, 1, 2, 3, *range(11, 17)]
    for one, other in zip(*held, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_a_step_longer_than_the_window():
    model = spec(windows=(None,))
    decoder, method = Decoder(model), registry.build("streamingllm", window=3, sinks=4)
    seg, _ = place(text_rows(0, 30, 1, torch.float32, kind=Kind.TEXT, turn=0), Cursor())
    context = method.read(method.init(model), model, query=False)
    drive(decoder, seg, context)
    assert kept(method.write(method.init(model), context.finish())) == [0, 1, 2, 3, 27, 28, 29]


@pytest.mark.parametrize("positions", ["repack", "original"])
@pytest.mark.parametrize("evict", ["after", "before"])
@pytest.mark.parametrize("num", [300, pytest.param(100_000, marks=pytest.mark.long)])
def test_endless_streams_stay_flat_and_exact(positions: str, evict: str, num: int):
    """Row by row: as many rows as sinks and window hold, and the last row sees what a fresh prompt of them would.

    A fresh prompt rotates un-rotated keys at 0..n-1, so positions never outgrow it, whatever row the stream is at. Up
    to the trained length angles are transformers' fp32 products, which are as far off as they are large.
    """
    model = spec(windows=(None,), position_rows=3, trained_length=1000)
    method, generator = registry.build("streamingllm", window=20, sinks=4, positions=positions, evict=evict), dice(num)
    state, rows = method.init(model), []
    for i in range(num):
        q, k, v = (torch.randn(n, 1, model.head_dim, generator=generator) for n in (model.heads, 2, 2))
        seg, _ = place(text_rows(i % 50, 1, 3, torch.float32, kind=Kind.TEXT, turn=0), Cursor(next=i))
        context = method.read(state, model, query=False)
        context.begin(seg)
        out = context.attend(0, None, q, k, v)
        if i % 97 == 0 or i > num - 5:
            room = 20 if evict == "after" else 19
            seen = [*rows[:4], *rows[4:][-room:], (k, v)]
            places = [(x,) * 3 for x in range(len(seen))]
            turned = turn(torch.cat([x for x, _ in seen], 1), places, model.rope)
            mine, sees = turn(q, places[-1:], model.rope), torch.ones(1, len(seen), dtype=torch.bool)
            want, _ = attend(mine, turned, torch.cat([x for _, x in seen], 1), sees, model.scale)
            torch.testing.assert_close(out.double(), want, atol=1e-4, rtol=0)
        rows = [*rows[:4], *[*rows[4:], (k, v)][-20:]] if len(rows) >= 4 else [*rows, (k, v)]
        state = method.write(state, context.finish())
        assert len(kept(state)) == min(i + 1, 24)
    assert bool(out.isfinite().all())
    assert method.num_bytes(state) <= method.bound_bytes(model)


def test_an_answer_names_the_same_moments_however_long_it_is(tmp_path: Path):
    """Its tokens push frames out of the window after the question has looked at them."""
    engine = load(save_tiny(tmp_path))
    for evict in ("after", "before"):
        stream = engine.open("streamingllm:40", settings=(f"memory.evict={evict}",))
        for i in range(12):
            stream.push(torch.randint(0, 256, (40, 40, 3), generator=dice(i), dtype=torch.uint8))
        found = [stream.ask("what is there", max_tokens=num, evidence=4).evidence for num in (1, 5, 12)]
        assert len(found[0]) == 4
        assert found[0] == found[1] == found[2]
