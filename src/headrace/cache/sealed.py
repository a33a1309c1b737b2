"""A sealed block: the rows of a frame (or a turn) in every layer, never changed again, wherever it lies.

Layers may hold different rows of it. Its keys and values lie behind each other in one flat tensor, layer by layer, so
that it can be moved, written to disk and read back layer by layer. Streams that fork share it; it goes with its last
holder.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from headrace.cache.disk import WANTED, Disk, File, advise
from headrace.cache.pages import own_copy, own_pages
from headrace.cache.store import KVCache
from headrace.cache.table import RowView
from headrace.cache.written import Written
from headrace.ops.narrow import narrow, widen
from headrace.types import LayerSpan, ModelSpec, Segment

_COLUMNS, _PARTS = ("kind", "frame", "time_s", "ids"), ("flat", "scales")


@lru_cache(maxsize=64)
def _all_of(num: int) -> Tensor:
    """(R,) the rows of a block that has all of them, shared by all blocks of that length."""
    return torch.arange(num)


class Held:
    """The tensors of a block while somebody reads them."""

    __slots__ = ("__weakref__", "_filed", "parts", "told")

    def __init__(self, parts: tuple[Tensor, ...], *, filed: bool = False) -> None:
        self.parts = parts
        self._filed = filed
        self.told = -1  # the layer that was said to be wanted last

    def ahead(self, start: int, stop: int) -> None:
        """Say that the bytes ``start..stop`` of the file will be wanted; does not wait for them."""
        if self._filed:
            advise(self.parts[0], start, stop, WANTED)


class Sealed:
    """Keys and values of R rows over all layers, un-rotated, with what is known of the rows.

    Its content never changes; where it lies may, for all its holders at once.

    Args:
        first_row: Arrival number of its first row.
        notes: What is known of its R rows; keeps their part of a stream's table alive.
        offsets: Per layer (R_l,) int64 ascending, which of the rows it has.
        parts: The keys and values of all layers, (2, G, R_l, D) of one behind that of the other, in one flat tensor; or
            in 8 bits: the flat codes, and the flat scales, per layer (G, D) for keys and (G, R_l) for values.
        heads: G and D.
        dtype: Type of keys and values.

    Attributes:
        num_bytes: Bytes of its keys and values, wherever they lie.
        held_bytes: Bytes of it in memory.
        filed_bytes: Bytes of it in its file.
    """

    __slots__ = (
        "__weakref__",
        "_checked",
        "_file",
        "_held",
        "_key",
        "_narrow",
        "_open",
        "_starts",
        "dtype",
        "filed_bytes",
        "first_row",
        "heads",
        "held_bytes",
        "is_narrow",
        "notes",
        "num_bytes",
        "offsets",
    )

    def __init__(
        self,
        first_row: int,
        notes: RowView,
        offsets: tuple[Tensor, ...],
        parts: tuple[Tensor, ...],
        heads: tuple[int, int],
        dtype: torch.dtype,
    ) -> None:
        self.first_row = first_row
        self.notes = notes
        self.offsets = offsets
        self.heads = heads
        self.dtype = dtype
        self._held: Held | None = Held(parts)
        self._open: weakref.ref[Held] | None = None
        self._file: File | None = None
        self._narrow: Sealed | None = None
        self._key = ""
        self._checked = False
        self._starts = [0]
        for x in offsets:
            self._starts.append(self._starts[-1] + 2 * heads[0] * heads[1] * x.shape[0])
        self.is_narrow = len(parts) == 2
        self.num_bytes = sum(x.numel() * x.itemsize for x in parts)
        self.filed_bytes = 0
        self.held_bytes = self.num_bytes + self._notes_bytes()

    def _notes_bytes(self) -> int:
        own = {id(x): x.numel() * 8 for x in self.offsets if x is not _all_of(len(self))}
        return self.notes.num_bytes() + sum(own.values())

    @staticmethod
    def seal(layers: Sequence[LayerSpan], notes: RowView, start: int) -> Sealed:
        """Copy rows of a span.

        Args:
            layers: Keys and values per layer.
            notes: What is known of the rows, with canonical ids, as it stands in the stream's table.
            start: First row of the block in the span.
        """
        parts, stop = [], start + len(notes)
        for layer in layers:
            low, high = (int(torch.searchsorted(layer.rows, row)) for row in (start, stop))
            rows = layer.rows[low:high] - start
            parts.append(LayerSpan(layer.keys[:, low:high], layer.values[:, low:high], None, rows))
        return Sealed._of(parts, notes)

    @staticmethod
    def gather(cache: KVCache, start: int, stop: int) -> Sealed:
        """Copy the rows ``start..stop`` (arrival numbers) out of a cache that holds them."""
        layers = []
        for layer in range(cache.spec.layers):
            parts = [run.within(start, stop) for run in cache.runs(layer)]
            parts = [run for run in parts if len(run)] or parts[:1]
            keys, values = (torch.cat([getattr(run, side) for run in parts], 1) for side in ("keys", "values"))
            layers.append(LayerSpan(keys, values, None, torch.cat([run.rows for run in parts]) - start))
        return Sealed._of(layers, cache.table.view().within(start, stop))

    @staticmethod
    def _of(layers: Sequence[LayerSpan], notes: RowView) -> Sealed:
        """Put the rows of all layers behind each other."""
        kv_heads, _, width = layers[0].keys.shape
        num, like = sum(2 * layer.keys.numel() for layer in layers), layers[0].keys
        flat, at, offsets = own_pages((num,), like.dtype, like.device), 0, []
        for layer in layers:
            offsets.append(_all_of(len(notes)) if len(layer.rows) == len(notes) else layer.rows.clone())
            for x in (layer.keys, layer.values):
                flat[at : at + x.numel()].view(x.shape).copy_(x)
                at += x.numel()
        return Sealed(notes.first, notes, tuple(offsets), (flat,), (kv_heads, width), flat.dtype)

    def __len__(self) -> int:
        return len(self.notes)

    @property
    def stop_row(self) -> int:
        """Arrival number behind its last row."""
        return self.first_row + len(self)

    def open(self) -> Held:
        """Its tensors, mapped from its file where it has one; keep what this returns while layers are read."""
        if self._held is not None:
            return self._held
        held = self._open() if self._open is not None else None
        if held is None:
            assert self._file is not None, "a block lies in memory or in a file"
            held = Held(self._file.open(), filed=True)
            self._open = weakref.ref(held)
        return held

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """(G, R_l, D) keys and values of one layer: views, or widened copies of what is kept in 8 bits."""
        self.fetch(layer)
        parts, (kv_heads, width) = self.open().parts, self.heads
        start, stop = self._starts[layer], self._starts[layer + 1]
        keys, values = parts[0][start:stop].view(2, kv_heads, -1, width)
        if len(parts) == 1:
            return keys, values
        at = start // (2 * width) + layer * kv_heads * width
        by_key = parts[1][at : at + kv_heads * width].view(kv_heads, 1, width)
        by_value = parts[1][at + kv_heads * width :][: kv_heads * keys.shape[1]].view(kv_heads, -1, 1)
        return widen(keys, by_key, self.dtype), widen(values, by_value, self.dtype)

    def fetch(self, layer: int) -> None:
        """Have the system begin to read one layer of it, where it lies in a file; it does not wait for that."""
        if self._held is not None:
            return
        held, (kv_heads, width) = self.open(), self.heads
        if held.told == layer:
            return
        held.told = layer
        start, stop = self._starts[layer], self._starts[layer + 1]
        size = held.parts[0].itemsize
        held.ahead(start * size, stop * size)
        if len(held.parts) == 2:
            codes, more = held.parts[0].numel(), held.parts[1].itemsize
            first, last = (x // (2 * width) + n * kv_heads * width for x, n in ((start, layer), (stop, layer + 1)))
            held.ahead(codes + first * more, codes + last * more)

    @property
    def in_memory(self) -> bool:
        """It lies in memory, not in a file."""
        return self._held is not None

    @property
    def is_low(self) -> bool:
        """It does not lie on an accelerator."""
        return self._held is None or self._held.parts[0].device.type == "cpu"

    def lies_on(self, device: torch.device) -> bool:
        """It can be read on a device as it lies; a file can be read on the host."""
        return device.type == "cpu" if self._held is None else self._held.parts[0].device == device

    def file(self, disk: Disk) -> bool:
        """Move it to a file, for all its holders; False where the disk does not take it."""
        if self._held is None:
            return True
        if (file := disk.write(self._held.parts)) is None:
            return False
        self._file, self.filed_bytes = file, file.num_bytes
        self._held, self.held_bytes, self._checked = None, self._notes_bytes(), False
        return True

    def lower(self) -> None:
        """Move it from an accelerator to the host, in pages it can be fetched from directly; nothing on a CPU."""
        if self._held is None or self.is_low:
            return
        parts = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in self._held.parts]
        for host, x in zip(parts, self._held.parts, strict=True):
            host.copy_(x)
        self._held, self._checked = Held(tuple(parts)), False

    def narrowed(self) -> Sealed:
        """The same block in 8 bits; made once, so that forks share it."""
        if self.is_narrow:
            return self
        if self._narrow is None:
            codes, scales = [], []
            for layer in range(len(self.offsets)):
                for x, axis in zip(self.layer(layer), (1, 2), strict=True):
                    code, scale = narrow(x, axis)
                    codes.append(code.flatten())
                    scales.append(scale.flatten())
            parts = (own_copy(torch.cat(codes)), own_copy(torch.cat(scales)))
            self._narrow = Sealed(self.first_row, self.notes, self.offsets, parts, self.heads, self.dtype)
        return self._narrow

    @property
    def key(self) -> str:
        """What it is called in a saved stream: a hash of its content, so that forks agree on it."""
        if not self._key:
            digest = hashlib.blake2b(f"{self.first_row} {self.heads} {self.dtype}".encode(), digest_size=16)
            notes = (self.notes.kind, self.notes.frame, self.notes.time_s, self.notes.ids)
            for x in (*notes, *self.offsets, *self._whole()):
                digest.update(x.detach().cpu().contiguous().view(torch.uint8).flatten().numpy().tobytes())
            self._key = digest.hexdigest()
        return self._key

    def fork(self) -> Sealed:
        """Return itself: it is never changed, so streams may share it."""
        return self

    def check(self) -> None:
        """Assert that it is whole: once where it lies, since nothing of it changes there."""
        if self._checked:
            return
        parts = self.open().parts
        assert parts[0].numel() == self._starts[-1], "a block's keys and values do not fit its rows"
        num = sum(self.heads[0] * (self.heads[1] + len(x)) for x in self.offsets)
        assert len(parts) == 1 or parts[1].numel() == num, "a block's scales do not fit its rows"
        for offsets in self.offsets:
            assert bool((offsets.diff() > 0).all()), "a block's rows do not ascend"
            assert not len(offsets) or (int(offsets[0]) >= 0 and int(offsets[-1]) < len(self)), "a row is unknown"
        self._checked = True

    def pack(self) -> dict[str, Any]:
        """Turn into a tree; all of its rows are written for good."""
        whole = len(self)
        return {
            "first_row": self.first_row,
            "heads": self.heads,
            "offsets": tuple(None if len(x) == whole else x for x in self.offsets),
            "host": self.is_low,
            "rows": Written({}, owner=self, read=self._named),
        }

    def _whole(self) -> tuple[Tensor, ...]:
        """Its tensors, all of which will be read."""
        held = self.open()
        held.ahead(0, self.num_bytes)
        return held.parts

    def _named(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        notes = {name: getattr(self.notes, name) for name in _COLUMNS}
        return notes | dict(zip(_PARTS, self._whole(), strict=False))

    @staticmethod
    def unpack(tree: dict[str, Any], spec: ModelSpec) -> Sealed:
        """Rebuild from ``pack``."""
        rows = tree["rows"]
        notes = RowView.alone(tree["first_row"], *(rows.tensors[name] for name in _COLUMNS))
        parts = tuple(rows.tensors[name] for name in _PARTS if name in rows.tensors)
        parts = parts if tree["host"] else tuple(part.to(spec.device) for part in parts)
        offsets = tuple(_all_of(len(notes)) if x is None else x for x in tree["offsets"])
        block = Sealed(tree["first_row"], notes, offsets, parts, tuple(tree["heads"]), spec.dtype)
        rows.taken_by(block)
        return block


def cut_blocks(segment: Segment, skip: int, most: int) -> list[tuple[int, int]]:
    """Cut a segment into blocks: the rows of one frame each, delimiters before it and newlines behind it included.

    Args:
        segment: T rows.
        skip: Rows at the front that belong to no block.
        most: Longest block, in rows; what is longer is cut again.

    Returns:
        Start and stop of every block, ascending and without gaps from ``skip`` to T.
    """
    cuts = [skip, *(row for row in frame_ends(segment).unique().tolist() if row > skip)]
    blocks = []
    for start, stop in pairwise(cuts):
        blocks += [(at, min(at + most, stop)) for at in range(start, stop, most)]
    return blocks


def around_rows(spec: ModelSpec) -> int:
    """Most rows a frame has beside its tokens: delimiters, timestamp, newline, what opens a clip again after a turn."""
    return max(16, spec.around_rows)


def frame_rows(spec: ModelSpec) -> int:
    """Most rows of one frame, what stands around its tokens included; the longest block that is cut for frames."""
    return spec.grid[0] * spec.grid[1] + around_rows(spec)


def frame_ends(segment: Segment) -> Tensor:
    """(T,) int64: the row behind the last one of the frame each row belongs to.

    Text between two frames goes with the one behind it, text behind the last frame with that.
    """
    num, shown = len(segment), torch.nonzero(segment.frame >= 0).squeeze(1)
    if not len(shown):
        return torch.full((num,), num, dtype=torch.int64)
    nearest = torch.searchsorted(shown, torch.arange(num)).clamp(max=len(shown) - 1)
    frame = segment.frame[shown[nearest]]
    ends = torch.cat((torch.nonzero(frame[1:] != frame[:-1]).squeeze(1) + 1, torch.tensor([num], dtype=torch.int64)))
    return ends[torch.searchsorted(ends, torch.arange(num), right=True)]
