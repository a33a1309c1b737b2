"""Copies of blocks where the decoder runs, kept from step to step: looking up what was looked up costs no transfer.

Speed only. What comes out is what would be copied afresh, so nothing hangs on how many are kept, and nothing of it is
saved. Streams that fork share it, and any thread may ask.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from headrace.cache.sealed import Sealed

Copies = tuple[Tensor, Tensor]


class Near:
    """Per layer the blocks that were wanted last. A copy goes with its block, wherever the block was held.

    Source: InfLLM (arXiv 2402.04617), its cache of blocks on the GPU with the strategy ``lru``. Ours keeps each layer's
    keys and values and not slots of a buffer; ``lru-s``, which adds up attention, would cost a product per step.

    Attributes:
        hits: Copies that were there.
        misses: Copies that had to be made.
    """

    def __init__(self) -> None:
        self._layers: dict[int, WeakKeyDictionary[Sealed, Copies]] = {}
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def bring(self, layer: int, blocks: Sequence[Sealed], device: torch.device, most: int) -> list[Copies]:
        """Read one layer of some blocks.

        Args:
            layer: Decoder layer.
            blocks: What is wanted, each once.
            device: Where it is wanted.
            most: Copies to keep in this layer, >= 0; those that were wanted longest ago go.

        Returns:
            (G, R_l, D) keys and values per block, on the device: the block itself where it lies there as it is.
        """
        for block in blocks:
            block.fetch(layer)
        with self._lock:
            known = self._layers.setdefault(layer, WeakKeyDictionary())
            found = [known.pop(block, None) for block in blocks]
        out = []
        for block, copies in zip(blocks, found, strict=True):
            if copies is None or copies[0].device != device:
                keys, values = block.layer(layer)
                copies = (keys.to(device, non_blocking=True), values.to(device, non_blocking=True))
            out.append(copies)
        with self._lock:
            for block, copies, before in zip(blocks, out, found, strict=True):
                if block.is_narrow or not block.lies_on(device):
                    self.hits, self.misses = self.hits + (copies is before), self.misses + (copies is not before)
                    known[block] = copies
            for block in list(known)[: max(len(known) - most, 0)]:
                known.pop(block, None)
        return out

    def num_bytes(self) -> int:
        """Bytes of all copies."""
        with self._lock:
            copies = [x for known in self._layers.values() for pair in list(known.values()) for x in pair]
        return sum(x.numel() * x.itemsize for x in copies)
