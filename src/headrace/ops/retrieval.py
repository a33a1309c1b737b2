"""Which blocks of the past a query looks for: mean keys, folded queries, the best chunks.

Shape letters: `H` query heads, `G` key/value heads, `T` query rows, `R` rows of a block, `D` width, `B` blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_key(keys: Tensor) -> Tensor:
    """Describe a block by the mean of its un-rotated keys: (G, R, D) to (G*D,) fp32.

    Source: ReKV (arXiv 2503.00540), which repeats every key head for its query heads; ``folded_query`` adds up those
    query heads instead, so the products are the same and the vectors H/G times shorter.
    """
    return keys.float().mean(dim=1).flatten()


def folded_query(q: Tensor, kv_heads: int) -> Tensor:
    """Mean query of a question, the heads of one key head added up: (H, T, D) to (G*D,) fp32."""
    return q.float().mean(dim=1).view(kv_heads, -1, q.shape[-1]).sum(dim=1).flatten()


def best_chunks(scores: Tensor, budget: int, chunk: int = 1) -> Tensor:
    """Choose the best runs of ``chunk`` neighbouring blocks.

    A run is worth the mean of its scores; the last run may be short, so that fewer than ``budget`` blocks may come out,
    as in the released code. No run is longer than the budget, where the released code would choose nothing.

    Args:
        scores: (B,) worth of every block.
        budget: Blocks to choose, >= 0.
        chunk: Blocks per run, >= 1.

    Returns:
        (K,) int64 ascending places of the chosen blocks, K <= budget; all of them when they fit.
    """
    num = scores.shape[0]
    if num <= budget:
        return torch.arange(num)
    chunk = min(chunk, max(budget, 1))
    scores = scores.float().cpu()
    runs = torch.stack([part.mean() for part in scores.split(chunk)]) if chunk > 1 else scores
    best = torch.topk(runs, min(budget // chunk, runs.shape[0])).indices.sort().values
    places = (best[:, None] * chunk + torch.arange(chunk)).flatten()
    return places[places < num]


def rescaled(scores: Tensor) -> Tensor:
    """Put (B,) scores on a scale from 0 (the lowest) to 1 (the highest)."""
    scores = scores.float().cpu()
    low, high = (scores.min(), scores.max()) if scores.numel() else (scores.new_zeros(()), scores.new_zeros(()))
    return (scores - low) / (high - low).clamp(min=1e-12)
