"""Full memory: every row stays in the decoder's cache, for ever.

The yardstick of every memory that forgets: streaming through it equals one forward over the whole stream. It grows by
``tokens per frame x bytes per row`` with every frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.cache import CacheContext, KVCache, Past
from headrace.ops.positions import check_policy, resolve_policy
from headrace.protocols import Card, Method
from headrace.types import ModelSpec, Segment, Span, VisualTokens


@dataclass(slots=True)
class FullState:
    """The cache."""

    cache: KVCache


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """Keep every row."""

    positions: str = "auto"  # repack: contiguous; original: ids with gaps where tokens were dropped; auto: as trained

    card: ClassVar[Card] = Card("full cache")
    shorthand: ClassVar[str] = "positions"
    kind: ClassVar[str] = "kv"

    def __post_init__(self) -> None:
        check_policy(self.positions)

    def init(self, spec: ModelSpec) -> FullState:
        """An empty cache."""
        return FullState(KVCache(spec))

    def read(self, state: FullState, spec: ModelSpec, *, query: bool) -> CacheContext:
        """See everything."""
        cache = state.cache
        past = Past(cache.snapshot(), cache.table.view())
        policy = resolve_policy(self.positions, spec.positions)
        return CacheContext(spec, [past], next_row=cache.table.stop, positions=policy)

    def write(self, state: FullState, span: Span) -> FullState:
        """Append."""
        state.cache.append(span)
        return state

    def recall(self, state: FullState) -> tuple[VisualTokens | Segment, ...]:
        """Nothing to run again."""
        return ()

    def num_bytes(self, state: FullState) -> int:
        """Bytes of the cache."""
        return state.cache.num_bytes()

    def bound_bytes(self, spec: ModelSpec) -> None:
        """Grows without end."""
        return
