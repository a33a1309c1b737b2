"""Operators of Flash-VStream's first generation, whose memory is spatial, temporal, abstract and retrieved.

Paper: arXiv 2406.08085. Original: IVGSZ/Flash-VStream, folder Flash-VStream-LLaVA (Apache-2.0). The abstract memory
needs trained projections, which no released checkpoint of ours has; the temporal memory is ``cluster.weighted_kmeans``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.ops.cluster import nearest_rows


def update_abstract(memory: Tensor, new: Tensor, queries: Tensor, keys: Tensor, *, rate: float = 0.2) -> Tensor:
    """Mix new rows into the abstract memory: ``W = rate softmax(Q K^T / sqrt(H))``, ``M (1 - sum W) + W X``.

    Args:
        memory: (K, D) slots.
        new: (M, D) new rows, one per frame.
        queries: (K, H) projected slots.
        keys: (M, H) projected new rows.
        rate: Share of a slot that is replaced, 0..1.

    Returns:
        (K, D).

    Source: equation of the semantic attention model in section 3; as in the published code.
    """
    weights = torch.softmax(queries @ keys.T / queries.shape[1] ** 0.5, dim=-1) * rate
    return memory * (1 - weights.sum(1, keepdim=True)) + weights @ new


def key_frames(centroids: Tensor, weights: Tensor, bank: Tensor, num: int, *, rule: str = "paper") -> Tensor:
    """Choose the frames that show the heaviest clusters.

    Args:
        centroids: (K, D).
        weights: (K,).
        bank: (T, D) all frames, in order of time.
        num: How many clusters.
        rule: ``paper``: the frame nearest to each centroid; ``released``: the frame whose number is the cluster's, as
            the published code has it.

    Returns:
        (num,) int64 frames, heaviest cluster first, the earlier cluster on a tie.
    """
    heaviest = torch.argsort(weights, descending=True, stable=True)[:num]
    if rule == "released":
        return heaviest
    assert rule == "paper"
    return nearest_rows(centroids[heaviest], bank)
