"""Preallocated blocks of keys and values, and views of them that never change.

A ``Run`` names the rows ``start..stop`` of a block. Runs are values: appending, evicting and forking make new runs, and
a reader that holds an old one still sees exactly the rows it was given, because rows of a block are written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headrace.cache.pages import own_pages
from headrace.cache.written import Written
from headrace.types import LayerSpan


@dataclass(slots=True, eq=False, weakref_slot=True)
class Block:
    """Room for R rows of one layer.

    Attributes:
        keys: (G, R, D) un-rotated keys.
        values: (G, R, D).
        rotated: (G, R, D) keys at their position, or None where positions change.
        rows: (R,) int64 row numbers, on the CPU.
    """

    keys: Tensor
    values: Tensor
    rotated: Tensor | None
    rows: Tensor

    @staticmethod
    def empty(like: LayerSpan, num_rows: int) -> Block:
        """Allocate a block for rows like these; untouched pages cost no memory on a CPU."""
        heads, _, width = like.keys.shape

        def room() -> Tensor:
            return own_pages((heads, num_rows, width), like.keys.dtype, like.keys.device)

        return Block(
            keys=room(),
            values=room(),
            rotated=None if like.rotated is None else room(),
            rows=own_pages((num_rows,), torch.int64),
        )

    @property
    def capacity(self) -> int:
        """Rows there is room for."""
        return self.rows.shape[0]

    def copy(self, start: int, stop: int) -> Block:
        """Copy the rows ``start..stop`` to the same places of a new block of the same size."""

        def half(x: Tensor) -> Tensor:
            new = own_pages(x.shape, x.dtype, x.device)
            new[..., start:stop, :] = x[..., start:stop, :]
            return new

        rows = own_pages(self.rows.shape, torch.int64)
        rows[start:stop] = self.rows[start:stop]
        return Block(half(self.keys), half(self.values), None if self.rotated is None else half(self.rotated), rows)

    def put(self, at: int, span: LayerSpan, source: slice, first_row: int) -> None:
        """Write the rows ``source`` of a span at ``at``; row numbers count from ``first_row``."""
        target = slice(at, at + source.stop - source.start)
        self.keys[:, target] = span.keys[:, source]
        self.values[:, target] = span.values[:, source]
        if self.rotated is not None and span.rotated is not None:
            self.rotated[:, target] = span.rotated[:, source]
        self.rows[target] = span.rows[source] + first_row


_PARTS = ("keys", "values", "rotated", "rows")


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The rows ``start..stop`` of a block, as one reader sees them."""

    block: Block
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def within(self, start: int, stop: int) -> Run:
        """Those of its rows that are numbered ``start..stop``; perhaps none."""
        low, high = (self.start + int(torch.searchsorted(self.rows, row)) for row in (start, stop))
        return Run(self.block, low, high)

    @property
    def keys(self) -> Tensor:
        """(G, S, D) un-rotated keys, a view."""
        return self.block.keys[:, self.start : self.stop]

    @property
    def values(self) -> Tensor:
        """(G, S, D) values, a view."""
        return self.block.values[:, self.start : self.stop]

    @property
    def rotated(self) -> Tensor:
        """(G, S, D) rotated keys, a view."""
        assert self.block.rotated is not None, "this cache keeps no rotated keys"
        return self.block.rotated[:, self.start : self.stop]

    @property
    def rows(self) -> Tensor:
        """(S,) int64 row numbers, a view on the CPU."""
        return self.block.rows[self.start : self.stop]

    def pack(self) -> dict[str, Any]:
        """Turn into a tree that ``unpack`` rebuilds; rows of a full block are written for good."""
        tensors = {"keys": self.keys, "values": self.values, "rows": self.rows}
        if self.block.rotated is not None:
            tensors["rotated"] = self.rotated
        full = self.stop == self.block.capacity
        part = Written(tensors, self.start, self.block if full else None)
        return {"start": self.start, "stop": self.stop, "capacity": self.block.capacity, "part": part}

    @staticmethod
    def unpack(tree: dict[str, Any], device: torch.device) -> Run:
        """Rebuild from ``pack`` on a device, with a block of its own."""
        start = tree["start"]
        # Format 1 had the tensors beside the numbers.
        part = tree["part"] if "part" in tree else Written({n: tree[n] for n in _PARTS if n in tree}, start)
        tensors = part.tensors
        rotated = tensors.get("rotated")
        span = LayerSpan(
            keys=tensors["keys"].to(device),
            values=tensors["values"].to(device),
            rotated=None if rotated is None else rotated.to(device),
            rows=tensors["rows"],
        )
        num = len(span.rows)
        block = Block.empty(span, tree["capacity"])
        block.put(part.first, span, slice(0, num), 0)
        part.taken_by(block)
        return Run(block, start, part.first + num)
