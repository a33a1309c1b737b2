"""Attention of half-precision rows on a CPU as plain fp32 products, as many logits at a time as a core's cache holds.

torch's fused kernel for bf16 reaches a fifth of the matrix rate on a processor that has no matrix tiles. oneDNN's fp32
products take half of its time, and then nothing but the result is rounded to half precision: neither the logits nor
the weights. ``headrace bench attention`` compares the two.

Source: the softmax of FlashAttention (arXiv 2205.14135) with powers of two, cheaper here than powers of e; checked
against fp64 in the tests.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

LOGITS = 1 << 19  # at a time and thread: 2 MiB of fp32
KEYS = 2048  # at a time; more would leave too few rows for a product to be fast
CAUSAL_ROWS = 128  # at a time, where rows look at themselves: what lies behind a piece is not computed
FEWEST = 1 << 16  # logits; for fewer the one call of the fused kernel costs less


def pays(q: Tensor, num_keys: int) -> bool:
    """Tell whether products are the faster way: half precision, AVX-512 without matrix tiles, enough logits.

    Args:
        q: (H, T, D) queries.
        num_keys: Keys they look at.
    """
    half = q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)
    return half and q.shape[0] * q.shape[1] * num_keys >= FEWEST and _processor()


@cache
def _processor() -> bool:
    """With AVX2 both ways take equally long; with matrix tiles the fused kernel uses them."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or torch.cpu._is_amx_tile_supported():
        return False
    return bool(torch.backends.mkldnn.is_available())


@torch.no_grad()
def attend(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend to all keys.

    Args:
        q: (H, T, D).
        keys: (G, S, D).
        values: (G, S, D).
        scale: Factor on the logits.

    Returns:
        (H, T, D) fp32, not rounded yet, and the (H, T) fp32 log-sum-exp of the logits.
    """
    heads, rows, width = q.shape
    folded = _scaled(q, scale).reshape(keys.shape[0], -1, width)
    out, lse = torch.empty_like(folded), folded.new_empty(folded.shape[:2])
    step = max(1, LOGITS * torch.get_num_threads() // keys.shape[1])
    for g in range(keys.shape[0]):
        wide, turned = keys[g].float(), values[g].float().T
        for at in range(0, folded.shape[1], step):
            part = slice(at, at + step)
            out[g, part], lse[g, part] = _softmax(_product(folded[g, part], wide), turned)
    return out.view(heads, rows, width), lse.view(heads, rows)


@torch.no_grad()
def attend_causally(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend with row i to the keys up to i; as ``attend``, with as many keys as rows."""
    heads, rows, width = q.shape
    kv_heads, step = keys.shape[0], CAUSAL_ROWS
    folded = _scaled(q, scale).reshape(kv_heads, -1, rows, width)
    out, lse = torch.empty_like(folded), folded.new_empty(folded.shape[:3])
    hidden = folded.new_full((step, step), float("-inf")).triu_(1)
    for g in range(kv_heads):
        wide, turned = keys[g].float(), values[g].float().T
        for at in range(0, rows, step):
            piece = folded[g, :, at : at + step]
            num = piece.shape[1]
            logits = _product(piece.reshape(-1, width), wide[: at + num])
            logits.view(-1, num, at + num)[..., at:] += hidden[:num, :num]
            part, sums = _softmax(logits, turned[:, : at + num])
            out[g, :, at : at + num], lse[g, :, at : at + num] = part.view_as(piece), sums.view(-1, num)
    return out.view(heads, rows, width), lse.view(heads, rows)


def _scaled(q: Tensor, scale: float) -> Tensor:
    """Queries in fp32 whose logits are exponents of two."""
    return q.float() * (scale * math.log2(math.e))


def _softmax(logits: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """Weigh values: (M, S) exponents of two, which are overwritten, and (D, S) to (M, D) and (M,) log-sum-exp."""
    most = logits.amax(dim=-1, keepdim=True)
    logits -= most
    weights = torch.exp2(logits, out=logits)
    total = weights.sum(dim=-1, keepdim=True)
    return _product(weights, turned) / total, (most + total.log2()).squeeze(-1) * math.log(2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply (M, K) by (N, K) to (M, N) by oneDNN; ``matmul`` goes to a library that takes twice as long here."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")  # type: ignore[no-any-return]
