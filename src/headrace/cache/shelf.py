"""The sealed blocks of one stream, oldest first, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headrace.cache.sealed import Sealed
from headrace.types import ModelSpec

ID, FIRST, STOP, LOW, HIGH = range(5)  # columns of ``Shelf.bounds``


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """Blocks in the order of the stream. A value: verbs return the next shelf, and a reader keeps the one it opened.

    Attributes:
        blocks: B blocks.
        bounds: (B, 5) int64: name, first row, row behind the last, lowest and highest canonical id.
        next_id: Name of the next block; names are never used again.
    """

    blocks: tuple[Sealed, ...] = ()
    bounds: Tensor = field(default_factory=lambda: torch.empty(0, 5, dtype=torch.int64))
    next_id: int = 0

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def ids(self) -> Tensor:
        """(B,) int64 ascending names."""
        return self.bounds[:, ID]

    def add(self, block: Sealed) -> Shelf:
        """Put a block behind the others; it is called ``next_id``."""
        low, high = block.notes.ids.min(), block.notes.ids.max()
        row = torch.tensor([[self.next_id, block.first_row, block.stop_row, int(low), int(high)]])
        return Shelf((*self.blocks, block), torch.cat((self.bounds, row)), self.next_id + 1)

    def drop(self, ids: Tensor) -> Shelf:
        """Forget blocks by name; a fork that holds one keeps it."""
        kept = ~torch.isin(self.ids, ids)
        blocks = tuple(block for block, keep in zip(self.blocks, kept.tolist(), strict=True) if keep)
        return Shelf(blocks, self.bounds[kept], self.next_id)

    def find(self, ids: Tensor) -> Tensor:
        """(K,) int64 places of blocks by name.

        Raises:
            ValueError: There is no block of one of these names.
        """
        places = torch.searchsorted(self.ids.contiguous(), ids)
        if bool((places >= len(self)).any()) or not torch.equal(self.ids[places], ids):
            raise ValueError(f"blocks: {ids.tolist()} are not all on the shelf")
        return places

    def take(self, places: Tensor) -> Sequence[Sealed]:
        """The blocks at some places."""
        return [self.blocks[place] for place in places.tolist()]

    def num_bytes(self) -> int:
        """Bytes of the blocks in memory."""
        return sum(block.num_bytes() for block in self.blocks) + self.bounds.numel() * 8

    def fork(self) -> Shelf:
        """Return itself: it is never changed, and blocks are shared."""
        return self

    def check(self) -> None:
        """Assert that it is whole; tests call it after every write."""
        assert self.bounds.shape == (len(self.blocks), 5), "every block has its bounds"
        assert bool((self.ids.diff() > 0).all()), "names do not ascend"
        assert not len(self) or int(self.ids[-1]) < self.next_id, "a name would be used again"
        rows = self.bounds[:, FIRST : STOP + 1].flatten()
        assert bool((rows.diff() >= 0).all()), "blocks overlap"
        for block, bounds in zip(self.blocks, self.bounds.tolist(), strict=True):
            assert [block.first_row, block.stop_row] == bounds[FIRST : STOP + 1], "a block is not where it should be"
            block.check()

    def pack(self) -> dict[str, Any]:
        """Turn into a tree."""
        return {"blocks": self.blocks, "bounds": self.bounds, "next_id": self.next_id}

    @staticmethod
    def unpack(tree: dict[str, Any], spec: ModelSpec) -> Shelf:
        """Rebuild from ``pack``."""
        return Shelf(tree["blocks"], tree["bounds"], tree["next_id"])
