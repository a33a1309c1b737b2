"""StreamingLLM: attention sinks and a rolling window of rows.

Paper: Efficient Streaming Language Models with Attention Sinks (arXiv 2309.17453, ICLR 2024).
Original: mit-han-lab/streaming-llm (MIT).

The first rows of a stream draw much attention whatever they hold; without them a sliding window breaks down. So the
cache keeps them for ever, keeps the newest rows, and counts positions inside what is left, so that no position ever
grows past the window. The window forgets after a step, or (``evict="before"``) makes room for a step first, so that
no row ever sees more than the cache holds.

Ours differs: only distances matter to rotary attention, so instead of re-rotating the whole window at every step, the
window keeps its rotated keys and the few sinks move up to the row before it. With ``original`` positions the window
keeps the gaps of dropped tokens. The sinks are the text prefix unless a number is given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from headrace.cache import CacheContext, KVCache, Past, RowView
from headrace.cache.sinks import decide_sinks
from headrace.ops.positions import check_policy, resolve_policy
from headrace.ops.rope import cos_sin
from headrace.protocols import Card, Method
from headrace.types import ModelSpec, Segment, Span, VisualTokens


@dataclass(slots=True)
class StreamingLLMState:
    """Sinks and window, and how many of the first rows become sinks (-1 before the first write)."""

    sinks: KVCache
    window: KVCache
    num_sinks: int


class RoomContext(CacheContext):
    """Sinks and window without the rows that have to leave for those of this prompt.

    Args:
        spec: The model.
        past: Sinks, and the window.
        room: Rows the window may hold, this prompt's included.
        next_row: See ``CacheContext``.
        positions: See ``CacheContext``.
    """

    def __init__(self, spec: ModelSpec, past: tuple[Past, Past], *, room: int, next_row: int, positions: str) -> None:
        super().__init__(spec, past, next_row=next_row, positions=positions)
        self._whole, self._room = past[1], room

    def begin(self, segment: Segment) -> None:
        """Decide the positions of the new rows, and make room for them."""
        super().begin(segment)
        if not self._num:  # a frame of which no token is left needs no room
            return
        view = self._whole.rows
        oldest = max(view.first, view.stop - max(self._room - self._num, 0))
        view = replace(view, first=oldest)
        layers = tuple(
            tuple(part for run in runs if len(part := run.within(oldest, view.stop))) for runs in self._whole.layers
        )
        new = next(x for x in self._segments if len(x))
        place = view.ids_of(oldest) if oldest < view.stop else new.ids[:, 0]
        sinks = self._past[0]
        moved = _before(view, sinks.rows.stop, self._positions, place)
        self._past = (replace(sinks, moved=moved), Past(layers, view))
        spec = self._spec
        turned = None if moved is None else cos_sin(spec.rope, moved, dtype=spec.dtype, device=spec.device)
        self._moved = [turned, None]


@dataclass(frozen=True, kw_only=True)
class StreamingLLM(Method):
    """Keep the first rows and the newest rows."""

    window: int = 2048  # newest rows that are kept
    sinks: int | None = None  # first rows that never leave; None: the text prefix
    evict: str = "after"  # after: a step sees its own rows beside a full window; before: room is made for it first
    positions: str = "auto"  # repack: as published; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "StreamingLLM",
        paper="https://arxiv.org/abs/2309.17453",
        licence="MIT",
        differs="moves the sinks instead of re-rotating the window; the same distances, so the same attention",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"window"})
    shorthand: ClassVar[str] = "window"
    kind: ClassVar[str] = "kv"

    def __post_init__(self) -> None:
        check_policy(self.positions)
        if self.window < 1:
            raise ValueError(f"window: must be at least 1 row, not {self.window}")
        if self.sinks is not None and self.sinks < 0:
            raise ValueError(f"sinks: must be 0 rows or more, not {self.sinks}")
        if self.evict not in ("after", "before"):
            raise ValueError(f"evict: {self.evict!r} is unknown; known: after, before")

    def init(self, spec: ModelSpec) -> StreamingLLMState:
        """Empty sinks, empty window."""
        return StreamingLLMState(KVCache(spec, block_rows=64), KVCache(spec, block_rows=self._block_rows), -1)

    @property
    def _block_rows(self) -> int:
        return min(4096, max(64, self.window // 4))

    def read(self, state: StreamingLLMState, spec: ModelSpec, *, query: bool) -> CacheContext:
        """See the sinks just before the window, and the window."""
        policy = resolve_policy(self.positions, spec.positions)
        sinks, window = state.sinks.table.view(), state.window.table.view()
        place = window.ids_of(window.first) if window.stop > window.first else torch.empty(0, dtype=torch.int64)
        past = (
            Past(state.sinks.snapshot(), sinks, moved=_before(window, sinks.stop, policy, place)),
            Past(state.window.snapshot(), window),
        )
        next_row = max(window.stop, sinks.stop)
        if self.evict == "before":
            return RoomContext(spec, past, room=self.window, next_row=next_row, positions=policy)
        return CacheContext(spec, past, next_row=next_row, positions=policy)

    def write(self, state: StreamingLLMState, span: Span) -> StreamingLLMState:
        """Fill the sinks, append to the window, evict what the window no longer holds."""
        state.num_sinks = decide_sinks(state.num_sinks, self.sinks, span.segment)
        room, num = state.num_sinks - state.sinks.table.stop, len(span.segment)
        if room > 0:
            state.sinks.append(span.cut(0, min(room, num)))
            if num <= room:
                return state
            span = span.cut(room, num)
        if not state.window.table.stop:
            state.window = KVCache(state.window.spec, block_rows=self._block_rows, first_row=state.num_sinks)
        state.window.block_rows = self._block_rows  # a tuned window: the next blocks follow it
        state.window.append(span)
        state.window.evict_before(state.window.table.stop - self.window)
        return state

    def recall(self, state: StreamingLLMState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: StreamingLLMState) -> int:
        """Bytes of sinks and window."""
        return state.sinks.num_bytes() + state.window.num_bytes()

    def bound_bytes(self, spec: ModelSpec) -> int:
        """Window, sinks, and the evicted rows of one block."""
        rows = self.window + self._block_rows + (spec.prefix_rows if self.sinks is None else self.sinks)
        table = (4096 + rows) * (21 + 8 * spec.position_rows)
        return rows * (spec.row_bytes * 3 // 2 + 8 * spec.layers) + table


def _before(window: RowView, num_sinks: int, policy: str, place: Tensor) -> Tensor | None:
    """Positions (P, num_sinks) that end just before the window's oldest row; None where nothing was evicted.

    Args:
        window: What is seen of it.
        num_sinks: Rows before it.
        policy: ``original`` or ``repack``.
        place: (P,) canonical ids of its oldest row, or of the row behind it where it is empty.
    """
    if window.first <= num_sinks or not num_sinks:
        return None
    oldest = place if policy == "original" else torch.full((1,), window.first, dtype=torch.int64)
    return oldest[:, None] - num_sinks + torch.arange(num_sinks)
