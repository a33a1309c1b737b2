"""ReKV's internal retrieval: every layer looks for its own blocks with the question's queries.

Paper: Streaming Video Question-Answering with In-context Video KV-Cache Retrieval (arXiv 2503.00540, ICLR 2025).
Original: Becomebright/ReKV (no licence).

A block is described by the mean of its un-rotated keys in every layer, the question by the mean of its un-rotated
queries; the blocks with the largest products are chosen. Neighbouring blocks may be chosen together in runs.

Ours differs: the query heads of one key head are added up instead of repeating the keys, with the same products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from headrace.cache import MeanKeys
from headrace.protocols import Card, Method


@dataclass(frozen=True, kw_only=True)
class ReKVInternal(MeanKeys, Method):
    """Choose blocks in every layer by the product of mean query and mean key."""

    card: ClassVar[Card] = Card(
        "ReKV's internal retrieval",
        paper="https://arxiv.org/abs/2503.00540",
        licence="none",
        differs="query heads of one key head are added up instead of repeating the keys; the same products",
    )
    shorthand: ClassVar[str] = "chunk"
