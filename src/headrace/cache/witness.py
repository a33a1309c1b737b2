"""What an answer rests on, where layers look at different rows: attention by arrival number, and what was looked up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.cache.index import Found
from headrace.cache.shelf import Shelf
from headrace.cache.table import RowView
from headrace.types import Attention, Retrieved, Segment


@dataclass(frozen=True, slots=True, eq=False)
class Witness:
    """Attention of the newest watched row, one entry per layer. A value.

    Attributes:
        looked: (S,) arrival numbers and (S,) shares of attention per layer, on any device; a row may come twice.
    """

    looked: tuple[tuple[Tensor, Tensor], ...] = ()

    def note(self, rows: Tensor, mass: Tensor, num_layers: int) -> Witness:
        """Add a layer; only the newest prompt counts."""
        return Witness((*(self.looked if len(self.looked) < num_layers else ()), (rows, mass)))

    def attention(
        self, tables: Sequence[RowView], shelf: Shelf, near: Sequence[Segment], next_row: int, found: Iterable[Found]
    ) -> Attention:
        """Add up layers and say what is known of the rows.

        Args:
            tables: What is known of rows that are in no block.
            shelf: Sealed blocks.
            near: Segments from ``next_row`` on.
            next_row: Arrival number of their first row.
            found: What was looked up, per layer.
        """
        found = list(found)
        blocks = shelf.take(shelf.find(torch.cat([x.ids for x in found]).unique())) if found else []
        known = [(torch.arange(x.first_row, x.stop_row), x.notes.frame, x.notes.time_s) for x in blocks]
        looked = retrieved(shelf, found) if found else None
        return self.of_rows(tables, known, near, next_row, looked)

    def of_rows(
        self,
        tables: Sequence[RowView],
        known: Sequence[tuple[Tensor, Tensor, Tensor]],
        near: Sequence[Segment],
        next_row: int,
        looked: Retrieved | None,
    ) -> Attention:
        """The same, with (rows, frames, times) of what is kept elsewhere; where a row comes twice, the last holds."""
        mass = torch.cat([mass for _, mass in self.looked]).cpu() / len(self.looked)  # all layers at once
        arrival, slot = torch.unique(torch.cat([rows for rows, _ in self.looked]), return_inverse=True)
        total = torch.zeros(len(arrival), dtype=torch.float32).index_add_(0, slot, mass)
        frame = torch.full(arrival.shape, -1)
        time_s = torch.full(arrival.shape, -1.0, dtype=torch.float64)
        for view in tables:
            held = (arrival >= view.first) & (arrival < view.stop)
            if bool(held.any()):
                frame[held] = view.column("frame")[arrival[held] - view.first]
                time_s[held] = view.column("time_s")[arrival[held] - view.first]
        if known:
            rows, frames, times = (torch.cat(column) for column in zip(*known, strict=True))
            rows, order = rows.sort(stable=True)
            at = (torch.searchsorted(rows, arrival, right=True) - 1).clamp(min=0)
            inside = rows[at] == arrival if len(rows) else torch.zeros_like(arrival, dtype=torch.bool)
            at = order[at[inside]]
            frame[inside], time_s[inside] = frames[at], times[at]
        own = arrival >= next_row
        at = arrival[own] - next_row
        frame[own] = torch.cat([seg.frame for seg in near])[at]
        time_s[own] = torch.cat([seg.time_s for seg in near])[at]
        return Attention(frame, time_s, total, looked)


def retrieved(shelf: Shelf, found: Sequence[Found]) -> Retrieved:
    """Which frames were looked up, in which share of the layers, and what they were worth."""
    ids, scores = torch.cat([x.ids for x in found]), torch.cat([x.scores for x in found])
    known, slot = torch.unique(ids, return_inverse=True)
    count = torch.zeros(len(known), dtype=torch.float32).index_add_(0, slot, torch.ones_like(ids, dtype=torch.float32))
    worth = torch.zeros_like(count).index_add_(0, slot, scores) / count
    frame = torch.tensor([int(block.notes.frame.max()) for block in shelf.take(shelf.find(known))], dtype=torch.int64)
    return Retrieved(frame, count / len(found), worth)
