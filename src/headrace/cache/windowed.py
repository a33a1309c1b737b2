"""The Context of memories that watch through a window: near rows where they are, sinks at one fixed distance."""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.cache.blocks import Run
from headrace.cache.context import CacheContext, Past, Seen
from headrace.cache.sealed import frame_ends
from headrace.ops.attention import KeyGroup
from headrace.ops.rope import cos_sin, rotate
from headrace.types import LayerSpan, ModelSpec, Segment


class WindowContext(CacheContext):
    """Attend to the last ``reach`` rows, and to the sinks once they have left those.

    A row sees rows less than ``reach`` behind it, at their distance. The first ``num_sinks`` rows of the stream are
    seen from ``reach - 1`` rows away whatever their distance, from the frame on whose last row is farther away. This is
    what the released code of ReKV (arXiv 2503.00540) computes, frame by frame: the first rows of the frame that pushes
    a sink out of the window see it twice.

    Args:
        spec: The model.
        sinks: The first rows, un-rotated.
        window: The newest rows, with rotated keys.
        num_sinks: Rows that are sinks, whether they are in ``sinks`` already or not.
        reach: Rows of the window, >= 1.
        next_row: Arrival number of the first new row.
        positions: ``original`` or ``repack``; see ``CacheContext``.
    """

    def __init__(
        self,
        spec: ModelSpec,
        sinks: Past,
        window: Past,
        *,
        num_sinks: int,
        reach: int,
        next_row: int,
        positions: str,
    ) -> None:
        super().__init__(spec, [sinks, window], next_row=next_row, positions=positions)
        self._sinks = sinks
        self._num_sinks = num_sinks
        self._reach = reach
        self._ends = torch.empty(0, dtype=torch.int64)
        far = torch.full((spec.position_rows, 1), reach - 1, dtype=torch.int64)
        self._far = cos_sin(spec.rope, far, dtype=spec.dtype, device=spec.device)

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows, and tell which of them belong to one frame."""
        start = self._num
        super().begin(segment)
        self._ends = torch.cat((self._ends, frame_ends(segment) + start))

    def _window(self, layer: int) -> int | None:
        own = super()._window(layer)
        return self._reach if own is None else min(own, self._reach)

    def _group(
        self, layer: int, part: Past, turned: tuple[Tensor, Tensor] | None, run: Run, q: Tensor, number: Tensor
    ) -> KeyGroup | None:
        if part is not self._sinks:
            return super()._group(layer, part, turned, run, q, number)
        return self._far_group(layer, run.keys, run.values, run.rows, q, number)

    def _far_group(
        self, layer: int, keys: Tensor, values: Tensor, key_rows: Tensor, q: Tensor, number: Tensor
    ) -> KeyGroup | None:
        """Un-rotated keys as all queries see them: from the far end of the window, before any order among them."""
        own = self._spec.windows[layer]
        if own is not None and own < self._reach:
            return None
        mask = key_rows[None] < self._ends[number, None] + self._next_row - self._reach
        if not bool(mask.any()):
            return None
        hidden = None if bool(mask.all()) else mask.to(keys.device)
        return KeyGroup(keys * self._spec.rope.scaling, values, hidden, q=self._far_query(q))

    def _far_query(self, q: Tensor) -> Tensor:
        """(H, U, D) queries at the far end of the window."""
        num = q.shape[1]
        return rotate(q, self._far[0].expand(num, -1), self._far[1].expand(num, -1))

    def _new(self, layer: int, q: Tensor, new: LayerSpan) -> list[Seen]:
        """The new rows; those of them that are sinks also from afar."""
        seen = super()._new(layer, q, new)
        for part in [*([self._tails[layer].span()] if len(self._tails[layer]) else []), new]:
            early = part.rows + self._next_row < self._num_sinks
            if not bool(early.any()):
                continue
            host, at = part.rows[early], early.to(q.device)
            group = self._far_group(
                layer, part.keys[:, at], part.values[:, at], host + self._next_row, q, new.rows[-q.shape[1] :]
            )
            if group is not None:
                seen.append(Seen(group, host, self._num_past()))
        return seen
