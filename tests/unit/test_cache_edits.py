"""What memories do to the past: rows deleted, rows moved, groups of keys that stand at different places, statistics."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.cache import CacheContext, KVCache, Past
from headrace.ops.attention import KeyGroup, attention_weights, joint_attention, joint_attention_lse, key_mass
from headrace.types import Cursor, Kind, LayerSpan, Span
from reference.naive.attention import attend
from reference.naive.decoder import KINDS, Decoder, drive, spec, turn

from contract.streams import dice, place, text_rows  # isort: skip


def close(got: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(got.double(), want.double(), atol=1e-5, rtol=0)


def span_of(num: int, seed: int, model: Any, *, start: int = 0) -> Span:
    """Random rows; the second layer has lost every third."""
    segment, _ = place(
        text_rows(seed, num, model.position_rows, model.dtype, kind=Kind.TEXT, turn=0), Cursor(next=start)
    )
    layers = []
    for layer in range(model.layers):
        rows = torch.tensor([i for i in range(num) if layer == 0 or (i + seed) % 3], dtype=torch.int64)
        shape, generator = (model.kv_heads, len(rows), model.head_dim), dice(seed, layer)
        layers.append(LayerSpan(*(torch.randn(shape, generator=generator) for _ in "kv"), None, rows))
    return Span(segment, tuple(layers))


def seen(cache: KVCache, layer: int, q: torch.Tensor) -> torch.Tensor:
    groups = [KeyGroup(run.keys, run.values) for run in cache.runs(layer)]
    return joint_attention(q, groups, scale=cache.spec.scale)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    block_rows=st.integers(1, 7),
    cut=st.tuples(st.integers(0, 40), st.integers(0, 12)),
    seed=st.integers(0, 99),
)
def test_without_a_span_it_is_the_cache_that_never_had_it(
    sizes: list[int], block_rows: int, cut: tuple[int, int], seed: int
):
    """By ``select`` (in place) and by ``copied`` (into another cache); keys stand nowhere, so only rows matter."""
    model, total = spec(), sum(sizes)
    start = min(cut[0], total)
    stop = min(start + cut[1], total - (start == 0))  # something stays
    spans = [span_of(num, seed + i, model, start=sum(sizes[:i])) for i, num in enumerate(sizes)]
    whole, never = KVCache(model, block_rows=block_rows), KVCache(model, block_rows=5)
    for i, span in enumerate(spans):
        whole.append(span)
        rows = torch.arange(sizes[i]) + sum(sizes[:i])
        never.append(span.bare(torch.nonzero((rows < start) | (rows >= stop)).squeeze(1)))
    left = torch.cat((torch.arange(start), torch.arange(stop, total)))
    copied = KVCache(model, block_rows=block_rows)
    copied.append(whole.copied(left))
    numbers = [torch.cat([left[:0], *(run.rows for run in whole.runs(layer))]) for layer in range(model.layers)]
    whole.select([rows[torch.isin(rows, left)] for rows in numbers])
    assert torch.equal(copied.table.view().column("ids"), never.table.view().column("ids"))
    nothing = torch.empty(model.kv_heads, 0, model.head_dim)
    for cache in (whole, copied):
        cache.check()
        for layer in range(model.layers):
            for side in ("keys", "values"):
                got, want = (
                    torch.cat([nothing, *(getattr(run, side) for run in c.runs(layer))], 1) for c in (cache, never)
                )
                assert torch.equal(got, want)
            if never.num_rows(layer):
                q = torch.randn(model.heads, 2, model.head_dim, generator=dice(seed))
                close(seen(cache, layer, q), seen(never, layer, q))


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    block_rows=st.integers(1, 6),
    distance=st.integers(-3, 60),
    rows=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_a_moved_span_is_the_one_that_was_turned_there(
    sizes: list[int], block_rows: int, distance: int, rows: int, seed: int
):
    """By any distance, also past the trained length; and who moves with it sees no difference."""
    model = spec(position_rows=rows, kind=KINDS[rows], windows=(None, None))
    cache, decoder = KVCache(model, block_rows=block_rows), Decoder(model)
    for i, num in enumerate(sizes):
        cache.append(span_of(num, seed + i, model, start=3 + sum(sizes[:i])))
    ids = cache.table.view().column("ids")
    outs = {}
    for moved, own in ((ids + distance, 100), (ids, 100), (ids + distance, 100 + distance)):
        past = Past(cache.snapshot(), cache.table.view(), moved=moved)
        context = CacheContext(model, [past], next_row=cache.table.stop, positions="original")
        segment, _ = place(text_rows(seed, 3, rows, model.dtype, kind=Kind.TEXT, turn=1), Cursor(next=own))
        context.begin(segment)
        q, k, v = decoder.project(0, segment.embeds)
        got = context.attend(0, None, q, k, v)
        keys, values = (torch.cat([getattr(run, side) for run in cache.runs(0)], 1) for side in ("keys", "values"))
        at = [tuple(x) for x in torch.cat((moved, segment.ids), 1).T.tolist()]
        turned = turn(torch.cat((keys, k), 1), at, model.rope)
        sees = torch.ones(3, turned.shape[1], dtype=torch.bool).tril(keys.shape[1])
        want, _ = attend(turn(q, at[-3:], model.rope), turned, torch.cat((values, v), 1), sees, model.scale)
        close(got, want)
        outs[int(moved[0, 0]), own] = got
    close(outs[3 + distance, 100 + distance], outs[3, 100])


@settings(max_examples=30)
@given(
    shape=st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 3]), st.sampled_from([1, 4])),
    groups=st.lists(
        st.tuples(st.integers(1, 6), st.booleans(), st.sampled_from(["", "rows", "heads"])), min_size=1, max_size=4
    ),
    seed=st.integers(0, 999),
)
def test_groups_with_rotations_and_masks_of_their_own_are_one_softmax(
    shape: tuple[int, int, int], groups: list[tuple[int, bool, str]], seed: int
):
    """Each group may see the queries elsewhere, be hidden from some, and have keys per query head."""
    (kv_heads, repeat, rows), generator = shape, dice(seed)
    heads = kv_heads * repeat
    q = torch.randn(heads, rows, 8, generator=generator)
    made, logits, values = [], [], []
    for num, own, kind in groups:
        wide = heads if kind == "heads" else kv_heads
        k, v = (torch.randn(wide, num, 8, generator=generator) for _ in "kv")
        mask = torch.rand(*((heads,) if kind == "heads" else ()), rows, num, generator=generator) > 0.4
        mine = torch.randn(heads, rows, 8, generator=generator) if own else None
        made.append(KeyGroup(k, v, mask if kind else None, q=mine))
        k, v = (x.double().repeat_interleave(heads // wide, 0) for x in (k, v))
        part = (q if mine is None else mine).double() @ k.transpose(1, 2) * 0.4
        logits.append(part.masked_fill(~mask, float("-inf")) if kind else part)
        values.append(v)
    k = torch.randn(kv_heads, 1, 8, generator=generator)
    made.append(KeyGroup(k, k))  # so that every query sees something
    wide_k = k.double().repeat_interleave(repeat, 0)
    logits.append(q.double() @ wide_k.transpose(1, 2) * 0.4)
    weights = torch.softmax(torch.cat(logits, -1), -1)
    out, lse = joint_attention_lse(q, made, scale=0.4)
    close(out, weights @ torch.cat([*values, wide_k], 1))
    close(lse, torch.cat(logits, -1).logsumexp(-1))
    shares = weights.split([part.shape[-1] for part in logits], -1)
    for group, share, row in zip(made, shares, attention_weights(q, made, scale=0.4), strict=True):
        close(key_mass(q, group, lse, scale=0.4), share.sum(1))
        close(row, share.mean(1))


def test_statistics_on_request_leave_the_output_alone():
    """Watched or not, the rows come out of the same kernel: the same bits."""
    model = spec(windows=(None, 5))
    decoder = Decoder(model)
    outs, noted = [], []
    for watch in (False, True):
        context = CacheContext(model, [], next_row=0, positions="repack")
        parts = []
        for i in range(3):
            segment, _ = place(text_rows(i, 4, 1, model.dtype, kind=Kind.TEXT, turn=0), Cursor(next=4 * i))
            parts.append(drive(decoder, segment, context, watch=watch))
        outs.append(torch.cat(parts))
        noted.append(context.attention())
    assert torch.equal(*outs)
    assert noted[0] is None
    assert noted[1] is not None
    assert abs(float(noted[1].mass.sum()) - 1) < 1e-5
