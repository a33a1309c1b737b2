"""The private tail of a Context: keys and values of one layer that only this prompt and its decoding see."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.types import LayerSpan


class Tail:
    """Rows of one layer. The first append keeps the tensors it is given; later ones grow by doubling."""

    def __init__(self) -> None:
        self._parts: tuple[Tensor, Tensor, Tensor] | None = None
        self._rows: list[Tensor] = []
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def append(self, keys: Tensor, values: Tensor, rotated: Tensor, rows: Tensor) -> None:
        """Add (G, T, D) keys, values and rotated keys with their (T,) row numbers."""
        new, num = (keys, values, rotated), rows.shape[0]
        if self._parts is None:
            self._parts = new
        else:
            if self._num + num > self._parts[0].shape[1]:
                room = max(2 * self._num, self._num + num, 64)
                self._parts = tuple(_grown(x, self._num, room) for x in self._parts)  # type: ignore[assignment]
            assert self._parts is not None
            for buffer, x in zip(self._parts, new, strict=True):
                buffer[:, self._num : self._num + num] = x
        self._rows.append(rows)
        self._num += num

    def fork(self) -> Tail:
        """The same rows for another Context; it moves to room of its own when it appends."""
        twin = Tail()
        if self._parts is not None:
            twin._parts = tuple(x[:, : self._num] for x in self._parts)  # type: ignore[assignment]
        twin._rows, twin._num = list(self._rows), self._num
        return twin

    def span(self) -> LayerSpan:
        """All rows so far, as views."""
        assert self._parts is not None, "the tail is empty"
        keys, values, rotated = (x[:, : self._num] for x in self._parts)
        if len(self._rows) > 1:
            self._rows = [torch.cat(self._rows)]
        return LayerSpan(keys, values, rotated, self._rows[0])


def _grown(x: Tensor, used: int, room: int) -> Tensor:
    new = torch.empty(x.shape[0], room, x.shape[2], dtype=x.dtype, device=x.device)
    new[:, :used] = x[:, :used]
    return new
