"""The cache copies nothing of the past, refuses bad rows whole, and its Context equals a plain softmax."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headrace import registry
from headrace.cache import CacheContext, KVCache, Past
from headrace.cache.table import RowTable
from headrace.cache.tail import Tail
from headrace.types import Cursor, Kind, LayerSpan, Segment, Span
from reference.full import Twin
from reference.naive.decoder import HEAD_DIM, KV_HEADS, Decoder, drive, spec, spell_out

from contract.streams import place, text_rows  # isort: skip
from unit.test_cache_machine import known, segment  # isort: skip

MODEL = spec()


def span(num: int, *, layers: int = 2, rotated: bool = True, seed: int = 0, rows: list[int] | None = None) -> Span:
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(num) if rows is None else torch.tensor(rows, dtype=torch.int64)

    def random() -> torch.Tensor:
        return torch.randn(KV_HEADS, len(which), HEAD_DIM, generator=generator)

    parts = tuple(LayerSpan(random(), random(), random() if rotated else None, which) for _ in range(layers))
    return Span(segment(num, 1, seed, 0), parts)


def filled(num: int, *, block_rows: int = 4) -> KVCache:
    cache = KVCache(MODEL, block_rows=block_rows)
    for i in range(num):
        cache.append(span(3, seed=i))
    return cache


def places_of(cache: KVCache) -> list[tuple[int, ...]]:
    """Which block objects and memory the rows of layer 0 stand in."""
    return [(id(run.block), run.block.keys.data_ptr(), run.start) for run in cache.runs(0)]


def test_an_append_moves_and_copies_nothing():
    """The blocks of the past stay the same objects at the same addresses, and untouched."""
    cache = filled(20)
    before = places_of(cache)
    versions = [run.block.keys._version for run in cache.runs(0)]
    chunks = cache.table.chunks
    cache.append(span(3, seed=99))
    assert places_of(cache)[: len(before)] == before
    assert [run.block.keys._version for run in cache.runs(0)][: len(before) - 1] == versions[:-1]
    assert cache.table.chunks[: len(chunks)] == chunks


@pytest.mark.parametrize("num", [3, 30, 120])
def test_what_an_append_writes_does_not_depend_on_the_past(num: int):
    """Elements written by one append, counted by a torch dispatch mode: the same after 3 steps and after 120."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        written = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if "copy" in str(func) or "cat" in str(func) or "clone" in str(func):
                self.written += out.numel()
            return out

    cache = filled(num * 4, block_rows=12)  # 3 rows a step, so after 4 steps a block is full
    with Count() as count:
        cache.append(span(3, seed=99))
    assert 0 < count.written <= 2 * (3 * KV_HEADS * 3 * HEAD_DIM + 3) + 3 * 5 + 8


def test_evicting_copies_nothing_and_frees_whole_blocks():
    cache = filled(20)
    before = {id(run.block) for run in cache.runs(0)}
    cache.evict_before(33)
    after = {id(run.block) for run in cache.runs(0)}
    assert after < before
    assert cache.num_rows(0) == 27
    assert len(after) == 7
    cache.evict_before(10_000)
    assert (len(cache), cache.runs(0)) == (0, ())
    assert cache.num_bytes() == 60 * 29, "only the table's open chunk is left"
    cache.append(span(3))
    cache.check()
    assert [int(run.rows[0]) for run in cache.runs(0)] == [60]


def test_a_fork_shares_sealed_blocks_and_copies_the_open_one():
    cache = filled(5)  # 15 rows in blocks of 4: three full, one open
    twin = cache.fork()
    mine, its = places_of(cache), places_of(twin)
    assert mine[:3] == its[:3]
    assert mine[3] != its[3]
    cache.append(span(3, seed=50))
    twin.append(span(3, seed=60))
    assert not torch.equal(cache.runs(0)[3].keys, twin.runs(0)[3].keys)
    assert torch.equal(cache.runs(0)[3].keys[:, :3], twin.runs(0)[3].keys[:, :3])


def test_a_fork_of_a_full_block_does_not_reopen_it():
    cache = filled(4)  # 12 rows: three full blocks
    twin = cache.fork()
    cache.append(span(3, seed=50))
    twin.append(span(3, seed=60))
    cache.check()
    twin.check()
    assert torch.equal(cache.runs(0)[3].keys, span(3, seed=50).layers[0].keys)
    assert torch.equal(twin.runs(0)[3].keys, span(3, seed=60).layers[0].keys)


def test_bytes_count_what_is_held():
    cache = filled(8)
    row = 2 * (KV_HEADS * HEAD_DIM * 3 * 4 + 8)
    assert cache.num_bytes() == 24 * row + 24 * 29
    cache.evict_before(4)
    assert cache.num_bytes() == 20 * row + 24 * 29


def _broken() -> dict[str, Span]:
    good = span(3)
    first, second = good.layers
    cut = LayerSpan(second.keys[:1], second.values[:1], second.rotated[:1], second.rows)
    return {
        "too few layers": dataclasses.replace(good, layers=(first,)),
        "no layers": dataclasses.replace(good, layers=()),
        "too many layers": dataclasses.replace(good, layers=(first, second, second)),
        "fewer heads in a later layer": dataclasses.replace(good, layers=(first, cut)),
        "fewer values than keys": dataclasses.replace(
            good, layers=(first, dataclasses.replace(second, values=second.values[:, :2]))
        ),
        "rows beyond the segment": dataclasses.replace(
            good, layers=(first, dataclasses.replace(second, rows=torch.tensor([0, 1, 3])))
        ),
        "rows out of order": dataclasses.replace(
            good, layers=(first, dataclasses.replace(second, rows=torch.tensor([0, 2, 1])))
        ),
        "rotated keys left out": dataclasses.replace(good, layers=(first, dataclasses.replace(second, rotated=None))),
        "ids of another width": dataclasses.replace(
            good, segment=dataclasses.replace(good.segment, ids=torch.zeros(2, 3, dtype=torch.int64))
        ),
        "kinds missing": dataclasses.replace(
            good, segment=dataclasses.replace(good.segment, kind=good.segment.kind[:2])
        ),
    }


@pytest.mark.parametrize("why", list(_broken()))
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_bad_span_leaves_the_cache_as_it_was(why: str, steps: int):
    cache, twin = filled(steps), filled(steps)
    if why == "rotated keys left out" and not steps:
        steps = 1
        cache.append(span(3))
        twin.append(span(3))
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        cache.append(_broken()[why])
    cache.check()
    for one in (cache, twin):
        one.append(span(3, seed=77))
        one.check()
    for layer in range(2):
        assert len(cache.runs(layer)) == len(twin.runs(layer))
        for mine, its in zip(cache.runs(layer), twin.runs(layer), strict=True):
            assert torch.equal(mine.rows, its.rows)
            assert torch.equal(mine.keys, its.keys)
            assert torch.equal(mine.rotated, its.rotated)
    assert known(cache.table) == known(twin.table)


@pytest.mark.parametrize(
    "rows", [[[0, 1, 99], [0]], [[0, 0], [0]], [[1, 0], [0]], [[-1], [0]], [[0], [3]], [[0]], [[0], [0], [0]]]
)
def test_a_bad_selection_leaves_the_cache_as_it_was(rows: list[list[int]]):
    cache = filled(3)
    cache.append(span(2, rows=[0, 1]))
    before = cache.snapshot()
    cache.evict_before(1) if rows == [[0], [3]] else None
    before = cache.snapshot()
    with pytest.raises(ValueError, match="select"):
        cache.select([torch.tensor(row, dtype=torch.int64) for row in rows])
    assert cache.snapshot() == before
    cache.check()


def test_check_finds_what_is_broken():
    def wrong_order(cache: KVCache) -> None:
        cache._runs[0] = cache._runs[0][::-1]

    def twice(cache: KVCache) -> None:
        cache._runs[0] = (cache._runs[0][0], *cache._runs[0])

    def unknown_row(cache: KVCache) -> None:
        cache.table.stop -= 1

    def forgotten_row(cache: KVCache) -> None:
        cache.table.first += 1

    def open_in_front(cache: KVCache) -> None:
        cache._open[0] = cache._runs[0][0].block

    def stale_number(cache: KVCache) -> None:
        cache._runs[0][0].block.rows[1] = 0

    for breakage in (wrong_order, twice, unknown_row, forgotten_row, open_in_front, stale_number):
        cache = filled(5)
        cache.check()
        breakage(cache)
        with pytest.raises(AssertionError):
            cache.check()


def test_block_rows_are_checked():
    with pytest.raises(ValueError, match="block_rows"):
        KVCache(MODEL, block_rows=0)


@given(
    chunk_rows=st.integers(1, 7),
    steps=st.lists(st.tuples(st.sampled_from(["append", "before", "after", "fork"]), st.integers(0, 11)), max_size=20),
)
def test_the_row_table_equals_a_dict(chunk_rows: int, steps: list[tuple[str, int]]):
    table, twin, count = RowTable(1, chunk_rows=chunk_rows), {}, 0
    views = []
    for verb, num in steps:
        if verb == "append" and num:
            first = table.append(segment(num, 1, count, turn=num))
            assert first == table.stop - num
            for i in range(num):
                twin[first + i] = count + i
            count += num
        elif verb == "before":
            table.drop_before(table.first + num)
            twin = {row: what for row, what in twin.items() if row >= table.first}
        elif verb == "after":
            table.drop_after(table.stop - num)
            twin = {row: what for row, what in twin.items() if row < table.stop}
        elif verb == "fork":
            table.fork().append(segment(3, 1, 500, turn=9))
        views.append((table.view(), dict(twin)))
        for view, want in views:
            assert {row: what["frame"] for row, what in known(view).items()} == {r: c // 3 for r, c in want.items()}
            assert {row: what["ids"] for row, what in known(view).items()} == {r: [c] for r, c in want.items()}


@pytest.mark.parametrize("chunk_rows", [2, 4, 7, 100])
def test_forks_of_a_table_write_apart(chunk_rows: int):
    """Both go on from the same open chunk; neither sees the other's rows, nor does a view taken before."""
    table = RowTable(1, chunk_rows=chunk_rows)
    table.append(segment(5, 1, 0, turn=0))
    twin, view, before = table.fork(), table.view(), known(table)
    table.append(segment(6, 1, 100, turn=1))
    twin.append(segment(6, 1, 200, turn=2))
    for one, start in ((table, 100), (twin, 200)):
        assert one.view().column("ids").tolist() == [[0, 1, 2, 3, 4, *range(start, start + 6)]]
        assert set(one.view().column("turn").tolist()) == {0, start // 100}
    table.drop_after(4)
    table.append(segment(3, 1, 300, turn=3))
    assert table.view().column("ids").tolist() == [[0, 1, 2, 3, 300, 301, 302]]
    assert known(view) == before
    assert known(twin.view())[10]["ids"] == [205]


@given(sizes=st.lists(st.integers(0, 70), min_size=1, max_size=8))
def test_a_tail_equals_one_concatenation(sizes: list[int]):
    tail, parts, views = Tail(), [], []
    for i, num in enumerate(sizes):
        part = span(num, layers=1, seed=i).layers[0]
        parts.append(part)
        tail.append(part.keys, part.values, part.rotated, part.rows + sum(sizes[:i]))
        views.append((tail.span().keys, torch.cat([x.keys for x in parts], 1)))
    whole = tail.span()
    assert len(tail) == sum(sizes)
    for name in ("keys", "values", "rotated"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(x, name) for x in parts], 1))
    assert whole.rows.tolist() == list(range(sum(sizes)))
    assert all(torch.equal(view, want) for view, want in views)


def _text(num: int, cursor: Cursor, seed: int) -> tuple[Segment, Cursor]:
    return place(text_rows(seed, num, 1, torch.float32, kind=Kind.TEXT, turn=0), cursor)


@pytest.mark.parametrize("windows", [(None, None), (1, 3), (4, None), (7, 2)])
@pytest.mark.parametrize("drop", [None, {0: [0, 2, 3]}, {0: [1, 4], 1: [1]}])
def test_sliding_windows_and_lost_rows_equal_a_plain_softmax(windows: tuple[int | None, ...], drop: dict | None):
    """Row i sees rows in (i - W, i] in arrival order, whatever was dropped, across blocks, tail and new rows."""
    model = spec(windows=windows)
    decoder, cache = Decoder(model), KVCache(model, block_rows=4)
    twin, first, cursor = Twin(registry.build("full"), model), 0, Cursor()
    for step, num in enumerate((5, 5, 7, 5, 1, 5)):
        context = CacheContext(
            model, [Past(cache.snapshot(), cache.table.view())], next_row=cache.table.stop, positions="repack"
        )
        lost = drop if num == 5 else None
        seg, cursor = _text(num, cursor, step)
        got = drive(decoder, seg, context, drop=lost, watch=True)
        want = spell_out(decoder, seg, twin.rows, twin, first=first, drop=lost)
        torch.testing.assert_close(got.double(), want.hidden, atol=1e-5, rtol=0)
        _attention_like(context, want.weights, first + num)
        more, cursor = _text(3, cursor, step + 50)
        got = drive(decoder, more, context)
        behind = spell_out(decoder, more, [*twin.rows, *want.rows], twin, first=first + num)
        torch.testing.assert_close(got.double(), behind.hidden, atol=1e-5, rtol=0)
        cache.append(context.finish())
        cache.check()
        twin.write([*want.rows, *behind.rows])
        first += num + 3


def _attention_like(context: CacheContext, weights: list[dict[int, float]], num: int) -> None:
    """The noted attention is the mean over layers of the last row's softmax."""
    noted = context.attention()
    want = torch.zeros(num, dtype=torch.float64)
    for layer in weights:
        for row, weight in layer.items():
            want[row] += weight / len(weights)
    torch.testing.assert_close(noted.mass.double(), want, atol=1e-6, rtol=0)
    assert abs(float(noted.mass.sum()) - 1) < 1e-5


def test_only_the_rows_that_are_needed_have_queries():
    """The last U queries give what they give among all T, also none at all."""
    decoder, cursor = Decoder(MODEL), Cursor()
    seg, cursor = _text(6, cursor, 1)
    q, k, v = decoder.project(0, seg.embeds)
    outs = []
    for num in (6, 2, 1, 0):
        context = CacheContext(MODEL, [], next_row=0, positions="repack")
        context.begin(seg)
        outs.append(context.attend(0, None, q[:, 6 - num :], k, v))
        context.attend(1, None, q, k, v)
        assert [part.keys.shape[1] for part in context.finish().layers] == [6, 6]
    for num, out in zip((6, 2, 1, 0), outs, strict=True):
        assert out.shape[1] == num
        torch.testing.assert_close(out, outs[0][:, 6 - num :], atol=1e-6, rtol=0)
