"""The Context of a question that sees another past than frames do: the asking half of memories that look things up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from headrace.cache.context import CacheContext, Seen, windowed
from headrace.cache.index import Found
from headrace.cache.shelf import Shelf
from headrace.cache.tail import Tail
from headrace.cache.uses import Looked, by_layers
from headrace.cache.witness import Witness
from headrace.ops.rope import cos_sin, rotate
from headrace.types import Early, Kind, LayerSpan, Segment


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What one layer's question sees of the past.

    Attributes:
        found: The blocks that were chosen for it; none where a memory has no blocks.
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


class AskContext(CacheContext):
    """Attend as a base class does until the first row of text comes; then every layer has a layout of the past.

    Frames that wait for their step are shown first; they take their place behind what was laid out. Subclasses say
    what a layer sees (``_lay_out``) and what is known of it (``attention``).
    """

    reads_queries = True

    def _start_asking(self, *, query: bool = True) -> None:
        """Set the asking half up, for ``__init__`` of subclasses. Without ``query`` text is watched like frames."""
        self._query = query
        self._asked = False
        self._wanted = torch.empty(0, dtype=torch.int64)
        self._layouts: dict[int, Layout] = {}
        self._laid = [Tail() for _ in range(self._spec.layers)]
        self._witness = Witness()

    def _lay_out(self, layer: int, q: Tensor) -> Layout:
        """What a layer's question sees, from the (H, T, D) un-rotated queries of its words."""
        raise NotImplementedError

    def _give(self, words: Tensor) -> None:
        """The (T, C) embeddings of a question's words have come, before any layer has run."""

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows; text begins a question."""
        start, text = self._num, segment.kind == Kind.TEXT
        super().begin(segment)
        if self._query and not self._asked and bool(text.any()):
            self._asked = True
            self._wanted = torch.nonzero(text).squeeze(1) + start
            self._give(segment.embeds[torch.nonzero(text).squeeze(1).to(segment.embeds.device)])

    def angles(self) -> tuple[Tensor, Tensor] | None:
        """None where a question is read: what it looks up says where its rows stand."""
        return None if self._asked else super().angles()

    def attend(
        self,
        layer: int,
        rows: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        watch: bool = False,
        early: Early | None = None,
    ) -> Tensor:
        """Attend the last U of the new rows; see ``protocols.Context``."""
        if not self._asked:
            return super().attend(layer, rows, q, k, v, watch=watch, early=early)
        own_cos, own_sin, number = self._left(rows)
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
        self._tails[layer].append(k, v, rotate(k, own_cos, own_sin), number)
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
        (seen,) = CacheContext._new(self, layer, q, new)
        return [Seen(seen.group, seen.rows, self._next_row)]

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

    def _looked(self, shelf: Shelf) -> tuple[Looked, ...]:
        """What the layers looked up on a shelf."""
        found = [layout.found for layout in self._layouts.values()]
        return by_layers(found, len(shelf), self._spec.layers, shelf.next_id)

    def fork(self) -> Self:
        """The same past and rows so far, for another prompt; see ``protocols.Context``."""
        twin = super().fork()
        twin._laid = [tail.fork() for tail in self._laid]
        twin._layouts = dict(self._layouts)
        return twin
