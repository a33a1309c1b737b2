"""Room of its own for what a stream keeps long: pages that go back to the system when it is let go.

An allocator keeps small and large, short-lived and long-lived things in one heap. Where a block leaves, the next step's
temporaries move in, and small things that stay keep the rest of the hole from being used: the heap of a stream that
seals and lets go of a block per frame grows for thousands of frames although it holds the same. What lies in pages of
its own leaves no hole.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

CPU = torch.device("cpu")
LEAST_BYTES = 1 << 14  # four pages; below, rounding up to whole ones costs more than a hole


def own_pages(shape: Sequence[int], dtype: torch.dtype, device: torch.device = CPU) -> Tensor:
    """Allocate a tensor whose memory is shared with nothing else and is given back with its last view.

    Pages that are never touched cost nothing. On an accelerator, and for what is small, this is ``torch.empty``.

    Args:
        shape: Its shape.
        dtype: Its type.
        device: Where it lies.

    Returns:
        A contiguous tensor; what is in it is undefined.
    """
    num_bytes = prod(shape) * dtype.itemsize
    if device.type != "cpu" or num_bytes < LEAST_BYTES:
        return torch.empty(shape, dtype=dtype, device=device)
    try:
        pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:  # a system counts mappings, and may have no more
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def own_copy(x: Tensor) -> Tensor:
    """Copy a tensor to memory of its own; see ``own_pages``."""
    return own_pages(x.shape, x.dtype, x.device).copy_(x)
