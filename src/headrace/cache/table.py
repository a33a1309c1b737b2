"""What is known of every row of a stream's cache: kind, frame, time, turn and canonical ids.

One table serves all layers; a layer refers to it by row number. Row numbers count from 0 over the life of the stream
and are never used again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headrace.cache.pages import own_pages
from headrace.cache.written import Written
from headrace.types import Segment


@dataclass(slots=True, eq=False, weakref_slot=True)
class Chunk:
    """Room for the columns of R rows; on the CPU.

    Attributes:
        kind: (R,) int8.
        frame: (R,) int64.
        time_s: (R,) float64.
        turn: (R,) int32.
        ids: (P, R) int64 canonical position ids.
    """

    kind: Tensor
    frame: Tensor
    time_s: Tensor
    turn: Tensor
    ids: Tensor

    @staticmethod
    def empty(num_rows: int, position_rows: int) -> Chunk:
        """Allocate a chunk."""
        return Chunk(
            kind=own_pages((num_rows,), torch.int8),
            frame=own_pages((num_rows,), torch.int64),
            time_s=own_pages((num_rows,), torch.float64),
            turn=own_pages((num_rows,), torch.int32),
            ids=own_pages((position_rows, num_rows), torch.int64),
        )

    def put(self, target: slice, segment: Segment, source: slice) -> None:
        """Write the rows ``source`` of a segment."""
        self.kind[target] = segment.kind[source]
        self.frame[target] = segment.frame[source]
        self.time_s[target] = segment.time_s[source]
        self.turn[target] = segment.turn
        self.ids[:, target] = segment.ids[:, source]


def _row_bytes(position_rows: int) -> int:
    return 1 + 8 + 8 + 4 + 8 * position_rows


@dataclass(frozen=True, slots=True, eq=False)
class RowView:
    """The rows ``first..stop`` of a table as they were when it was taken; later appends do not change them."""

    chunks: tuple[Chunk, ...]
    chunk_rows: int
    base: int
    first: int
    stop: int

    @staticmethod
    def alone(first_row: int, kind: Tensor, frame: Tensor, time_s: Tensor, ids: Tensor) -> RowView:
        """Rows that are in no table, by their columns; what is not given is 0."""
        num = frame.shape[0]
        chunk = Chunk(kind, frame, time_s, torch.zeros(num, dtype=torch.int32), ids)
        return RowView((chunk,), max(num, 1), first_row, first_row, first_row + num)

    def __len__(self) -> int:
        return self.stop - self.first

    def within(self, start: int, stop: int) -> RowView:
        """The rows ``start..stop``, all of them held; keeps only the chunks they are in alive."""
        low, high = (start - self.base) // self.chunk_rows, -((self.base - stop) // self.chunk_rows)
        base = self.base + low * self.chunk_rows
        return RowView(self.chunks[low:high], self.chunk_rows, base, start, stop)

    def column(self, name: str) -> Tensor:
        """One column over all rows, (R,), or (P, R) for ``ids``; to be read only, it may be a view."""
        parts = [getattr(chunk, name) for chunk in self.chunks]
        whole = (
            torch.empty(0, dtype=torch.int64) if not parts else parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        )
        return whole[..., self.first - self.base : self.stop - self.base]

    @property
    def kind(self) -> Tensor:
        """(R,) int8."""
        return self.column("kind")

    @property
    def frame(self) -> Tensor:
        """(R,) int64 stream index of the frame, -1 for text."""
        return self.column("frame")

    @property
    def time_s(self) -> Tensor:
        """(R,) float64."""
        return self.column("time_s")

    @property
    def ids(self) -> Tensor:
        """(P, R) int64 canonical position ids."""
        return self.column("ids")

    def num_bytes(self) -> int:
        """Bytes of the columns."""
        return _row_bytes(self.chunks[0].ids.shape[0]) * len(self) if self.chunks else 0

    def segment(self, rows: Tensor) -> Segment:
        """What is known of (K,) rows, as a segment without embeddings; it has the newest row's turn."""
        at = rows - self.first
        turns = self.column("turn")[at]
        return Segment(
            embeds=torch.empty(len(rows), 0, dtype=torch.float32),
            ids=self.column("ids")[:, at],
            advance=len(rows),
            kind=self.column("kind")[at],
            frame=self.column("frame")[at],
            time_s=self.column("time_s")[at],
            tokens=torch.full((len(rows),), -1),
            turn=int(turns.max()) if len(turns) else 0,
        )

    def ids_of(self, row: int) -> Tensor:
        """(P,) canonical ids of one row."""
        at = row - self.base
        return self.chunks[at // self.chunk_rows].ids[:, at % self.chunk_rows]


@dataclass(slots=True, eq=False)
class RowTable:
    """Columns of all rows a cache holds, in chunks that are dropped from the front.

    Attributes:
        position_rows: P.
        chunk_rows: Rows per chunk.
        chunks: The chunks, oldest first.
        base: Row number of the first chunk's first row.
        first: Oldest row that may still be asked for.
        stop: Next row number.
    """

    position_rows: int
    chunk_rows: int = 4096
    chunks: tuple[Chunk, ...] = ()
    base: int = 0
    first: int = 0
    stop: int = 0
    _columns: tuple[str, ...] = field(default=("kind", "frame", "time_s", "turn", "ids"), repr=False)

    def append(self, segment: Segment) -> int:
        """Add a segment's rows; returns the number of the first."""
        first, done = self.stop, 0
        while done < len(segment):
            at = (self.stop - self.base) % self.chunk_rows
            if self.stop - self.base == len(self.chunks) * self.chunk_rows:
                self.chunks = (*self.chunks, Chunk.empty(self.chunk_rows, self.position_rows))
            count = min(len(segment) - done, self.chunk_rows - at)
            self.chunks[-1].put(slice(at, at + count), segment, slice(done, done + count))
            self.stop += count
            done += count
        return first

    def drop_before(self, row: int) -> None:
        """Forget rows before ``row``; whole chunks leave."""
        self.first = min(max(self.first, row), self.stop)
        whole = min((self.first - self.base) // self.chunk_rows, len(self.chunks))
        self.chunks, self.base = self.chunks[whole:], self.base + whole * self.chunk_rows

    def drop_after(self, row: int) -> None:
        """Forget ``row`` and all rows after it. Their numbers are used again."""
        self.stop = min(self.stop, max(row, self.first))
        keep = -(-(self.stop - self.base) // self.chunk_rows)
        self.chunks = self.chunks[:keep]
        self._own_last()

    def view(self) -> RowView:
        """Take an unchanging view of the rows there are now."""
        return RowView(self.chunks, self.chunk_rows, self.base, self.first, self.stop)

    def alias(self) -> RowTable:
        """The same rows in the same chunks; of a table and its alias only one may go on."""
        return RowTable(self.position_rows, self.chunk_rows, self.chunks, self.base, self.first, self.stop)

    def fork(self) -> RowTable:
        """Copy; full chunks are shared, the open one is copied."""
        twin = self.alias()
        twin._own_last()
        return twin

    def _own_last(self) -> None:
        if self.chunks and (self.stop - self.base) % self.chunk_rows:
            last = self.chunks[-1]
            copy = Chunk(*(getattr(last, name).clone() for name in self._columns))
            self.chunks = (*self.chunks[:-1], copy)

    def num_bytes(self) -> int:
        """Bytes of the rows that are held."""
        return (self.stop - self.base) * _row_bytes(self.position_rows)

    def pack(self) -> dict[str, Any]:
        """Turn into a tree that ``unpack`` rebuilds with the same chunks; rows of a full chunk are written for good."""
        chunks = []
        for number, chunk in enumerate(self.chunks):
            base = self.base + number * self.chunk_rows
            start, stop = max(0, self.first - base), min(self.chunk_rows, self.stop - base)
            columns = {name: getattr(chunk, name)[..., start:stop] for name in self._columns}
            chunks.append(Written(columns, start, chunk if stop == self.chunk_rows else None))
        numbers = {"chunk_rows": self.chunk_rows, "base": self.base, "first": self.first, "stop": self.stop}
        return {**numbers, "chunks": tuple(chunks)}

    @staticmethod
    def unpack(tree: dict[str, Any], position_rows: int) -> RowTable:
        """Rebuild from ``pack``."""
        first, stop = tree["first"], tree["stop"]
        table = RowTable(position_rows, base=first, first=first, stop=stop)
        if "columns" in tree:  # format 1: one tensor per column
            chunks = [
                Written(
                    {name: column[..., start : start + table.chunk_rows] for name, column in tree["columns"].items()}
                )
                for start in range(0, stop - first, table.chunk_rows)
            ]
        else:
            table.chunk_rows, table.base, chunks = tree["chunk_rows"], tree["base"], tree["chunks"]
        for part in chunks:
            chunk = Chunk.empty(table.chunk_rows, position_rows)
            for name, column in part.tensors.items():
                getattr(chunk, name)[..., part.first : part.first + column.shape[-1]] = column
            part.taken_by(chunk)
            table.chunks = (*table.chunks, chunk)
        return table
