"""How useful blocks have been: how often, and how lately, they were looked up.

A block's coming counts one, every look-up counts the share of the layers that chose it, and what was counted halves
every ``HALVES`` blocks. So what is never looked up ages with the stream, and a look-up by all layers makes a block as
good as a new one; n of them at once keep it ``HALVES * log2(n)`` blocks longer. The logarithm of the count is kept with
the decay taken out of it: it changes when a block is looked up, and never with time.

Source: combined recency and frequency (LRFU, Lee et al., IEEE Transactions on Computers 50(12), 2001).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.cache.index import Found

HALVES = 256  # blocks


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """One look-up. A value.

    Attributes:
        clock: Name of the block that would have come next.
        ids: (K,) int64 ascending names of the blocks.
        share: (K,) float64 shares of the layers that chose them, in (0, 1].
    """

    clock: int
    ids: Tensor
    share: Tensor


def arrived(name: int) -> float:
    """Worth of a block that is new: a count of one, as of its own coming."""
    return name / HALVES


def counted(worth: Tensor, at: Tensor, looked: Looked) -> Tensor:
    """Count a look-up.

    Args:
        worth: (B,) float64 base-2 logarithms of the counts of all blocks, decay taken out.
        at: (K,) places of the blocks that were looked up.
        looked: The look-up.

    Returns:
        The next (B,) worth.
    """
    added = torch.log2(looked.share) + looked.clock / HALVES
    return worth.index_copy(0, at, torch.logaddexp2(worth[at], added))


def by_layers(found: Iterable[Found], num_blocks: int, num_layers: int, clock: int) -> tuple[Looked, ...]:
    """Add up what layers chose for one question or step.

    Args:
        found: What each layer chose.
        num_blocks: Blocks there were. Where all were taken nothing was chosen, and nothing counts.
        num_layers: L.
        clock: Name of the block that would have come next.

    Returns:
        The look-up, or nothing.
    """
    chosen = [x.ids for x in found if len(x.ids) < num_blocks]
    if not sum(map(len, chosen)):
        return ()
    ids, counts = torch.cat(chosen).unique(return_counts=True)
    return (Looked(clock, ids, counts.double() / num_layers),)
