"""Random lives of a cache, against one made of python lists."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from safetensors.torch import load, save

from headrace.cache import KVCache
from headrace.cache.table import RowTable
from headrace.engine.state import pack, same, unpack
from headrace.types import LayerSpan, Segment, Span
from reference.naive.cache import ListCache
from reference.naive.decoder import spec

HEADS, WIDTH = 2, 2


def segment(num: int, position_rows: int, start: int, turn: int) -> Segment:
    """Rows that all differ."""
    count = torch.arange(start, start + num)
    return Segment(
        embeds=torch.zeros(num, 1),
        ids=torch.stack([count * (axis + 1) + axis for axis in range(position_rows)]),
        advance=num,
        kind=(count % 6).to(torch.int8),
        frame=count // 3,
        time_s=count * 0.25,
        tokens=count,
        turn=turn,
    )


def layer_span(rows: list[int], start: int, layer: int, rotated: bool) -> LayerSpan:
    """Keys that say whose they are."""
    base = torch.tensor(rows, dtype=torch.float32) + start + 1000 * layer

    def fill(what: float) -> torch.Tensor:
        cells = torch.arange(HEADS * WIDTH, dtype=torch.float32).view(HEADS, 1, WIDTH) / 64
        return base.view(1, -1, 1) + cells + what

    return LayerSpan(fill(0.0), fill(0.25), fill(0.5) if rotated else None, torch.tensor(rows, dtype=torch.int64))


def held(cache: KVCache, layer: int) -> list[tuple[Any, ...]]:
    """The rows of a layer as the list cache has them."""
    out: list[tuple[Any, ...]] = []
    for run in cache.runs(layer):
        for i in range(len(run)):
            rotated = None if run.block.rotated is None else run.rotated[:, i].tolist()
            out.append((int(run.rows[i]), run.keys[:, i].tolist(), run.values[:, i].tolist(), rotated))
    return out


def known(table: Any) -> dict[int, dict[str, Any]]:
    """What a table, or a view of one, says of each row."""
    view = table.view() if isinstance(table, RowTable) else table
    columns = {name: view.column(name) for name in ("kind", "frame", "time_s", "turn", "ids")}
    out = {}
    for at, row in enumerate(range(view.first, view.stop)):
        out[row] = {name: column[..., at].tolist() for name, column in columns.items()}
        assert view.ids_of(row).tolist() == out[row]["ids"]
    return out


class Lives(RuleBasedStateMachine):
    """Several caches that fork from one, each with a naive twin and readers that opened it at some moment."""

    caches = Bundle("caches")

    @initialize(
        target=caches,
        block_rows=st.integers(1, 5),
        chunk_rows=st.integers(1, 6),
        position_rows=st.sampled_from([1, 3]),
        rotated=st.booleans(),
        first_row=st.sampled_from([0, 7]),
    )
    def start(self, block_rows: int, chunk_rows: int, position_rows: int, rotated: bool, first_row: int) -> Any:
        self.spec = replace(spec(position_rows=position_rows, windows=(None, None, None)), head_dim=WIDTH)
        self.rotated = rotated
        cache = KVCache(self.spec, block_rows=block_rows, first_row=first_row)
        cache.table.chunk_rows = chunk_rows
        self.life = [(cache, ListCache([[], [], []], next=first_row))]
        self.readers: list[tuple[Any, Any, Any, Any]] = []
        self.count = 0
        return 0

    @rule(at=caches, num=st.integers(1, 9), data=st.data())
    def append(self, at: int, num: int, data: Any) -> None:
        cache, twin = self.life[at]
        start, left, layers = self.count, list(range(num)), []
        self.count += num
        for layer in range(3):
            layers.append(layer_span(left, start, layer, self.rotated))
            left = sorted(data.draw(st.sets(st.sampled_from(left), min_size=0))) if left else left
        span = Span(segment(num, self.spec.position_rows, start, start % 7), tuple(layers))
        cache.append(span)
        twin.append(span)

    @rule(at=caches, offset=st.integers(-3, 14))
    def evict_before(self, at: int, offset: int) -> None:
        cache, twin = self.life[at]
        row = cache.table.first + offset
        cache.evict_before(row)
        twin.evict_before(row)

    @rule(at=caches, num=st.integers(1, 9), offset=st.integers(-3, 14), kept=st.booleans(), data=st.data())
    def change_an_alias(self, at: int, num: int, offset: int, kept: bool, data: Any) -> None:
        """A change on an alias is thrown away, or the alias goes on in the cache's place."""
        cache, twin = self.life[at]
        self.life[at] = (cache.alias(), twin.fork())
        self.evict_before(at, offset)
        self.append(at, num, data)
        if data.draw(st.booleans()):
            self.truncate(at, num // 2)
        if not kept:
            self.life[at] = (cache, twin)

    @rule(at=caches, offset=st.integers(-2, 14))
    def truncate(self, at: int, offset: int) -> None:
        cache, twin = self.life[at]
        row = cache.table.stop - offset
        cache.truncate(row)
        twin.truncate(row)

    @rule(at=caches, data=st.data())
    def select(self, at: int, data: Any) -> None:
        cache, twin = self.life[at]
        rows = []
        for layer in twin.layers:
            numbers = [entry[0] for entry in layer]
            rows.append(sorted(data.draw(st.sets(st.sampled_from(numbers)))) if numbers else [])
        cache.select([torch.tensor(row, dtype=torch.int64) for row in rows])
        twin.select(rows)

    @rule(target=caches, at=caches, grow=st.tuples(st.integers(0, 3), st.integers(0, 3)))
    def fork(self, at: int, grow: tuple[int, int]) -> int:
        """Both usually go on at once, from the block they might wrongly share."""
        cache, twin = self.life[at]
        self.life.append((cache.fork(), twin.fork()))
        assert same(self.life[-1][0], cache)
        for who, num in zip((at, len(self.life) - 1), grow, strict=True):
            if num:
                self._grow(who, num)
        return len(self.life) - 1

    def _grow(self, who: int, num: int) -> None:
        layers = tuple(layer_span(list(range(num)), self.count, layer, self.rotated) for layer in range(3))
        span = Span(segment(num, self.spec.position_rows, self.count, self.count % 7), layers)
        self.count += num
        for one in self.life[who]:
            one.append(span)

    @rule(target=caches, at=consumes(caches))
    def save_and_load(self, at: int) -> int:
        cache, twin = self.life[at]
        tensors: dict[str, torch.Tensor] = {}
        text = json.dumps(pack(cache, tensors))
        again = unpack(json.loads(text), load(save(tensors)), self.spec)
        assert same(again, cache)
        again.table.chunk_rows = max(again.table.chunk_rows, 1)
        self.life[at] = (again, twin)
        return at

    @rule(at=caches)
    def open_reader(self, at: int) -> None:
        cache, twin = self.life[at]
        self.readers.append((cache.snapshot(), cache.table.view(), twin.fork(), cache))

    @invariant()
    def equal_the_lists(self) -> None:
        for cache, twin in getattr(self, "life", []):
            cache.check()
            assert [held(cache, layer) for layer in range(3)] == twin.layers
            assert [cache.num_rows(layer) for layer in range(3)] == [len(layer) for layer in twin.layers]
            assert len(cache) == max(len(layer) for layer in twin.layers)
            assert known(cache.table) == twin.table
            assert cache.table.stop == twin.next
            assert cache.num_bytes() >= sum(
                len(layer) * HEADS * WIDTH * 4 * (3 if self.rotated else 2) for layer in twin.layers
            )

    @invariant()
    def readers_see_what_they_opened(self) -> None:
        for runs, view, twin, _ in getattr(self, "readers", []):
            for layer in range(3):
                seen = [
                    (int(run.rows[i]), run.keys[:, i].tolist(), run.values[:, i].tolist())
                    for run in runs[layer]
                    for i in range(len(run))
                ]
                assert seen == [entry[:3] for entry in twin.layers[layer]]
            assert known(view) == twin.table


Lives.TestCase.settings = settings(settings.get_profile("dev"), max_examples=50, stateful_step_count=20)
TestLives = Lives.TestCase
