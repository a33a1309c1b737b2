"""The Context of memories that keep rows in the cache: past, private tail, and the new rows themselves."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from headrace.cache.blocks import Run
from headrace.cache.table import RowView
from headrace.cache.tail import Tail
from headrace.ops.attention import KeyGroup, attention_weights, joint_attention_lse
from headrace.ops.rope import cos_sin, rotate
from headrace.types import Attention, Early, LayerSpan, ModelSpec, Segment, Span, join


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """A part of the past that every new row may see: per layer its runs, and what is known of the rows.

    Attributes:
        layers: Per layer the runs, oldest first.
        rows: Metadata; row numbers of the runs count in this table.
        moved: (P, R) positions the rows are rotated at for this Context, or None to use the cache's rotated keys.
        arrivals: (R,) int64 arrival numbers, by which sliding windows count; None where they are the row numbers.
    """

    layers: tuple[tuple[Run, ...], ...]
    rows: RowView
    moved: Tensor | None = None
    arrivals: Tensor | None = None

    def ages(self, run: Run) -> Tensor:
        """Arrival numbers of a run's rows."""
        return run.rows if self.arrivals is None else self.arrivals[run.rows - self.rows.first]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A key group, its row numbers ((S,), or (H, S) where heads differ), and what to add to count over all parts."""

    group: KeyGroup
    rows: Tensor
    offset: int


class CacheContext:
    """Attend to parts of the past, to the rows of this prompt so far, and causally to the new rows.

    Attributes:
        reads_queries: Every layer's queries are wanted for all rows, also where no output is.
        by_arrival: Rows of ``Seen`` are arrival numbers, not places in the parts of the past one behind the other.

    Args:
        spec: The model.
        past: Parts of the past, oldest first.
        next_row: Row number of the first new row in arrival order; counts sliding windows and packed positions.
        positions: ``original`` rotates new rows at their canonical ids; ``repack`` at their arrival number.
    """

    reads_queries = False
    by_arrival = False

    def __init__(self, spec: ModelSpec, past: Sequence[Past], *, next_row: int, positions: str) -> None:
        self._spec = spec
        self._past = tuple(past)
        self._next_row = next_row
        self._positions = positions
        self._tails = [Tail() for _ in range(spec.layers)]
        self._segments: list[Segment] = []
        self._places: list[Tensor] = []
        self._num = 0
        self._numbers = torch.empty(0, dtype=torch.int64)
        self._angles: tuple[Tensor, Tensor] | None = None
        self._moved = [
            None if part.moved is None else cos_sin(spec.rope, part.moved, dtype=spec.dtype, device=spec.device)
            for part in self._past
        ]
        self._noted: list[tuple[Tensor, Tensor]] = []
        self._noted_rows = 0
        self._tables: list[RowView] = []  # of the past as it was when attention was noted

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows: canonical ids, or the arrival number on every axis."""
        start = self._num
        self._num += len(segment)
        self._numbers = torch.arange(start, self._num)
        place = self._place_of(segment)
        self._segments.append(segment)
        self._places.append(place)
        self._angles = cos_sin(self._spec.rope, place, dtype=self._spec.dtype, device=self._spec.device)

    def _place_of(self, segment: Segment) -> Tensor:
        """(P, T) positions of the new rows, which have their numbers already."""
        if self._positions == "original":
            return segment.ids
        return (self._numbers + self._next_row).expand(self._spec.position_rows, -1)

    def angles(self) -> tuple[Tensor, Tensor] | None:
        """Rotation of the new rows, the same in all layers; see ``protocols.Context``."""
        return self._angles

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
        cos, sin, number = self._left(rows)
        num_q, out = q.shape[1], q
        if early is None:
            rotated, turned = rotate(k, cos, sin), rotate(q, cos[-num_q:], sin[-num_q:]) if num_q else q
        else:
            rotated, turned = early.rotated, early.turned
        if num_q:
            new = LayerSpan(k, v, rotated, number, early)
            seen = [*self._seen(layer, q, number[-num_q:]), *self._new(layer, q, new)]
            out, _ = self._joined(layer, turned, seen)
            if watch:
                self._note(turned[:, -1:], seen)
        self._tails[layer].append(k, v, rotated, number)
        return out

    def _left(self, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines and sines of the new rows that are left, and which rows of the prompt they are."""
        assert self._angles is not None, "begin comes before attend"
        if rows is None:
            return *self._angles, self._numbers
        return self._angles[0][rows], self._angles[1][rows], self._numbers[rows.cpu()]

    def _joined(self, layer: int, q: Tensor, seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
        """Attend to all groups: outputs, and the log-sum-exp of all logits."""
        return joint_attention_lse(q, [part.group for part in seen], scale=self._spec.scale)

    def _seen(self, layer: int, q: Tensor, number: Tensor) -> list[Seen]:
        """Past and tail of a layer as key groups; those no query sees are left out.

        Args:
            layer: Decoder layer.
            q: (H, U, D) un-rotated queries.
            number: (U,) which rows of the prompt they belong to.
        """
        seen, offset = [], 0
        for part, turned in zip(self._past, self._moved, strict=True):
            for run in part.layers[layer]:
                if (group := self._group(layer, part, turned, run, q, number)) is not None:
                    seen.append(Seen(group, run.rows, 0 if self.by_arrival else offset - part.rows.first))
            offset += part.rows.stop - part.rows.first
        if len(self._tails[layer]):
            tail = self._tails[layer].span()
            assert tail.rotated is not None
            group = windowed(tail.rotated, tail.values, tail.rows, number, self._window(layer))
            if group is not None:
                seen.append(Seen(group, tail.rows, self._new_offset()))
        return seen

    def _group(
        self, layer: int, part: Past, turned: tuple[Tensor, Tensor] | None, run: Run, q: Tensor, number: Tensor
    ) -> KeyGroup | None:
        """A run of the past as a key group, or None where no query sees it."""
        if turned is None:
            keys = run.rotated
        else:
            first = part.rows.first
            keys = rotate(run.keys, turned[0][run.rows - first], turned[1][run.rows - first])
        return windowed(keys, run.values, part.ages(run), number + self._next_row, self._window(layer))

    def _window(self, layer: int) -> int | None:
        """How many rows a query of this layer looks back, itself included; None for all."""
        return self._spec.windows[layer]

    def _new(self, layer: int, q: Tensor, new: LayerSpan) -> list[Seen]:
        """The new rows as keys of themselves: row i sees rows up to i, within the layer's window."""
        assert new.rotated is not None
        window, number, num_q = self._window(layer), new.rows, q.shape[1]
        if num_q == len(number) and (window is None or int(number[-1] - number[0]) < window):
            known = None if new.early is None else (new.early.out, new.early.lse)
            group = KeyGroup(new.rotated, new.values, causal=True, known=known)
        else:
            mask = number[None] <= number[-num_q:, None]
            if window is not None:
                mask &= number[None] > number[-num_q:, None] - window
            group = KeyGroup(new.rotated, new.values, mask=None if bool(mask.all()) else mask.to(q.device))
        return [Seen(group, number, self._new_offset())]

    def _new_offset(self) -> int:
        """What to add to the number of a row of this prompt in a ``Seen``."""
        return self._next_row if self.by_arrival else self._num_past()

    def _num_past(self) -> int:
        return sum(part.rows.stop - part.rows.first for part in self._past)

    def _note(self, q: Tensor, seen: Sequence[Seen]) -> None:
        """Remember the attention of one row per layer; only the newest prompt counts."""
        self._tables = [part.rows for part in self._past]
        num_rows = self._num_past() + self._num
        self._noted = [*(self._noted if num_rows == self._noted_rows else []), self._mass_of(q, seen)]
        self._noted_rows = num_rows

    def _mass_of(self, q: Tensor, seen: Sequence[Seen]) -> tuple[Tensor, Tensor]:
        """Attention of the (H, 1, D) query to every row: (S,) row numbers over all parts, (S,) shares where q is."""
        groups = [_last_query(part.group) for part in seen]
        rows, mass = [], []
        for part, weights in zip(seen, attention_weights(q, groups, scale=self._spec.scale), strict=True):
            by_head = part.rows.ndim == 2
            rows.append((part.rows + part.offset).flatten())
            mass.append((weights / weights.shape[0]).flatten() if by_head else weights.mean(dim=0))
        return torch.cat(rows), torch.cat(mass)

    def attention(self) -> Attention | None:
        """How much the last watched row looked at every row, mean over layers; None if nothing was watched."""
        if not self._noted:
            return None
        places, shares = zip(*self._noted, strict=True)  # read back at once, not layer by layer
        shares = torch.cat(shares).cpu().split([len(rows) for rows in places])
        nothing = torch.zeros(self._noted_rows, dtype=torch.float32)
        layers = [nothing.index_add(0, rows, share) for rows, share in zip(places, shares, strict=True)]
        mass = torch.stack(layers).mean(dim=0)
        frames = [rows.column("frame") for rows in self._tables] + [seg.frame for seg in self._segments]
        times = [rows.column("time_s") for rows in self._tables] + [seg.time_s for seg in self._segments]
        num = len(mass)
        return Attention(torch.cat(frames)[:num], torch.cat(times)[:num], mass)

    def fork(self) -> Self:
        """The same past and rows so far, for another prompt; see ``protocols.Context``."""
        twin = copy(self)
        twin._tails = [tail.fork() for tail in self._tails]
        twin._segments, twin._places = list(self._segments), list(self._places)
        return twin

    def _with_trace(self, trace: Any) -> Span:
        """The rows of the tail, with something for the memory beside them."""
        return replace(CacheContext.finish(self), trace=trace)

    def finish(self) -> Span:
        """Hand over the rows of the tail."""
        segment = join(self._segments, placed=True)
        layers: tuple[LayerSpan, ...] = tuple(tail.span() for tail in self._tails)
        return Span(
            segment=replace(segment, turn=self._segments[-1].turn),
            layers=layers,
            positions=torch.cat(self._places, dim=1),
            attention=self.attention(),
        )


def windowed(keys: Tensor, values: Tensor, key_rows: Tensor, query_rows: Tensor, window: int | None) -> KeyGroup | None:
    """Cut a group to a sliding window: None when no query sees it, no mask when all see all of it."""
    if window is None:
        return KeyGroup(keys, values)
    mask = key_rows[None] > query_rows[:, None] - window
    if bool(mask.all()):
        return KeyGroup(keys, values)
    return KeyGroup(keys, values, mask=mask.to(keys.device)) if bool(mask.any()) else None


def _last_query(group: KeyGroup) -> KeyGroup:
    mask, q = group.mask, group.q
    return KeyGroup(
        group.keys, group.values, None if mask is None else mask[..., -1:, :], q=None if q is None else q[:, -1:]
    )
