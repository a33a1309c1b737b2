"""Rows that one layer keeps out of a stream, wherever they stood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.types import ModelSpec


@dataclass(frozen=True, slots=True, eq=False)
class Strand:
    """Rows one layer keeps out of the stream, with gaps between them. A value: never changed in place.

    Attributes:
        keys: (G, S, D) un-rotated.
        values: (G, S, D).
        rotated: (G, S, D) keys at their positions in the stream.
        rows: (S,) int64 ascending arrival numbers.
        ids: (P, S) int64 canonical ids.
        frame: (S,) int64.
        time_s: (S,) float64.
    """

    keys: Tensor
    values: Tensor
    rotated: Tensor
    rows: Tensor
    ids: Tensor
    frame: Tensor
    time_s: Tensor

    @staticmethod
    def empty(spec: ModelSpec) -> Strand:
        """No rows."""
        shape = (spec.kv_heads, 0, spec.head_dim)
        keys, values, rotated = (torch.empty(shape, dtype=spec.dtype, device=spec.device) for _ in range(3))
        rows = torch.empty(0, dtype=torch.int64)
        ids = torch.empty(spec.position_rows, 0, dtype=torch.int64)
        return Strand(keys, values, rotated, rows, ids, rows, rows.double())

    def take(self, at: Tensor) -> Strand:
        """The rows at some places ((K,) int64 ascending, or (S,) bool)."""
        return Strand(*(x[:, at] if x.ndim > 1 else x[at] for x in self.columns()))

    def columns(self) -> tuple[Tensor, ...]:
        """All of it, in order."""
        return (self.keys, self.values, self.rotated, self.rows, self.ids, self.frame, self.time_s)

    def fork(self) -> Strand:
        """Return itself: it is never changed, so streams may share it."""
        return self

    def num_bytes(self) -> int:
        """Bytes of all of it."""
        return sum(x.numel() * x.itemsize for x in self.columns())


def joined(parts: Sequence[Strand]) -> Strand:
    """Put strands behind each other; their rows ascend."""
    sides = zip(*(part.columns() for part in parts), strict=True)
    return Strand(*(torch.cat(side, 1 if side[0].ndim > 1 else 0) for side in sides))
