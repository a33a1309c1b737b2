"""A key/value cache of python lists: every row of every layer is its own entry."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.types import Span


@dataclass
class ListCache:
    """Rows per layer as (number, key, value, rotated), and a dict of metadata per row number."""

    layers: list[list[tuple[int, list[Any], list[Any], list[Any] | None]]]
    table: dict[int, dict[str, Any]] = field(default_factory=dict)
    next: int = 0

    def append(self, span: Span) -> None:
        """Add every row of every layer."""
        seg = span.segment
        for i in range(len(seg)):
            self.table[self.next + i] = {
                "kind": int(seg.kind[i]),
                "frame": int(seg.frame[i]),
                "time_s": float(seg.time_s[i]),
                "turn": seg.turn,
                "ids": seg.ids[:, i].tolist(),
            }
        for layer, part in zip(self.layers, span.layers, strict=True):
            for at, row in enumerate(part.rows.tolist()):
                rotated = None if part.rotated is None else part.rotated[:, at].tolist()
                layer.append((self.next + row, part.keys[:, at].tolist(), part.values[:, at].tolist(), rotated))
        self.next += len(seg)

    def evict_before(self, row: int) -> None:
        """Forget older rows."""
        self.layers = [[entry for entry in layer if entry[0] >= row] for layer in self.layers]
        self.table = {number: what for number, what in self.table.items() if number >= row}

    def truncate(self, row: int) -> None:
        """Forget this row and newer ones."""
        self.layers = [[entry for entry in layer if entry[0] < row] for layer in self.layers]
        oldest = min(self.table, default=self.next)
        self.table = {number: what for number, what in self.table.items() if number < row}
        self.next = min(self.next, max(row, oldest))

    def select(self, rows: Sequence[Sequence[int]]) -> None:
        """Keep these rows only; what is known of the others stays."""
        self.layers = [
            [entry for entry in layer if entry[0] in set(wanted)]
            for layer, wanted in zip(self.layers, rows, strict=True)
        ]

    def fork(self) -> ListCache:
        """Copy everything."""
        return copy.deepcopy(self)
