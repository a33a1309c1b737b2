"""The sealed blocks of one stream, oldest first, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headrace.cache.disk import Disk
from headrace.cache.sealed import Sealed
from headrace.types import ModelSpec

ID, FIRST, STOP, LOW, HIGH = range(5)  # columns of ``Shelf.bounds``


@dataclass(frozen=True, slots=True)
class Limits:
    """How many blocks are kept, and where.

    Attributes:
        most: Blocks that are kept at all.
        in_memory: Blocks that are kept in memory, None for all; the others go to disk, or go.
        narrow: Blocks behind the window are kept in 8 bits.
    """

    most: int
    in_memory: int | None = None
    narrow: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """Blocks in the order of the stream. A value: verbs return the next shelf, and a reader keeps the one it opened.

    Attributes:
        blocks: B blocks.
        bounds: (B, 5) int64: name, first row, row behind the last, lowest and highest canonical id.
        next_id: Name of the next block; names are never used again.
        disk: Where blocks go that do not fit in memory, if anywhere; not part of what is saved.
    """

    blocks: tuple[Sealed, ...] = ()
    bounds: Tensor = field(default_factory=lambda: torch.empty(0, 5, dtype=torch.int64))
    next_id: int = 0
    disk: Disk | None = None

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
        return replace(
            self, blocks=(*self.blocks, block), bounds=torch.cat((self.bounds, row)), next_id=self.next_id + 1
        )

    def drop(self, ids: Tensor) -> Shelf:
        """Forget blocks by name; a fork that holds one keeps it."""
        kept = ~torch.isin(self.ids, ids)
        blocks = tuple(block for block, keep in zip(self.blocks, kept.tolist(), strict=True) if keep)
        return replace(self, blocks=blocks, bounds=self.bounds[kept])

    def find(self, ids: Tensor) -> Tensor:
        """(K,) int64 places of blocks by name.

        Raises:
            ValueError: There is no block of one of these names.
        """
        places = torch.searchsorted(self.ids.contiguous(), ids.contiguous())
        if bool((places >= len(self)).any()) or not torch.equal(self.ids[places], ids):
            raise ValueError(f"blocks: {ids.tolist()} are not all on the shelf")
        return places

    def take(self, places: Tensor) -> Sequence[Sealed]:
        """The blocks at some places."""
        return [self.blocks[place] for place in places.tolist()]

    def settled(self, limits: Limits, before: int) -> tuple[Shelf, Tensor]:
        """Move blocks that have left the window to where they belong, and forget what is beyond the bounds.

        From an accelerator they go to the host, in 8 bits if that is wanted; beyond ``in_memory`` to disk, the oldest
        first. A disk that is at its limit loses its oldest blocks; what a disk refuses altogether goes. Questions leave
        no trace in a stream, so age is all that is known of what a block is good for.

        Args:
            limits: The bounds.
            before: Blocks that end before this row have left the window.

        Returns:
            The next shelf, and the names of the blocks that are gone.
        """
        blocks = list(self.blocks)
        for place in range(int((self.bounds[:, STOP] <= before).sum()) - 1, -1, -1):
            block = blocks[place]
            if not block.in_memory or (block.is_narrow if limits.narrow else block.is_low):
                break
            block.lower()
            blocks[place] = block.narrowed() if limits.narrow else block
        kept = torch.ones(len(blocks), dtype=torch.bool)
        kept[: max(len(blocks) - limits.most, 0)] = False
        if limits.in_memory is not None:
            _file(blocks, kept, len(blocks) - limits.in_memory, self.disk)
        gone = self.ids[~kept]
        if not len(gone):
            return replace(self, blocks=tuple(blocks)), gone
        left = tuple(block for block, keep in zip(blocks, kept.tolist(), strict=True) if keep)
        return replace(self, blocks=left, bounds=self.bounds[kept]), gone

    def num_bytes(self) -> int:
        """Bytes of the blocks in memory."""
        return sum(block.held_bytes for block in self.blocks) + self.bounds.numel() * 8

    def disk_bytes(self) -> int:
        """Bytes of the blocks on disk."""
        return sum(block.filed_bytes for block in self.blocks)

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


def _file(blocks: Sequence[Sealed], kept: Tensor, num: int, disk: Disk | None) -> None:
    """Move the oldest ``num`` blocks to disk; in ``kept``, cross out those that it does not take or that make room."""
    first = num
    while first > 0 and blocks[first - 1].in_memory:
        first -= 1
    oldest, freed = 0, 0
    for place in range(first, num):
        while kept[place] and not (disk is not None and blocks[place].file(disk, freed)):
            while oldest < place and not kept[oldest]:
                oldest += 1
            if disk is None or disk.refused or oldest >= place:
                kept[place] = False
            else:
                kept[oldest] = False
                freed += blocks[oldest].filed_bytes
