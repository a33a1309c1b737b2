"""The Context of a question that looks up blocks of the past: per layer its own, or the same for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.cache.context import Past, Seen, windowed
from headrace.cache.index import Found
from headrace.cache.sealed import Held
from headrace.cache.shelf import FIRST, HIGH, LOW, STOP, Shelf
from headrace.cache.tail import Tail
from headrace.cache.windowed import WindowContext
from headrace.cache.witness import Witness
from headrace.ops.rope import cos_sin, rotate
from headrace.types import Attention, Kind, LayerSpan, ModelSpec, Segment


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
        scores = torch.zeros(len(ids))
        scores[torch.searchsorted(ids, found.ids)] = found.scores
        return Found(ids, scores)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What one layer's question sees of the past: blocks laid out behind the sinks, gaps closed.

    Attributes:
        found: The chosen blocks, or None where nothing was looked up.
        keys: (G, S, D) rotated.
        values: (G, S, D).
        arrival: (S,) int64 arrival numbers of the rows.
        number: (S,) int64 row numbers once the gaps are closed.
        shift_rows: What the gaps before the question come to, in rows.
        shift_ids: The same in canonical ids.
    """

    found: Found
    keys: Tensor
    values: Tensor
    arrival: Tensor
    number: Tensor
    shift_rows: int
    shift_ids: int


class RecallContext(WindowContext):
    """Watch frames through the window; answer a question from sinks and looked-up blocks.

    Until the first row of text comes (frames that wait for their step are shown first) it is a ``WindowContext``. Then
    every layer sees the sinks, the blocks that were chosen for it in the order of the stream, and the rows of this
    prompt. Blocks that follow each other in the stream keep their distance, other gaps are closed, so that positions
    count from 0 and never outgrow what is looked at.
    """

    reads_queries = True

    def __init__(self, spec: ModelSpec, sinks: Past, window: Past, library: Library, **values: Any) -> None:
        super().__init__(spec, sinks, window, **values)
        self._library = library
        self._asked = False
        self._given: Found | None = None
        self._wanted = torch.empty(0, dtype=torch.int64)
        self._layouts: dict[int, Layout] = {}
        self._laid = [Tail() for _ in range(spec.layers)]
        self._opened: list[Held] = []  # files stay mapped while other layers may want the same blocks
        self._witness = Witness()

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows; text begins a question."""
        start, text = self._num, segment.kind == Kind.TEXT
        super().begin(segment)
        if not self._asked and bool(text.any()):
            self._asked = True
            self._wanted = torch.nonzero(text).squeeze(1) + start
            if not self._library.retriever.per_layer:
                self._given = self._library.choose(None, segment.embeds[text.to(segment.embeds.device)])

    def attend(
        self, layer: int, rows: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *, watch: bool = False
    ) -> Tensor:
        """Attend the last U of the new rows; see ``protocols.Context``."""
        if not self._asked:
            return super().attend(layer, rows, q, k, v, watch=watch)
        number = self._numbers if rows is None else self._numbers[rows.cpu()]
        if layer not in self._layouts:
            self._layouts[layer] = self._lay_out(layer, q[:, torch.isin(number[-q.shape[1] :], self._wanted)])
            self._move_tail(layer)
        layout = self._layouts[layer]
        cos, sin = self._angles_at(layout, number)
        turned_k, num_q = rotate(k, cos, sin), q.shape[1]
        q = rotate(q, cos[-num_q:], sin[-num_q:]) if num_q else q
        new = LayerSpan(k, v, turned_k, number)
        seen = [*self._remembered(layer, layout, number[-num_q:]), *self._new(layer, q, new)] if num_q else []
        out = self._joined(layer, q, seen)[0] if num_q else q
        if watch and num_q:
            self._note(q[:, -1:], seen)
        self._laid[layer].append(k, v, turned_k, number)
        assert self._angles is not None
        cos, sin = self._angles if rows is None else (x[rows] for x in self._angles)
        self._tails[layer].append(k, v, rotate(k, cos, sin), number)
        return out

    def _remembered(self, layer: int, layout: Layout, number: Tensor) -> list[Seen]:
        """Sinks and blocks as one group, the prompt so far as another."""
        window, own = self._window(layer), number + self._next_row - layout.shift_rows
        past = windowed(layout.keys, layout.values, layout.number, own, window)
        seen = [] if past is None or not len(layout.number) else [Seen(past, layout.arrival, 0)]
        if len(self._laid[layer]):
            tail = self._laid[layer].span()
            assert tail.rotated is not None
            group = windowed(tail.rotated, tail.values, tail.rows, number, window)
            if group is not None:
                seen.append(Seen(group, tail.rows, self._next_row))
        return seen

    def _window(self, layer: int) -> int | None:
        return self._spec.windows[layer] if self._asked else super()._window(layer)

    def _new(self, layer: int, q: Tensor, new: LayerSpan) -> list[Seen]:
        if not self._asked:
            return super()._new(layer, q, new)
        (seen,) = super(WindowContext, self)._new(layer, q, new)
        return [Seen(seen.group, seen.rows, self._next_row)]

    def _lay_out(self, layer: int, q: Tensor) -> Layout:
        """Look up the blocks of a layer, and lay them out behind the sinks."""
        found = self._library.choose(layer, q) if self._given is None else self._given
        shelf, sinks = self._library.shelf, self._sinks
        places = shelf.find(found.ids)
        blocks, bounds = shelf.take(places), shelf.bounds[places]
        self._opened += [block.open() for block in blocks]
        held = [(run.keys, run.values) for run in sinks.layers[layer]] + [block.layer(layer) for block in blocks]
        rows = [run.rows for run in sinks.layers[layer]]
        arrival = torch.cat(
            [*rows, *(block.offsets[layer] + block.first_row for block in blocks)] or [self._wanted[:0]]
        )
        counts = [sum(map(len, rows)), *(len(block.offsets[layer]) for block in blocks)]
        shift_rows, shift_ids = self._shifts(bounds)
        number = arrival - shift_rows[:-1].repeat_interleave(torch.tensor(counts))
        if self._positions == "repack":
            place = number.expand(self._spec.position_rows, -1)
        else:
            first = sinks.rows.column("ids")[:, torch.cat(rows) - sinks.rows.first] if counts[0] else None
            ids = [block.notes.ids[:, block.offsets[layer]] for block in blocks]
            place = torch.cat([*([] if first is None else [first]), *ids], dim=1) if sum(counts) else number[None]
            place = place - shift_ids[:-1].repeat_interleave(torch.tensor(counts))
        spec = self._spec
        shape = (spec.kv_heads, 0, spec.head_dim)
        empty = torch.empty(shape, dtype=spec.dtype, device=spec.device)
        keys, values = (
            torch.cat([empty, *(pair[i].to(spec.device, non_blocking=True) for pair in held)], dim=1) for i in (0, 1)
        )
        cos, sin = cos_sin(spec.rope, place, dtype=spec.dtype, device=spec.device)
        return Layout(found, rotate(keys, cos, sin), values, arrival, number, int(shift_rows[-1]), int(shift_ids[-1]))

    def _shifts(self, bounds: Tensor) -> tuple[Tensor, Tensor]:
        """How far sinks, blocks and prompt move down: (K + 2,) rows, and the same in canonical ids.

        Args:
            bounds: (K, 5) the chosen blocks' lines of ``Shelf.bounds``.
        """
        sinks = self._sinks.rows
        first_rows = torch.cat((bounds[:, FIRST], torch.tensor([self._next_row])))
        stops = torch.cat((torch.tensor([sinks.stop]), bounds[:, STOP]))
        top = int(sinks.column("ids").max()) if sinks.stop > sinks.first else -1
        lows = torch.cat((bounds[:, LOW], self._segments[0].ids.min()[None]))
        highs = torch.cat((torch.tensor([top]), bounds[:, HIGH]))
        zero = torch.zeros(1, dtype=torch.int64)
        gaps = first_rows - stops
        holes = torch.where(gaps > 0, lows - highs - 1, 0)
        return torch.cat((zero, gaps.cumsum(0))), torch.cat((zero, holes.cumsum(0)))

    def _angles_at(self, layout: Layout, number: Tensor) -> tuple[Tensor, Tensor]:
        """Rotation of rows of this prompt, as a layer's question sees them."""
        if self._positions == "repack":
            place = (number + self._next_row - layout.shift_rows).expand(self._spec.position_rows, -1)
        else:
            place = torch.cat(self._places, dim=1)[:, number] - layout.shift_ids
        return cos_sin(self._spec.rope, place, dtype=self._spec.dtype, device=self._spec.device)

    def _move_tail(self, layer: int) -> None:
        """Frames shown before the question take their place behind the blocks."""
        if len(self._tails[layer]):
            tail = self._tails[layer].span()
            cos, sin = self._angles_at(self._layouts[layer], tail.rows)
            self._laid[layer].append(tail.keys, tail.values, rotate(tail.keys, cos, sin), tail.rows)

    def _note(self, q: Tensor, seen: Sequence[Seen]) -> None:
        """Remember the attention of one row per layer, by arrival number: layers see different rows."""
        if not self._asked:
            super()._note(q, seen)
        else:
            self._witness = self._witness.note(*self._mass_of(q, seen), self._spec.layers)

    def attention(self) -> Attention | None:
        """How much the last watched row looked at every row, mean over layers, and what was looked up."""
        if not self._witness.looked:
            return super().attention()
        found = [layout.found for layout in self._layouts.values()]
        return self._witness.attention([self._sinks.rows], self._library.shelf, self._segments, self._next_row, found)

    def found(self, layer: int) -> Found:
        """What was looked up for a layer; the question has run through it."""
        return self._layouts[layer].found

    def fork(self) -> RecallContext:
        """The same past and rows so far, for another prompt; see ``protocols.Context``."""
        twin = super().fork()
        assert isinstance(twin, RecallContext)
        twin._laid = [tail.fork() for tail in self._laid]
        twin._layouts = dict(self._layouts)
        return twin
