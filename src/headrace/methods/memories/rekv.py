"""ReKV: watch through a window, keep every frame's rows, and look up the frames a question needs.

Paper: Streaming Video Question-Answering with In-context Video KV-Cache Retrieval (arXiv 2503.00540, ICLR 2025).
Original: Becomebright/ReKV (no licence).

While the stream runs, a frame attends to the last rows and to the first ones (the text prefix), so its cost is flat.
The keys and values of every frame are kept as a block. A question first looks for its blocks, in every layer on its own
by the product of its mean query with the block's mean key; then it reads prefix and blocks in the order of the stream,
with positions that count from 0, and nothing else. The same stream can be asked again and again.

Ours differs: the question is run once, its template included (the original runs the bare question to look up, then the
prompt to answer); frames may differ in their number of rows; blocks have a bound; the newest can be asked to be there
in any case; within a frame, and between frames that follow each other, ids keep their distances, so M-RoPE and
``original`` positions work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from headrace.cache import (
    Disk,
    Given,
    KVCache,
    Library,
    Limits,
    MeanKeys,
    Past,
    RecallContext,
    Sealed,
    Shelf,
    VectorIndex,
    WindowContext,
    cut_blocks,
    frame_rows,
)
from headrace.cache.sinks import decide_sinks
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import ModelSpec, Segment, Span, VisualTokens


@dataclass(slots=True)
class ReKVState:
    """What is kept of the past.

    Attributes:
        sinks: The first rows.
        window: The newest rows, with rotated keys.
        shelf: The rows behind the sinks, frame by frame.
        retriever: What chooses among the frames.
        index: Its state.
        num_sinks: How many of the first rows become sinks, -1 before the first write.
    """

    sinks: KVCache
    window: KVCache
    shelf: Shelf
    retriever: Any
    index: Any
    num_sinks: int


@dataclass(frozen=True, kw_only=True)
class ReKV(Method):
    """Watch through a window; look up the frames a question needs."""

    retrieve: int = 64  # blocks (frames) a question looks up
    window: int = 15000  # newest rows, to which a frame looks back
    sinks: int | None = None  # first rows that never leave; None: the text prefix
    recent: int = 0  # newest blocks a question sees in any case; 0 as published
    max_blocks: int = 2000  # blocks that are kept; the oldest leave
    ram_blocks: int | None = None  # newest of these that stay in memory, the others go to the disk; None: all
    narrow: bool = False  # keep blocks behind the window in 8 bits
    positions: str = "auto"  # repack: as published; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card(
        "ReKV",
        paper="https://arxiv.org/abs/2503.00540",
        licence="none",
        differs="one pass of the whole prompt looks up and answers; ragged frames; bounded; newest frames on request",
    )
    tunable: ClassVar[frozenset[str]] = frozenset({"retrieve", "max_blocks"})
    presets: ClassVar[dict[str, str]] = {}
    shorthand: ClassVar[str] = "retrieve"
    kind: ClassVar[str] = "kv"
    retriever: ClassVar[str] = "rekv_internal"
    digests: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_policy(self.positions)
        for name, least in (("retrieve", 0), ("window", 1), ("recent", 0), ("max_blocks", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: must be at least {least}, not {getattr(self, name)}")
        for name in ("sinks", "ram_blocks"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ValueError(f"{name}: must be 0 or more, not {value}")

    def init(self, spec: ModelSpec, retriever: Any = None) -> ReKVState:
        """Nothing seen; without a retriever, mean keys as published."""
        retriever = MeanKeys() if retriever is None else retriever
        window = KVCache(spec, block_rows=self._block_rows)
        return ReKVState(KVCache(spec, block_rows=64), window, Shelf(), retriever, retriever.init(spec), -1)

    def house(self, state: ReKVState, disk: Disk) -> ReKVState:
        """Let blocks that do not fit in memory go to a disk."""
        state.shelf = replace(state.shelf, disk=disk)
        return state

    @property
    def _block_rows(self) -> int:
        return min(4096, max(64, self.window // 4))

    def read(self, state: ReKVState, spec: ModelSpec, *, query: bool) -> WindowContext:
        """Frames see window and sinks, a question sinks and what it looks up."""
        if query:
            library = Library(state.shelf, state.retriever, state.index, self.retrieve, self.recent)
            return RecallContext(spec, *self._near(state), library, **self._values(state, spec))
        return WindowContext(spec, *self._near(state), **self._values(state, spec))

    def read_frames(self, state: ReKVState, spec: ModelSpec, frames: Sequence[int]) -> RecallContext:
        """A question sees sinks and these frames (external retrieval)."""
        library = Library(state.shelf, Given.of(state.shelf, frames), None, len(frames))
        return RecallContext(spec, *self._near(state), library, **self._values(state, spec))

    def _near(self, state: ReKVState) -> tuple[Past, Past]:
        sinks = Past(state.sinks.snapshot(), state.sinks.table.view())
        return sinks, Past(state.window.snapshot(), state.window.table.view())

    def _values(self, state: ReKVState, spec: ModelSpec) -> dict[str, Any]:
        return {
            "num_sinks": max(state.num_sinks, 0),
            "reach": self.window,
            "next_row": state.window.table.stop,
            "positions": resolve_policy(self.positions, spec.positions),
        }

    def write(self, state: ReKVState, span: Span) -> ReKVState:
        """Append to the window, seal every frame, forget what is beyond the bounds."""
        first, num = state.window.table.stop, len(span.segment)
        state.num_sinks = decide_sinks(state.num_sinks, self.sinks, span.segment)
        early = min(max(state.num_sinks - first, 0), num)
        if early:
            state.sinks.append(span.cut(0, early))
        state.window.append(span)
        rows = state.window.table.view()
        state.window.evict_before(state.window.table.stop - self.window)
        for start, stop in cut_blocks(span.segment, early, frame_rows(state.window.spec)):
            block = Sealed.seal(span.layers, rows.within(first + start, first + stop), start)
            embeds = span.segment.embeds[start:stop]
            state.index = state.retriever.add(state.index, state.shelf.next_id, block, embeds)
            state.shelf = state.shelf.add(block)
        limits = Limits(self.max_blocks, self.ram_blocks, self.narrow)
        state.shelf, gone = state.shelf.looked_up(span.trace or ()).settled(limits, state.window.table.first)
        if len(gone):
            state.index = state.retriever.drop(state.index, gone)
        return state

    def recall(self, state: ReKVState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: ReKVState) -> int:
        """Bytes of sinks, window, blocks and what they are found by."""
        kept = state.sinks.num_bytes() + state.window.num_bytes() + state.shelf.num_bytes()
        return kept + int(state.index.num_bytes())

    def bound_bytes(self, spec: ModelSpec) -> int:
        """Window and sinks with rotated keys, the frames kept in memory, and the vectors and notes of all."""
        rows = self.window + self._block_rows + (spec.prefix_rows if self.sinks is None else self.sinks) + 64
        table = (2 * 4096 + rows) * (21 + 8 * spec.position_rows)
        near = rows * (spec.row_bytes * 3 // 2 + 8 * spec.layers) + table
        per_block = frame_rows(spec)
        notes = per_block * (8 * spec.layers + 25 + 8 * spec.position_rows) + 64
        held = self.max_blocks if self.ram_blocks is None else min(self.ram_blocks, self.max_blocks)
        vector = max(spec.layers * spec.kv_heads * spec.head_dim, spec.dim) * 4
        blocks = held * per_block * spec.row_bytes + self.max_blocks * notes
        return near + blocks + VectorIndex.most(self.max_blocks) * vector
