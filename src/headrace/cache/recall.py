"""The Context of a question that looks up blocks of the past: per layer its own, or the same for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from headrace.cache.asking import AskContext, Layout
from headrace.cache.context import Past
from headrace.cache.index import Found
from headrace.cache.sealed import Held, Sealed
from headrace.cache.shelf import FIRST, HIGH, LOW, STOP, Shelf
from headrace.cache.windowed import WindowContext
from headrace.ops.positions import close_gaps
from headrace.ops.rope import cos_sin, rotate
from headrace.types import Attention, ModelSpec, Span

Extent = tuple[tuple[int, ...], tuple[int, ...]]  # least and greatest id on every axis


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """What a question may look up.

    Attributes:
        shelf: The blocks.
        retriever: Chooses among them.
        index: Its state.
        budget: Blocks it may choose.
        recent: Newest blocks that are there in any case.
    """

    shelf: Shelf
    retriever: Any
    index: Any
    budget: int
    recent: int = 0

    def choose(self, layer: int | None, q: Tensor) -> Found:
        """Choose blocks, the newest ones included."""
        found: Found = self.retriever.select(self.index, layer, q, self.budget)
        if not self.recent:
            return found
        ids = torch.cat((found.ids, self.shelf.ids[-self.recent :])).unique()
        scores = torch.zeros(len(ids), dtype=torch.float32)
        scores[torch.searchsorted(ids, found.ids)] = found.scores
        return Found(ids, scores)


@dataclass(frozen=True, slots=True)
class Given:
    """Brings back the blocks it was told to, in all layers: retrieval from outside.

    Attributes:
        names: Their names, ascending.
    """

    names: tuple[int, ...]

    per_layer: ClassVar[bool] = False

    @staticmethod
    def of(shelf: Shelf, frames: Sequence[int]) -> Given:
        """The blocks that hold rows of some frames.

        Raises:
            ValueError: One of the frames is in no block.
        """
        held = dict(zip(shelf.ids.tolist(), [set(x.notes.frame.tolist()) for x in shelf.blocks], strict=True))
        known = set().union(*held.values()) - {-1}
        if missing := [frame for frame in frames if frame not in known]:
            there = f"it holds {len(known)}, from {min(known)} to {max(known)}" if known else "it holds none yet"
            raise ValueError(f"frames: the memory does not hold {', '.join(map(str, missing))}; {there}")
        return Given(tuple(name for name, inside in held.items() if inside & set(frames)))

    def select(self, state: Any, layer: int | None, q: Tensor, budget: int) -> Found:
        """What was told, whatever is asked."""
        return Found(torch.tensor(self.names, dtype=torch.int64), torch.ones(len(self.names), dtype=torch.float32))


class RecallContext(AskContext, WindowContext):
    """Watch frames through the window; answer a question from sinks and looked-up blocks.

    Until the first row of text comes (frames that wait for their step are shown first) it is a ``WindowContext``. Then
    every layer sees the sinks, the blocks that were chosen for it in the order of the stream, and the rows of this
    prompt. Blocks that follow each other in the stream keep their distance, other gaps are closed, so that positions
    count from 0 and never outgrow what is looked at.
    """

    def __init__(self, spec: ModelSpec, sinks: Past, window: Past, library: Library, **values: Any) -> None:
        super().__init__(spec, sinks, window, **values)
        self._library = library
        self._given: Found | None = None
        self._extents: dict[Sealed, Extent] = {}
        self._opened: list[Held] = []  # files stay mapped while other layers may want the same blocks
        self._start_asking()

    def _give(self, words: Tensor) -> None:
        if not self._library.retriever.per_layer:
            self._given = self._library.choose(None, words)

    def _lay_out(self, layer: int, q: Tensor) -> Layout:
        """Look up the blocks of a layer, and lay them out behind the sinks."""
        found = self._library.choose(layer, q) if self._given is None else self._given
        shelf, sinks = self._library.shelf, self._sinks
        places = shelf.find(found.ids)
        blocks, bounds = shelf.take(places), shelf.bounds[places]
        self._opened += [block.open() for block in blocks]
        for block in blocks:
            block.fetch(layer)
        held = [(run.keys, run.values) for run in sinks.layers[layer]] + [block.layer(layer) for block in blocks]
        rows = [run.rows for run in sinks.layers[layer]]
        rows += [block.offsets[layer] + block.first_row for block in blocks]
        arrival = torch.cat([self._wanted[:0], *rows])
        counts = [len(block.offsets[layer]) for block in blocks]
        counts = [len(arrival) - sum(counts), *counts]
        shift_rows, shift_ids = self._shifts(blocks, bounds)
        of_rows = torch.tensor(counts, dtype=torch.int64)
        number = arrival - shift_rows[:-1].repeat_interleave(of_rows)
        if self._positions == "repack":
            place = number.expand(self._spec.position_rows, -1)
        else:
            ids = [sinks.rows.column("ids")[:, arrival[: counts[0]] - sinks.rows.first]] if counts[0] else []
            ids += [block.notes.ids[:, block.offsets[layer]] for block in blocks]
            empty_ids = torch.empty(self._spec.position_rows, 0, dtype=torch.int64)
            place = torch.cat([empty_ids, *ids], dim=1) - shift_ids[:, :-1].repeat_interleave(of_rows, dim=1)
        spec = self._spec
        shape = (spec.kv_heads, 0, spec.head_dim)
        empty = torch.empty(shape, dtype=spec.dtype, device=spec.device)
        keys, values = (
            torch.cat([empty, *(pair[i].to(spec.device, non_blocking=True) for pair in held)], dim=1) for i in (0, 1)
        )
        cos, sin = cos_sin(spec.rope, place, dtype=spec.dtype, device=spec.device)
        return Layout(
            found, rotate(keys, cos, sin), values, arrival, number, int(shift_rows[-1]), int(shift_ids[0, -1])
        )

    def _shifts(self, blocks: Sequence[Sealed], bounds: Tensor) -> tuple[Tensor, Tensor]:
        """How far sinks, blocks and prompt move down: (K + 2,) rows, and (P, K + 2) canonical ids.

        Args:
            blocks: The K chosen blocks.
            bounds: (K, 5) their lines of ``Shelf.bounds``.
        """
        sinks, axes = self._sinks.rows, self._spec.position_rows
        first_rows = torch.cat((bounds[:, FIRST], torch.tensor([self._next_row], dtype=torch.int64)))
        stops = torch.cat((torch.tensor([sinks.stop], dtype=torch.int64), bounds[:, STOP]))
        gaps = first_rows - stops
        moved = torch.cat((torch.zeros(1, dtype=torch.int64), gaps.cumsum(0)))
        inside: list[Extent]
        if axes == 1:
            inside = [((low,), (high,)) for low, high in bounds[:, LOW : HIGH + 1].tolist()]
        else:
            inside = [self._extent(block) for block in blocks]
        first = sinks.column("ids") if sinks.stop > sinks.first else torch.full((axes, 1), -1)
        asked = self._segments[0].ids  # words: the same on all axes
        around = [(tuple(x.amin(1).tolist()), tuple(x.amax(1).tolist())) for x in (first, asked)]
        lows, highs = zip(around[0], *inside, around[1], strict=True)
        shifts = close_gaps(lows, highs, [False, *(gaps == 0).tolist()])
        return moved, torch.tensor(shifts, dtype=torch.int64).T

    def _extent(self, block: Sealed) -> Extent:
        """Least and greatest canonical ids of a block on every axis."""
        if block not in self._extents:
            ids = block.notes.ids
            self._extents[block] = tuple(ids.amin(1).tolist()), tuple(ids.amax(1).tolist())
        return self._extents[block]

    def attention(self) -> Attention | None:
        """How much the last watched row looked at every row, mean over layers, and what was looked up."""
        if not self._witness.looked:
            return super().attention()
        found = [layout.found for layout in self._layouts.values()]
        return self._witness.attention([self._sinks.rows], self._library.shelf, self._segments, self._next_row, found)

    def found(self, layer: int) -> Found:
        """What was looked up for a layer; the question has run through it."""
        return self._layouts[layer].found

    def finish(self) -> Span:
        """Hand over the rows of the tail, and what was looked up."""
        return self._with_trace(self._looked(self._library.shelf))
