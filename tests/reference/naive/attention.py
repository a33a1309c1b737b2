"""One plain softmax in fp64, one query row at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(q: Tensor, keys: Tensor, values: Tensor, sees: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend (H, T, D) queries to (G, S, D) keys; ``sees`` is (T, S) bool.

    Returns:
        (H, T, D) outputs and (H, T, S) weights, in fp64.
    """
    heads, rows, width = q.shape
    repeat = heads // keys.shape[0]
    out = torch.zeros(heads, rows, width, dtype=torch.float64)
    weights = torch.zeros(heads, rows, keys.shape[1], dtype=torch.float64)
    for head in range(heads):
        k, v = keys[head // repeat].double(), values[head // repeat].double()
        for row in range(rows):
            seen = torch.nonzero(sees[row]).squeeze(1)
            logits = (k[seen] @ q[head, row].double()) * scale
            powers = torch.exp(logits - logits.max())
            share = powers / powers.sum()
            weights[head, row, seen] = share
            out[head, row] = share @ v[seen]
    return out, weights
