"""Weighted k-means, the same on every machine: ties go to the first, nothing is drawn.

Source: Lloyd's algorithm as Flash-VStream uses it over time (arXiv 2406.08085, 2506.23825), where a row that stands for
several frames counts as often. Ours differs: distances are taken in fp64 without a root, and a cluster that loses all
its rows takes the row that fits worst elsewhere, where the original draws one at random or divides by zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """What k-means found.

    Attributes:
        centroids: (K, D) weighted means, in the type of the rows.
        weights: (K,) summed weights.
        labels: (M,) int64, the cluster of each row; no cluster is empty.
    """

    centroids: Tensor
    weights: Tensor
    labels: Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances of (M, D) to (K, D) rows: (M, K) fp64, never negative."""
    a, b = a.double(), b.double()
    cross = torch.addmm((a * a).sum(1)[:, None] + (b * b).sum(1), a, b.T, alpha=-2.0)
    return cross.clamp_(min=0.0)


def nearest_rows(points: Tensor, rows: Tensor) -> Tensor:
    """Find the row nearest to each of (K, D) points: (K,) int64.

    The mean of two rows is as far from the one as from the other, and rounding would choose; rows that are equally far
    up to a millionth of the rows' squared length are a tie, and the first of them is taken.
    """
    distances = squared_distances(points, rows)
    slack = 1e-5 * distances.amin(1, keepdim=True) + 1e-6 * rows.double().square().sum(1).mean()
    return (distances <= distances.amin(1, keepdim=True) + slack).int().argmax(1)


def weighted_kmeans(
    rows: Tensor, weights: Tensor, start: Tensor, *, max_iter: int = 10, tolerance: float = 1e-4
) -> Clusters:
    """Cluster rows that count with different weights.

    Args:
        rows: (M, D), M >= K.
        weights: (M,) > 0.
        start: (K, D) first centroids.
        max_iter: Most rounds, >= 1.
        tolerance: Stop when the centroids together moved by less.

    Returns:
        The clusters, in the order of ``start``.
    """
    assert len(rows) >= len(start) > 0 < max_iter
    centroids = start
    for _ in range(max_iter):
        labels = _assign(rows, centroids)
        moved = weighted_means(rows, weights, labels, len(start))
        shift = (moved - centroids).norm(dim=1).sum()
        centroids = moved
        if float(shift) < tolerance:
            break
    total = torch.zeros(len(start), dtype=weights.dtype, device=weights.device).index_add_(0, labels, weights)
    return Clusters(centroids, total, labels)


def weighted_means(rows: Tensor, weights: Tensor, labels: Tensor, num: int) -> Tensor:
    """Average (M, ...) rows per label: (num, ...) in the type of the rows; every label must occur."""
    share = (
        weights.double()
        / torch.zeros(num, dtype=torch.float64, device=rows.device).index_add_(0, labels, weights.double())[labels]
    )
    flat = rows.flatten(1)
    mix = torch.zeros(num, len(rows), dtype=torch.float64, device=rows.device)
    mix[labels, torch.arange(len(rows), device=rows.device)] = share
    return (mix @ flat.double()).to(rows.dtype).view(num, *rows.shape[1:])


def _assign(rows: Tensor, centroids: Tensor) -> Tensor:
    """Give each row its nearest centroid; a centroid without rows takes the one that is farthest from its own."""
    distances = squared_distances(rows, centroids)
    nearest, labels = distances.min(dim=1)
    counts = torch.bincount(labels, minlength=len(centroids))
    for empty in torch.nonzero(counts == 0).squeeze(1).tolist():
        spare = counts[labels] > 1
        worst = int(torch.where(spare, nearest, -1.0).argmax())
        counts[labels[worst]] -= 1
        labels[worst], counts[empty], nearest[worst] = empty, 1, 0.0
    return labels


def first_of_each(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Find equal rows.

    Returns:
        (U,) int64 ascending indices of the first of each different row, and (M,) int64 which of these each row equals.
    """
    _, same = torch.unique(rows.flatten(1), dim=0, return_inverse=True)
    first = torch.full((int(same.max()) + 1,), len(rows), dtype=torch.int64, device=rows.device)
    first.scatter_reduce_(0, same, torch.arange(len(rows), device=rows.device), "amin")
    order = torch.argsort(first)
    return first[order], torch.argsort(order)[same]


def spread(rows: Tensor, num: int) -> Tensor:
    """Choose rows that lie far apart: the first, then always the one farthest from those chosen.

    Args:
        rows: (M, D), M >= num.
        num: How many, >= 1.

    Returns:
        (num,) int64 ascending indices.
    """
    distances = squared_distances(rows, rows)
    chosen = [0]
    left = distances[0].clone()
    while len(chosen) < num:
        left[chosen[-1]] = -1.0
        chosen.append(int(left.argmax()))
        left = torch.minimum(left, distances[chosen[-1]])
    return torch.tensor(sorted(chosen), dtype=torch.int64, device=rows.device)
