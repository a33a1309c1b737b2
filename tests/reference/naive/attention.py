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
            seen = [column for column in range(keys.shape[1]) if bool(sees[row, column])]
            logits = torch.stack([torch.dot(q[head, row].double(), k[column]) * scale for column in seen])
            powers = torch.exp(logits - logits.max())
            share = powers / powers.sum()
            for column, weight in zip(seen, share, strict=True):
                weights[head, row, column] = weight
                out[head, row] += weight * v[column]
    return out, weights
