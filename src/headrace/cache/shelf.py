"""The sealed blocks of one stream, oldest first, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headrace.cache.disk import Disk
from headrace.cache.near import Near
from headrace.cache.sealed import Sealed
from headrace.cache.uses import HALVES, Looked, arrived, counted
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
        worth: (B,) float64 how useful each has been; see ``cache/uses.py``.
        disk: Where blocks go that do not fit in memory, if anywhere; not part of what is saved.
        near: Copies of blocks where the decoder runs; not part of what is saved.
    """

    blocks: tuple[Sealed, ...] = ()
    bounds: Tensor = field(default_factory=lambda: torch.empty(0, 5, dtype=torch.int64))
    next_id: int = 0
    worth: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    disk: Disk | None = None
    near: Near = field(default_factory=Near)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def ids(self) -> Tensor:
        """(B,) int64 ascending names."""
        return self.bounds[:, ID]

    def add(self, block: Sealed) -> Shelf:
        """Put a block behind the others; it is called ``next_id``."""
        low, high = block.notes.ids.min(), block.notes.ids.max()
        row = (self.next_id, block.first_row, block.stop_row, int(low), int(high))
        new = torch.tensor([arrived(self.next_id)], dtype=torch.float64)
        return replace(
            self,
            blocks=(*self.blocks, block),
            bounds=torch.cat((self.bounds, torch.tensor([row], dtype=torch.int64))),
            next_id=self.next_id + 1,
            worth=torch.cat((self.worth, new)),
        )

    def drop(self, ids: Tensor) -> Shelf:
        """Forget blocks by name; a fork that holds one keeps it."""
        return self._only(self.blocks, ~torch.isin(self.ids, ids))

    def _only(self, blocks: Sequence[Sealed], kept: Tensor) -> Shelf:
        """The shelf with those of its blocks, wherever they lie by now, that are marked in (B,) bool ``kept``."""
        if bool(kept.all()):
            return replace(self, blocks=tuple(blocks))
        left = tuple(block for block, keep in zip(blocks, kept.tolist(), strict=True) if keep)
        return replace(self, blocks=left, bounds=self.bounds[kept], worth=self.worth[kept])

    def looked_up(self, looks: Sequence[Looked]) -> Shelf:
        """Count look-ups, in their order; blocks that are gone by now do not count."""
        worth = self.worth
        for look in looks:
            there = torch.isin(look.ids, self.ids)
            look = Looked(look.clock, look.ids[there], look.share[there])
            worth = counted(worth, self.find(look.ids), look)
        return replace(self, worth=worth)

    def find(self, ids: Tensor) -> Tensor:
        """(K,) int64 places of blocks by name.

        Raises:
            ValueError: There is no block of one of these names.
        """
        places = torch.searchsorted(self.ids.contiguous(), ids.contiguous())
        if bool((places >= len(self)).any()) or not torch.equal(self.ids[places], ids):
            raise ValueError(f"blocks: {ids.tolist()} are not all on the shelf")
        return places

    def holds(self, rows: Tensor) -> Tensor:
        """(K,) bool: which rows, by int64 arrival number, lie in one of the blocks."""
        if not len(self):
            return torch.zeros(len(rows), dtype=torch.bool)
        place = torch.searchsorted(self.bounds[:, FIRST].contiguous(), rows, right=True) - 1
        return (place >= 0) & (rows < self.bounds[:, STOP][place.clamp(min=0)])

    def take(self, places: Tensor) -> Sequence[Sealed]:
        """The blocks at some places."""
        return [self.blocks[place] for place in places.tolist()]

    def settled(self, limits: Limits, before: int) -> tuple[Shelf, Tensor]:
        """Move blocks that have left the window to where they belong, and forget what is beyond the bounds.

        From an accelerator they go to the host, in 8 bits if that is wanted; beyond ``in_memory`` to disk, the oldest
        first. A disk that is at its limit loses the least useful blocks, of equal ones the oldest; what a disk refuses
        altogether goes. Beyond ``most`` the oldest go: that is how far back the past reaches.

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
            _file(blocks, kept, len(blocks) - limits.in_memory, self)
        return self._only(blocks, kept), self.ids[~kept]

    def num_bytes(self) -> int:
        """Bytes of the blocks in memory."""
        return sum(block.held_bytes for block in self.blocks) + (self.bounds.numel() + len(self)) * 8

    def disk_bytes(self) -> int:
        """Bytes of the blocks on disk."""
        return sum(block.filed_bytes for block in self.blocks)

    def fork(self) -> Shelf:
        """Return itself: it is never changed, and blocks are shared."""
        return self

    def check(self) -> None:
        """Assert that it is whole; tests call it after every write."""
        assert self.bounds.shape == (len(self.blocks), 5), "every block has its bounds"
        assert self.worth.shape == (len(self.blocks),), "every block has its worth"
        assert bool((self.worth >= self.ids / HALVES).all()), "a block is worth less than when it came"
        assert bool((self.ids.diff() > 0).all()), "names do not ascend"
        assert not len(self) or int(self.ids[-1]) < self.next_id, "a name would be used again"
        rows = self.bounds[:, FIRST : STOP + 1].flatten()
        assert bool((rows.diff() >= 0).all()), "blocks overlap"
        for block, bounds in zip(self.blocks, self.bounds.tolist(), strict=True):
            assert [block.first_row, block.stop_row] == bounds[FIRST : STOP + 1], "a block is not where it should be"
            block.check()

    def pack(self) -> dict[str, Any]:
        """Turn into a tree."""
        return {"blocks": self.blocks, "bounds": self.bounds, "next_id": self.next_id, "worth": self.worth}

    @staticmethod
    def unpack(tree: dict[str, Any], spec: ModelSpec) -> Shelf:
        """Rebuild from ``pack``; a stream that was saved before uses were counted begins to count."""
        bounds, worth = tree["bounds"], tree.get("worth")
        return Shelf(tree["blocks"], bounds, tree["next_id"], bounds[:, ID] / HALVES if worth is None else worth)


def _file(blocks: Sequence[Sealed], kept: Tensor, num: int, shelf: Shelf) -> None:
    """Move the oldest ``num`` blocks to disk; in ``kept``, cross out those for which there is no room.

    What counts is what this shelf has there, not what is there: files that only a fork or an open question still holds
    must not decide what a stream forgets.
    """
    disk, num = shelf.disk, max(num, 0)
    if disk is None:
        kept[:num] = False
    elif disk.limit_bytes is not None:
        sizes = torch.tensor([block.num_bytes for block in blocks[:num]], dtype=torch.int64)
        kept[:num] &= sizes <= disk.limit_bytes
        total = int(sizes[kept[:num]].sum())
        for place in torch.argsort(shelf.worth[:num], stable=True).tolist() if total > disk.limit_bytes else ():
            if kept[place] and total > disk.limit_bytes:
                kept[place] = False
                total -= blocks[place].num_bytes
    for place, block in enumerate(blocks[:num]):
        if block.in_memory and kept[place] and not (disk is not None and block.file(disk)):
            kept[place] = False
