"""Naive twin of ``group_position``: one list of rows; every row counts its own kind and looks at what it may.

There is no value at which it is full memory for every stream; what it equals: tests/unit/test_group_position.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrace.types import Kind, ModelSpec
from reference.naive.rows import Row
from reference.rekv import one_softmax

VARIANTS: list[dict[str, Any]] = [{}, {"offset": 40, "positions": "original"}]
IDENTITY: list[dict[str, Any]] = []
REJECTS: dict[str, list[Any]] = {"offset": [-1], "positions": ["", "gaps", "Repack"]}
TUNED: dict[str, list[Any]] = {}


def is_word(row: Row) -> bool:
    """Whether a row was said, or stands around what was."""
    return row.frame < 0 and row.kind != Kind.PREFIX


class Twin:
    """All rows ever written, and those of the question that is being asked."""

    def __init__(self, method: Any, spec: ModelSpec) -> None:
        self.method, self.spec = method, spec
        self.policy = spec.positions if method.positions == "auto" else method.positions
        self.rows: list[Row] = []
        self.asked: list[Row] = []

    def write(self, new: list[Row]) -> None:
        """Remember."""
        self.rows += new

    def place(self, row: Row, rows: list[Row]) -> tuple[int, ...]:
        """Words count words, from the offset; others count others, or have their ids without the words'."""
        said = sum(is_word(other) for other in rows if other.arrival < row.arrival)
        if is_word(row):
            return (self.method.offset + said,) * self.spec.position_rows
        if self.policy == "original":
            return tuple(x - said for x in row.ids)
        return (row.arrival - said,) * self.spec.position_rows

    def attend(
        self,
        layer: int,
        q: Tensor,
        new: list[Row],
        mine: list[Row],
        keys: dict[int, Tensor],
        values: dict[int, Tensor],
        *,
        query: bool,
    ) -> tuple[Tensor, list[dict[int, float]]]:
        """Attend the (H, T, D) un-rotated queries of the new rows ``mine``; see the twin of ``rekv``."""
        if not query or new[0].arrival == len(self.rows):
            self.asked = []
        if new[0].arrival > (self.asked[-1].arrival if self.asked else -1):
            self.asked = [*self.asked, *new]
        rows = [*self.rows, *self.asked]
        known = {row.arrival: (row, self.place(row, rows)) for row in rows}
        window, outs, shares = self.spec.windows[layer], [], []
        for i, row in enumerate(mine):
            pairs = []
            for other in sorted(keys):
                near = other <= row.arrival and (window is None or other > row.arrival - window)
                if near and (is_word(row) or not is_word(known[other][0])):
                    pairs.append((other, known[row.arrival][1], known[other][1]))
            out, share = one_softmax(q[:, i], pairs, keys, values, self.spec)
            outs.append(out)
            shares.append(share)
        return torch.stack(outs, 1), shares
