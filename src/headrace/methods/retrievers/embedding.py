"""Embedding retrieval: blocks whose visual tokens point where the question's words point, the same for all layers.

The external retrieval of ReKV (arXiv 2503.00540) compares a question with frames in the space of a second model. A
video language model has such a space of its own: its projector puts visual tokens among the word embeddings. A block is
the mean of its visual tokens as unit vectors, a question that of its words, and what all blocks share is taken out
before they are compared, because the mean picture says nothing about any one of them. It costs no layer of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from headrace.cache import Found, Sealed, VectorIndex, choose
from headrace.protocols import Card, Method
from headrace.types import Kind, ModelSpec


def direction(block: Sealed, embeds: Tensor) -> Tensor:
    """Mean direction of a block's visual rows ((R, C) of what went in), or of all its rows: (C,) fp32."""
    visual = (block.notes.kind == Kind.VISUAL).to(embeds.device)
    rows = embeds[visual] if bool(visual.any()) else embeds
    return normalize(rows.float(), dim=-1).mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class Embedding(Method):
    """Choose blocks once per question, by the cosine between words and visual tokens."""

    centre: bool = True  # take out what all blocks share

    card: ClassVar[Card] = Card("embedding retrieval")
    per_layer: ClassVar[bool] = False

    def init(self, spec: ModelSpec) -> VectorIndex:
        """Nothing to be found."""
        return VectorIndex.empty(1, spec.dim, spec.device)

    def add(self, state: VectorIndex, number: int, block: Sealed, embeds: Tensor) -> VectorIndex:
        """Describe a block by the mean direction of its visual tokens."""
        return state.add(number, direction(block, embeds)[None])

    def select(self, state: VectorIndex, layer: int | None, q: Tensor, budget: int) -> Found:
        """Choose blocks for the (T, C) embeddings of a question's rows."""
        vectors = state.vectors(0)
        if self.centre:
            vectors = vectors - vectors.mean(dim=0, keepdim=True)
        asked = normalize(q.float(), dim=-1).mean(dim=0)
        return choose(state, normalize(vectors, dim=-1) @ normalize(asked, dim=0), budget)

    def drop(self, state: VectorIndex, ids: Tensor) -> VectorIndex:
        """Forget blocks."""
        return state.drop(ids)
