"""The key/value cache of one stream.

Rows are appended to preallocated blocks and never moved: pushing a frame copies its own rows and nothing of the past.
Full blocks are sealed; a fork shares them and copies only the open one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headrace.cache.blocks import Block, Run
from headrace.cache.table import RowTable
from headrace.types import LayerSpan, ModelSpec, Span


class KVCache:
    """Keys and values of every layer, with metadata per row.

    Layers may hold different rows (a pruner drops rows between layers); a row number means the same row in all.
    One thread may change a cache at a time; readers hold runs and a row view, which never change under them.

    Args:
        spec: The model; gives layers and position rows.
        block_rows: Rows per block. Larger blocks mean fewer parts per attention, smaller ones free memory sooner.
        first_row: Number of the first row that will be appended.
    """

    def __init__(self, spec: ModelSpec, *, block_rows: int = 4096, first_row: int = 0) -> None:
        if block_rows < 1:
            raise ValueError(f"block_rows: must be at least 1, not {block_rows}")
        self.spec = spec
        self.block_rows = block_rows
        self.table = RowTable(spec.position_rows, base=first_row, first=first_row, stop=first_row)
        self._runs: list[tuple[Run, ...]] = [()] * spec.layers
        self._open: list[Block | None] = [None] * spec.layers

    def __len__(self) -> int:
        """Rows of the fullest layer."""
        return max(self.num_rows(layer) for layer in range(self.spec.layers))

    def num_rows(self, layer: int) -> int:
        """Rows a layer holds."""
        return sum(len(run) for run in self._runs[layer])

    def runs(self, layer: int) -> tuple[Run, ...]:
        """The rows of a layer, oldest first, as views that later changes leave alone."""
        return self._runs[layer]

    def snapshot(self) -> tuple[tuple[Run, ...], ...]:
        """The rows of all layers; see ``runs``."""
        return tuple(self._runs)

    def append(self, span: Span) -> None:
        """Write a span's rows behind the others. On an error nothing has changed.

        Args:
            span: Its layers hold (G, T, D) keys and values; ``rotated`` is either always or never given.

        Raises:
            ValueError: The span does not fit the model, itself, or what the cache holds.
        """
        self._check_span(span)
        first = self.table.stop
        grown = [self._extended(layer, rows, first) for layer, rows in enumerate(span.layers)]
        self.table.append(span.segment)
        self._runs = [runs for runs, _ in grown]
        self._open = [block for _, block in grown]

    def _check_span(self, span: Span) -> None:
        seg, num, model = span.segment, len(span.segment), self.spec
        if seg.ids.shape != (model.position_rows, num) or any(len(x) != num for x in (seg.kind, seg.frame, seg.time_s)):
            raise ValueError(f"append: ids, kinds, frames or times do not fit the segment's {num} rows")
        if len(span.layers) != model.layers:
            raise ValueError(f"append: the span has {len(span.layers)} layers, the model {model.layers}")
        for layer, part in enumerate(span.layers):
            shape = (model.kv_heads, len(part.rows), model.head_dim)
            if any(x is not None and x.shape != shape for x in (part.keys, part.values, part.rotated)):
                raise ValueError(f"append: layer {layer}: keys and values must be {shape}")
            rows = part.rows
            if len(rows) and (rows[0] < 0 or rows[-1] >= num or bool((rows.diff() <= 0).any())):
                raise ValueError(f"append: layer {layer}: rows must ascend within the segment's {num}")
            runs = self._runs[layer]
            if runs and (runs[-1].block.rotated is None) != (part.rotated is None):
                raise ValueError(f"append: layer {layer}: rotated keys are given either always or never")

    def _extended(self, layer: int, span: LayerSpan, first_row: int) -> tuple[tuple[Run, ...], Block | None]:
        runs, block = list(self._runs[layer]), self._open[layer]
        done, num = 0, span.rows.shape[0]
        while done < num:
            at = runs[-1].stop if block is not None else 0
            if block is None or at == block.capacity:
                block, at = Block.empty(span, self.block_rows), 0
                runs.append(Run(block, 0, 0))
            count = min(num - done, block.capacity - at)
            block.put(at, span, slice(done, done + count), first_row)
            runs[-1] = Run(block, runs[-1].start, at + count)
            done += count
        return tuple(runs), block

    def evict_before(self, row: int) -> None:
        """Forget all rows with a number below ``row``. Copies nothing; a block is freed with its last row."""
        for layer, runs in enumerate(self._runs):
            kept = list(runs)
            while kept and int(kept[0].rows[0]) < row:
                first = kept.pop(0)
                start = first.start + int(torch.searchsorted(first.rows, row))
                if start < first.stop:
                    kept.insert(0, Run(first.block, start, first.stop))
            self._runs[layer] = tuple(kept)
            if not kept:
                self._open[layer] = None
        self.table.drop_before(row)

    def truncate(self, row: int) -> None:
        """Forget ``row`` and all rows after it; copies at most one block per layer."""
        for layer, runs in enumerate(self._runs):
            kept = []
            for run in runs:
                stop = run.start + int(torch.searchsorted(run.rows, row))
                if stop > run.start:
                    kept.append(Run(run.block, run.start, stop))
            self._own_last(layer, kept)
        self.table.drop_after(row)

    def select(self, rows: Sequence[Tensor]) -> None:
        """Keep only the given rows, packed into new blocks.

        Args:
            rows: Per layer (K,) int64 ascending row numbers, all of them held.

        Raises:
            ValueError: A row is not in the layer, or the rows do not ascend, or a layer is missing.
        """
        if len(rows) != self.spec.layers:
            raise ValueError(f"select: rows for {len(rows)} layers, the model has {self.spec.layers}")
        layers: list[LayerSpan | None] = []
        for layer, wanted in enumerate(rows):
            runs = self._runs[layer]
            held = torch.cat([run.rows for run in runs]) if runs else torch.empty(0, dtype=torch.int64)
            at = torch.searchsorted(held, wanted)
            if bool((at >= len(held)).any()) or not torch.equal(held[at], wanted) or bool((wanted.diff() <= 0).any()):
                raise ValueError(f"select: layer {layer} does not hold these rows, in ascending order")
            layers.append(_gathered(runs, at, wanted) if len(wanted) else None)
        self._runs, self._open = [()] * self.spec.layers, [None] * self.spec.layers
        for layer, span in enumerate(layers):
            if span is not None:
                self._runs[layer], self._open[layer] = self._extended(layer, span, 0)

    def copied(self, rows: Tensor) -> Span:
        """Copy rows out, un-rotated, for another cache to append.

        Args:
            rows: (K,) int64 ascending row numbers of the table; a layer gives those of them it holds.

        Returns:
            The rows, with what is known of them; without embeddings, which a cache does not keep.
        """
        layers = []
        for runs in self._runs:
            picked = [(run, torch.nonzero(torch.isin(run.rows, rows)).squeeze(1)) for run in runs]
            picked = [(run, at) for run, at in picked if len(at)]
            places = [at.to(self.spec.device) for _, at in picked]
            shape = (self.spec.kv_heads, 0, self.spec.head_dim)
            none = torch.empty(shape, dtype=self.spec.dtype, device=self.spec.device)
            keys = torch.cat([none, *(run.keys[:, at] for (run, _), at in zip(picked, places, strict=True))], dim=1)
            values = torch.cat([none, *(run.values[:, at] for (run, _), at in zip(picked, places, strict=True))], dim=1)
            numbers = [torch.searchsorted(rows, run.rows[at]) for run, at in picked]
            layers.append(LayerSpan(keys, values, None, torch.cat([torch.empty(0, dtype=torch.int64), *numbers])))
        return Span(self.table.view().segment(rows), tuple(layers))

    def fork(self) -> KVCache:
        """Copy for another stream: sealed blocks are shared, open ones copied."""
        twin = KVCache(self.spec, block_rows=self.block_rows)
        twin.table = self.table.fork()
        for layer, runs in enumerate(self._runs):
            if self._open[layer] is None:
                twin._runs[layer] = runs
            else:
                twin._own_last(layer, list(runs))
        return twin

    def alias(self) -> KVCache:
        """The same rows in the same blocks, copying nothing, for a change that may be taken back.

        What is done to the one does not show in the other, but only one of them may go on: both write to the same
        room behind the last row.
        """
        twin = KVCache(self.spec, block_rows=self.block_rows)
        twin.table, twin._runs, twin._open = self.table.alias(), list(self._runs), list(self._open)
        return twin

    def _own_last(self, layer: int, runs: list[Run]) -> None:
        """Make these the layer's runs, with an own copy of the last block if it has room left."""
        owned = None
        if runs and runs[-1].stop < runs[-1].block.capacity:
            last = runs[-1]
            owned = last.block.copy(last.start, last.stop)
            runs = [*runs[:-1], Run(owned, last.start, last.stop)]
        self._runs[layer], self._open[layer] = tuple(runs), owned

    def num_bytes(self) -> int:
        """Bytes of the blocks still held, on a CPU only of their rows that were written, and of the table."""
        total = self.table.num_bytes()
        for runs in self._runs:
            for run in runs:
                parts = 2 if run.block.rotated is None else 3
                heads, _, width = run.block.keys.shape
                total += (run.stop if run.block.keys.device.type == "cpu" else run.block.capacity) * (
                    heads * width * parts * run.block.keys.itemsize + 8
                )
        return total

    def check(self) -> None:
        """Assert that the cache is whole; tests call it after every write."""
        for layer, runs in enumerate(self._runs):
            last = self.table.first - 1
            for i, run in enumerate(runs):
                assert 0 <= run.start < run.stop <= run.block.capacity, f"layer {layer}: empty or overlong run"
                assert int(run.rows[0]) > last, f"layer {layer}: rows do not ascend across runs"
                assert bool((run.rows.diff() > 0).all()), f"layer {layer}: rows do not ascend"
                last = int(run.rows[-1])
                sealed = run.block is not self._open[layer]
                assert sealed or i == len(runs) - 1, f"layer {layer}: the open block is not the last"
                assert run.block.keys.shape == run.block.values.shape, f"layer {layer}: keys and values differ"
            assert last < self.table.stop, f"layer {layer}: a row is not in the table"
        assert self.table.base <= self.table.first <= self.table.stop

    def pack(self) -> dict[str, Any]:
        """Turn into a tree of tensors and numbers that ``unpack`` rebuilds with the same blocks."""
        layers = tuple(tuple(run.pack() for run in runs) for runs in self._runs)
        return {"block_rows": self.block_rows, "table": self.table.pack(), "layers": layers}

    @staticmethod
    def unpack(tree: dict[str, Any], spec: ModelSpec) -> KVCache:
        """Rebuild from ``pack`` on the model's device."""
        cache = KVCache(spec, block_rows=tree["block_rows"])
        cache.table = RowTable.unpack(tree["table"], spec.position_rows)
        for layer, packed in enumerate(tree["layers"]):
            runs = tuple(Run.unpack(part, spec.device) for part in packed)
            cache._runs[layer] = runs
            is_open = bool(runs) and runs[-1].stop < runs[-1].block.capacity
            cache._open[layer] = runs[-1].block if is_open else None
        return cache


def _gathered(runs: Sequence[Run], at: Tensor, wanted: Tensor) -> LayerSpan:
    """Copy the rows at positions ``at`` of a layer's runs."""

    def pick(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=1).index_select(1, at.to(parts[0].device))

    return LayerSpan(
        keys=pick([run.keys for run in runs]),
        values=pick([run.values for run in runs]),
        rotated=None if runs[0].block.rotated is None else pick([run.rotated for run in runs]),
        rows=wanted,
    )
