"""Vectors by which blocks are found, one per block and layer; and the retriever that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from headrace.cache.sealed import Sealed
from headrace.ops.retrieval import best_chunks, folded_query, mean_key, rescaled
from headrace.types import ModelSpec

LEAST_ROOM = 64  # blocks


@dataclass(slots=True, eq=False)
class VectorIndex:
    """(L, W) vectors of B blocks. A value: verbs return the next index, and readers of an older one see what they saw.

    New vectors go behind the others in one buffer; when it is full, those that are left move to a larger one.

    Attributes:
        room: (L, R, W) fp32 buffer.
        ids: (B,) int64 ascending names of the blocks.
        at: (B,) int64 ascending places of their vectors in the buffer.
        end: First free place.
    """

    room: Tensor
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    at: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    end: int = 0

    @staticmethod
    def empty(layers: int, width: int, device: torch.device) -> VectorIndex:
        """An index of nothing."""
        return VectorIndex(torch.empty(layers, 0, width, device=device))

    def __len__(self) -> int:
        return self.ids.shape[0]

    def add(self, number: int, vectors: Tensor) -> VectorIndex:
        """Add the (L, W) vectors of a block; its name is larger than those before."""
        room, at, end = self.room, self.at, self.end
        if end == room.shape[1]:
            room = torch.empty(room.shape[0], max(LEAST_ROOM, 2 * len(self)), room.shape[2], device=room.device)
            room[:, : len(self)] = self.room[:, at.to(room.device)]
            at, end = torch.arange(len(self)), len(self)
        room[:, end] = vectors
        ids = torch.cat((self.ids, torch.tensor([number])))
        return VectorIndex(room, ids, torch.cat((at, torch.tensor([end]))), end + 1)

    def drop(self, ids: Tensor) -> VectorIndex:
        """Forget blocks by name."""
        kept = ~torch.isin(self.ids, ids)
        return VectorIndex(self.room, self.ids[kept], self.at[kept], self.end)

    def vectors(self, layer: int) -> Tensor:
        """(B, W) vectors of a layer."""
        if len(self) and int(self.at[-1] - self.at[0]) + 1 == len(self):
            return self.room[layer, int(self.at[0]) : int(self.at[-1]) + 1]
        return self.room[layer, self.at.to(self.room.device)]

    def num_bytes(self) -> int:
        """Bytes of the buffer."""
        return self.room.numel() * 4 + 16 * len(self)

    def alias(self) -> VectorIndex:
        """Return itself; of two that add to the same buffer only one may go on."""
        return self

    def fork(self) -> VectorIndex:
        """Copy, so that both may go on."""
        return VectorIndex(self.room.clone(), self.ids, self.at, self.end)

    def check(self) -> None:
        """Assert that it is whole."""
        assert len(self.ids) == len(self.at), "every block has one place"
        for ascending in (self.ids, self.at):
            assert bool((ascending.diff() > 0).all()), "blocks do not ascend"
        assert not len(self) or int(self.at[-1]) < self.end <= self.room.shape[1], "a vector is outside its buffer"

    def pack(self) -> dict[str, Any]:
        """Turn into a tree of tensors and numbers."""
        vectors = self.room[:, self.at.to(self.room.device)]
        return {"vectors": vectors, "ids": self.ids, "layers": self.room.shape[0], "width": self.room.shape[2]}

    @staticmethod
    def unpack(tree: dict[str, Any], spec: ModelSpec) -> VectorIndex:
        """Rebuild from ``pack``."""
        num, room = len(tree["ids"]), tree["vectors"]
        return VectorIndex(room.to(spec.device), tree["ids"], torch.arange(num), num)


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """What a retriever chose.

    Attributes:
        ids: (K,) int64 ascending names of the chosen blocks.
        scores: (K,) float32 what each was worth, from 0 (the lowest of all blocks) to 1 (the highest).
    """

    ids: Tensor
    scores: Tensor


@dataclass(frozen=True, kw_only=True)
class MeanKeys:
    """Finds blocks in every layer by the product of mean query and mean key, as ReKV does.

    Source: ReKV (arXiv 2503.00540), internal retrieval; queries and keys are un-rotated, products are not normalised.
    """

    chunk: int = 1  # neighbouring blocks that are retrieved together

    per_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"chunk: must be at least 1 block, not {self.chunk}")

    def init(self, spec: ModelSpec) -> VectorIndex:
        """Nothing to be found."""
        return VectorIndex.empty(spec.layers, spec.kv_heads * spec.head_dim, spec.device)

    def add(self, state: VectorIndex, number: int, block: Sealed, embeds: Tensor) -> VectorIndex:
        """Describe a block by its mean key in every layer; a layer without rows of it by zeros."""
        return state.add(number, mean_keys(block))

    def select(self, state: VectorIndex, layer: int | None, q: Tensor, budget: int) -> Found:
        """Choose blocks for the (H, T, D) un-rotated queries of a question."""
        assert layer is not None, "asked layer by layer"
        return choose(state, state.vectors(layer) @ folded_query(q, _kv_heads(state, q)), budget, self.chunk)

    def drop(self, state: VectorIndex, ids: Tensor) -> VectorIndex:
        """Forget blocks."""
        return state.drop(ids)


def choose(index: VectorIndex, scores: Tensor, budget: int, chunk: int = 1) -> Found:
    """Choose the best blocks of an index by their (B,) scores."""
    places = best_chunks(scores, budget, chunk)
    return Found(index.ids[places], rescaled(scores)[places])


def mean_keys(block: Sealed) -> Tensor:
    """(L, G*D) fp32 mean keys of a block."""
    layers: Sequence[int] = range(len(block.offsets))
    means = [mean_key(block.layer(layer)[0]) for layer in layers]
    return torch.stack(means).nan_to_num_(0.0)


def _kv_heads(index: VectorIndex, q: Tensor) -> int:
    return index.room.shape[2] // q.shape[-1]
