"""Attention over several groups of keys as if they were one.

Each group is attended on its own, by the fused kernel or by plain products (``ops/blocked.py``), whichever is faster;
the log-sum-exp of its logits says how much of one joint softmax it is worth. So the past is never concatenated or
masked, and grouped query heads cost no copy of the keys.

Source: the identity behind FlashAttention (arXiv 2205.14135); checked against one plain softmax in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.ops import blocked

ALIGNED = 16  # bytes a row must be a multiple of for an accelerator's kernels
_EFFICIENT = torch.ops.aten._scaled_dot_product_efficient_attention.default
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention.default
_FLASHLESS: set[torch.device] = set()  # devices on which the flash kernel has refused to work


@dataclass(frozen=True, slots=True, eq=False)
class KeyGroup:
    """Keys and values that are attended together.

    Attributes:
        keys: (G, S, D), rotated.
        values: (G, S, D).
        mask: (T, S) bool, True where a query may look, or (H, T, S) where every query head has keys of its own; None
            when every query sees all.
        causal: The S rows are the T queries themselves: row i sees rows up to i.
        q: (H, T, D) the queries as they stand to these keys, where that is another rotation than to the others.
        known: Outputs and log-sum-exps of a causal group that has been attended already.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None
    causal: bool = False
    q: Tensor | None = None
    known: tuple[Tensor, Tensor] | None = None


def causal_attention(q: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attend rows to themselves: row i sees rows up to i.

    Args:
        q: (H, T, D) queries.
        keys: (G, T, D).
        values: (G, T, D).
        scale: Factor on the logits.

    Returns:
        (H, T, D) outputs, perhaps not rounded yet, and (H, T) fp32 log-sum-exp of the logits, for a group's ``known``.
    """
    return _attend(q, KeyGroup(keys, values, causal=True), scale, None)


def joint_attention(q: Tensor, groups: Sequence[KeyGroup], *, scale: float, products: bool | None = None) -> Tensor:
    """Attend to all groups under one softmax.

    Args:
        q: (H, T, D) queries, rotated like the keys (a group may bring its own).
        groups: At least one; every query sees at least one key of one group.
        scale: Factor on the logits.
        products: Attend by plain products, or by the fused kernel; None takes the faster one, group by group.

    Returns:
        (H, T, D) in the type of ``q``.
    """
    return joint_attention_lse(q, groups, scale=scale, products=products)[0]


def joint_attention_lse(
    q: Tensor, groups: Sequence[KeyGroup], *, scale: float, products: bool | None = None
) -> tuple[Tensor, Tensor]:
    """Attend as ``joint_attention``; also returns the (H, T) log-sum-exp over all groups, for ``key_mass``."""
    parts = [_attend(q, piece, scale, products) for group in groups for piece in _pieces(q, group, products)]
    out, lse = parts[0]
    for more, weight in parts[1:]:
        ahead = weight - lse
        if len(parts) > 2:
            ahead = ahead.nan_to_num(0.0)  # -inf both: a query that sees nothing yet
        share = torch.sigmoid(ahead).unsqueeze(-1)
        wide = torch.promote_types(out.dtype, share.dtype)
        out, lse = torch.lerp(out.to(wide), more.to(wide), share.to(wide)), torch.logaddexp(lse, weight)
    return out.to(q.dtype), lse


def key_mass(q: Tensor, group: KeyGroup, lse: Tensor, *, scale: float) -> Tensor:
    """Add up the attention every key of a group gets under a joint softmax that has been taken already.

    Args:
        q: (H, T, D) queries, rotated like the keys (the group may bring its own).
        group: Keys, with mask.
        lse: (H, T) log-sum-exp of the joint softmax.
        scale: Factor on the logits.

    Returns:
        (H, S) fp32, the sum over the queries.
    """
    q = q if group.q is None else group.q
    heads, rows, width = q.shape
    kv_heads, num = group.keys.shape[:2]
    folded = q.reshape(kv_heads, heads // kv_heads * rows, width)
    logits = ((folded @ group.keys.transpose(-1, -2)).float() * scale).view(heads, rows, num)
    mask = group.mask
    if group.causal:
        mask = torch.ones(rows, num, dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return torch.exp(logits - lse.unsqueeze(-1)).sum(dim=1)


def _by_products(q: Tensor, group: KeyGroup, wanted: bool | None) -> bool:
    """Choose the way a group is attended; masks are for neither of the two."""
    if group.mask is not None:
        return False
    return blocked.pays(q, min(group.keys.shape[1], blocked.KEYS)) if wanted is None else wanted


def _pieces(q: Tensor, group: KeyGroup, products: bool | None) -> list[KeyGroup]:
    """Cut a group to as many keys as plain products take at a time; an empty one has no pieces."""
    num = group.keys.shape[1]
    if num <= blocked.KEYS or group.causal or not _by_products(q, group, products):
        return [group] if num else []
    pairs = zip(group.keys.split(blocked.KEYS, 1), group.values.split(blocked.KEYS, 1), strict=True)
    return [KeyGroup(keys, values, q=group.q) for keys, values in pairs]


def _attend(q: Tensor, group: KeyGroup, scale: float, products: bool | None) -> tuple[Tensor, Tensor]:
    """Attend to one group: (H, T, D) outputs, perhaps not rounded yet, and (H, T) fp32 log-sum-exp of the logits."""
    if group.causal and group.known is not None:
        return group.known
    q = q if group.q is None else group.q
    heads, rows, width = q.shape
    if _by_products(q, group, products):
        work = blocked.attend_causally if group.causal and rows > 1 else blocked.attend
        return work(q, group.keys, group.values, scale)
    kv_heads = group.keys.shape[0]
    repeat = heads // kv_heads
    if group.causal and rows > 1:
        keys, values = (x.repeat_interleave(repeat, dim=0) if repeat > 1 else x for x in (group.keys, group.values))
        out, lse = _kernel(q[None], keys[None], values[None], scale, causal=True)
        return out[0], lse[0]
    folded = q.reshape(1, kv_heads, repeat * rows, width)
    mask = None if group.mask is None else _folded(group.mask, repeat)
    out, lse = _kernel(folded, group.keys[None], group.values[None], scale, mask=mask)
    return out.reshape(heads, rows, width), lse.reshape(heads, rows)


def _kernel(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Run the fused kernel that also returns the log-sum-exp, or plain maths where there is none."""
    if mask is not None or q.dtype == torch.float64:
        return plain_attention(q, k, v, scale, mask=mask, causal=causal)
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
        return out, lse
    if q.shape[-1] * q.itemsize % ALIGNED:
        return plain_attention(q, k, v, scale, causal=causal)
    if q.dtype != torch.float32 and q.device not in _FLASHLESS:  # it splits a long past among the whole device
        try:
            out, lse, *_ = _FLASH(q, k, v, 0.0, causal, scale=scale)
            return out, lse
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # an older device, or wide heads; NotImplementedError is one, too
            _FLASHLESS.add(q.device)
    try:
        out, lse, *_ = _EFFICIENT(q, k, v, None, True, 0.0, causal, scale=scale)
    except NotImplementedError:  # an accelerator without this kernel
        return plain_attention(q, k, v, scale, causal=causal)
    return out, lse[..., : q.shape[2]]


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend with plain maths in fp32 (fp64 stays).

    Args:
        q: (B, H, T, D).
        k: (B, H, S, D).
        v: (B, H, S, D).
        scale: Factor on the logits.
        mask: (T, S) bool, True where a query may look.
        causal: Row i sees keys up to i (T = S).

    Returns:
        (B, H, T, D) in the type of ``q`` and the (B, H, T) log-sum-exp; a query that sees nothing has output 0 and
        log-sum-exp -inf.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    logits = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale
    if causal:
        mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    lse = torch.logsumexp(logits, dim=-1)
    weights = torch.exp(logits - lse.unsqueeze(-1)).nan_to_num_(0.0)
    return (weights @ v.to(wide)).to(q.dtype), lse


def attention_mass(q: Tensor, groups: Sequence[KeyGroup], *, scale: float) -> list[Tensor]:
    """Compute how much attention a few query rows pay to every key, without the fused kernel's output.

    Args:
        q: (H, W, D) rotated queries of the W watched rows.
        groups: Key groups; masks must be cut to the watched rows. ``causal`` is not used.
        scale: Factor on the logits.

    Returns:
        One (S,) fp32 tensor per group, mean over heads and watched rows; all groups together sum to 1.
    """
    return [weights.mean(dim=0) for weights in attention_weights(q, groups, scale=scale)]


def attention_weights(q: Tensor, groups: Sequence[KeyGroup], *, scale: float) -> list[Tensor]:
    """As ``attention_mass``, head by head: one (H, S) tensor per group, mean over watched rows."""
    heads, rows, width = q.shape
    logits = []
    for group in groups:
        kv_heads = group.keys.shape[0]
        folded = (q if group.q is None else group.q).reshape(kv_heads, heads // kv_heads * rows, width)
        part = (folded @ group.keys.transpose(-1, -2)).float() * scale
        if group.mask is not None:
            part = part.masked_fill(~_folded(group.mask, heads // kv_heads), float("-inf"))
        logits.append(part.view(heads, rows, -1))
    weights = torch.softmax(torch.cat(logits, dim=-1), dim=-1).mean(dim=1)
    return list(torch.split(weights, [group.keys.shape[1] for group in groups], dim=-1))


def _folded(mask: Tensor, repeat: int) -> Tensor:
    """A mask for queries whose grouped heads were folded into rows; per head where no heads are grouped."""
    if mask.ndim == 2:
        return mask.repeat(repeat, 1)
    assert repeat == 1, "a mask per head needs keys per head"
    return mask
