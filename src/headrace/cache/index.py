"""Vectors by which blocks are found, one per block and layer; and the retriever that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor

from headrace.cache.pages import own_pages
from headrace.cache.sealed import Sealed
from headrace.ops.retrieval import best_chunks, folded_query, mean_key, rescaled
from headrace.types import ModelSpec

PAGE = 64  # blocks


@dataclass(slots=True, eq=False)
class VectorIndex:
    """(L, W) vectors of B blocks. A value: verbs return the next index, and readers of an older one see what they saw.

    New vectors go behind the others, to a page of room for ``PAGE`` blocks; a page leaves with its last block. So an
    index that loses a block for every new one neither moves nor grows.

    Attributes:
        layers: L.
        width: W.
        device: Where the vectors lie.
        pages: (L, PAGE, W) fp32 each.
        ids: (B,) int64 ascending names of the blocks.
        at: (B,) int64 ascending places of their vectors, counted over all pages.
        end: First free place.
    """

    layers: int
    width: int
    device: torch.device
    pages: tuple[Tensor, ...] = ()
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    at: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    end: int = 0

    @staticmethod
    def empty(layers: int, width: int, device: torch.device) -> VectorIndex:
        """An index of nothing."""
        return VectorIndex(layers, width, device)

    def __len__(self) -> int:
        return self.ids.shape[0]

    @staticmethod
    def most(blocks: int) -> int:
        """Places there are at most, on all pages, for an index that never holds more than so many blocks."""
        return 2 * blocks + 3 * PAGE

    def _page(self) -> Tensor:
        return own_pages((self.layers, PAGE, self.width), torch.float32, self.device)

    def add(self, number: int, vectors: Tensor) -> VectorIndex:
        """Add the (L, W) vectors of a block; its name is larger than those before."""
        pages, end = self.pages, self.end
        if end == PAGE * len(pages):
            pages = (*pages, self._page())
        pages[-1][:, end % PAGE] = vectors
        name, place = (torch.tensor([x], dtype=torch.int64) for x in (number, end))
        ids, at = torch.cat((self.ids, name)), torch.cat((self.at, place))
        return replace(self, pages=pages, ids=ids, at=at, end=end + 1)

    def drop(self, ids: Tensor) -> VectorIndex:
        """Forget blocks by name; pages without any leave, and where more than half is gaps, all move together."""
        kept = ~torch.isin(self.ids, ids)
        left = replace(self, ids=self.ids[kept], at=self.at[kept])
        free = -self.end % PAGE
        live = torch.bincount(left.at // PAGE, minlength=len(self.pages)) > 0
        live[-1:] |= free > 0
        if not bool(live.all()):
            left.pages = tuple(page for page, alive in zip(self.pages, live.tolist(), strict=True) if alive)
            left.at = (live.cumsum(0) - 1)[left.at // PAGE] * PAGE + left.at % PAGE
            left.end = PAGE * len(left.pages) - free
        return left._packed() if PAGE * len(left.pages) > 2 * (len(left) + PAGE) else left

    def _packed(self) -> VectorIndex:
        """The same, in as few new pages as it fills."""
        pages = []
        for places in self.at.split(PAGE):
            pages.append(self._page())
            rows = [self.pages[place // PAGE][:, place % PAGE] for place in places.tolist()]
            pages[-1][:, : len(places)] = torch.stack(rows, dim=1)
        return replace(self, pages=tuple(pages), at=torch.arange(len(self)), end=len(self))

    def parts(self, layer: int) -> list[Tensor]:
        """The (B, W) vectors of a layer, cut where pages end; views where none has left in between."""
        if not len(self):
            return []
        first, stop = int(self.at[0]), int(self.at[-1]) + 1
        if stop - first == len(self):
            cuts = [first, *range(first - first % PAGE + PAGE, stop, PAGE), stop]
            return [self.pages[at // PAGE][layer, at % PAGE : at % PAGE + end - at] for at, end in pairwise(cuts)]
        pages = torch.bincount(self.at // PAGE).tolist()
        places = [x.to(self.device) % PAGE for x in self.at.split(pages)]
        return [page[layer, own] for page, own in zip(self.pages, places, strict=False)]

    def vectors(self, layer: int) -> Tensor:
        """(B, W) vectors of a layer, a copy."""
        return torch.cat([torch.empty(0, self.width, dtype=torch.float32, device=self.device), *self.parts(layer)])

    def num_bytes(self) -> int:
        """Bytes of the pages, on a CPU only of what was written to, and of the names."""
        places = self.end if self.device.type == "cpu" else PAGE * len(self.pages)
        return places * self.layers * self.width * 4 + 16 * len(self)

    def alias(self) -> VectorIndex:
        """Return itself; of two that add to the same page only one may go on."""
        return self

    def fork(self) -> VectorIndex:
        """Copy, so that both may go on: full pages are shared, the open one is copied."""
        if not self.end % PAGE:
            return self
        own = self._page().copy_(self.pages[-1])
        return replace(self, pages=(*self.pages[:-1], own))

    def check(self) -> None:
        """Assert that it is whole."""
        assert len(self.ids) == len(self.at), "every block has one place"
        for ascending in (self.ids, self.at):
            assert bool((ascending.diff() > 0).all()), "blocks do not ascend"
        assert not len(self) or int(self.at[-1]) < self.end, "a vector is behind the last"
        assert PAGE * (len(self.pages) - 1) < self.end <= PAGE * len(self.pages) or not self.end, "a page is missing"

    def pack(self) -> dict[str, Any]:
        """Turn into a tree of tensors and numbers."""
        vectors = torch.stack([self.vectors(layer) for layer in range(self.layers)])
        at = {"at": self.at, "end": self.end}
        return {"vectors": vectors, "ids": self.ids, **at, "layers": self.layers, "width": self.width}

    @staticmethod
    def unpack(tree: dict[str, Any], spec: ModelSpec) -> VectorIndex:
        """Rebuild from ``pack``, with the same pages: sums over a page's blocks depend on where they lie."""
        index = VectorIndex.empty(tree["layers"], tree["width"], spec.device)
        index.ids, num = tree["ids"], len(tree["ids"])
        index.at, index.end = tree.get("at", torch.arange(num)), tree.get("end", num)  # earlier ones had no pages
        index.pages = tuple(index._page() for _ in range(-(-index.end // PAGE)))
        vectors, slot = tree["vectors"].to(spec.device), index.at % PAGE
        for number, page in enumerate(index.pages):
            own = index.at // PAGE == number
            page[:, slot[own].to(spec.device)] = vectors[:, own.to(spec.device)]
        return index


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

    chunk: int = 1  # neighbouring blocks that are retrieved together; no more than are looked up

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
        asked = folded_query(q, state.width // q.shape[-1])
        scores = [asked.new_empty(0), *(vectors @ asked for vectors in state.parts(layer))]
        return choose(state, torch.cat(scores), budget, self.chunk)

    def drop(self, state: VectorIndex, ids: Tensor) -> VectorIndex:
        """Forget blocks."""
        return state.drop(ids)


def choose(index: VectorIndex, scores: Tensor, budget: int, chunk: int = 1) -> Found:
    """Choose the best blocks of an index by their (B,) scores."""
    scores = scores.float().cpu()  # read back once
    places = best_chunks(scores, budget, chunk)
    return Found(index.ids[places], rescaled(scores)[places])


def mean_keys(block: Sealed) -> Tensor:
    """(L, G*D) fp32 mean keys of a block."""
    layers: Sequence[int] = range(len(block.offsets))
    means = [mean_key(block.layer(layer)[0]) for layer in layers]
    return torch.stack(means).nan_to_num_(0.0)
