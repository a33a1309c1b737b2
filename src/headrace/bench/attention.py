"""Attention over blocks of a past, by the fused kernel and by plain products: how long, and how far from fp64."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headrace.backbones import plain
from headrace.ops.attention import KeyGroup, joint_attention, plain_attention

BLOCK_ROWS = 4096  # as the cache's


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Both ways on one size.

    Attributes:
        heads: Query heads.
        kv_heads: Key heads.
        width: Channels of a head.
        rows: New rows.
        past: Rows before them.
        fused_ms: The least time of the fused kernel.
        products_ms: The least time of plain products.
        chosen_ms: The least time of what the engine takes, which may differ from group to group.
        fused_error: Distance from fp64 as a share of its length.
        products_error: The same.
    """

    heads: int
    kv_heads: int
    width: int
    rows: int
    past: int
    fused_ms: float
    products_ms: float
    chosen_ms: float
    fused_error: float
    products_error: float


@torch.no_grad()
def attention(
    shape: str,
    rows: Sequence[int],
    pasts: Sequence[int],
    *,
    dtype: torch.dtype = torch.bfloat16,
    repeats: int = 7,
    progress: Callable[[], None] = lambda: None,
) -> list[Compared]:
    """Compare both ways on a CPU, taking turns, on random rows.

    Args:
        shape: A name of ``plain.SHAPES``; gives heads and width.
        rows: Numbers of new rows, >= 1; they see the past and, causally, themselves.
        pasts: Rows before them, >= 0.
        dtype: Type of queries, keys and values.
        repeats: Times each is measured, >= 1; processor time with one thread, time on the clock with more.
        progress: Called after every size.

    Raises:
        ValueError: An argument is out of range.
    """
    if not rows or not pasts or min(rows) < 1 or min(pasts) < 0 or repeats < 1:
        raise ValueError(f"rows and repeats must be at least 1 and past at least 0, not {rows}, {repeats} and {pasts}")
    text = plain.shape_config(shape).text_config
    heads, kv_heads = text.num_attention_heads, text.num_key_value_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    found = []
    for num in rows:
        for past in pasts:
            found.append(_compare((heads, kv_heads, width), num, past, dtype, repeats))
            progress()
    return found


def _compare(sizes: tuple[int, int, int], rows: int, past: int, dtype: torch.dtype, repeats: int) -> Compared:
    heads, kv_heads, width = sizes
    generator = torch.Generator().manual_seed(rows + past)

    def filled(num_heads: int, num: int) -> Tensor:
        return torch.randn(num_heads, num, width, generator=generator).to(dtype)

    q, keys, values = filled(heads, rows), filled(kv_heads, past + rows), filled(kv_heads, past + rows)
    scale, blocks = width**-0.5, [min(BLOCK_ROWS, past - at) for at in range(0, past, BLOCK_ROWS)]
    parts = [
        (k.clone(), v.clone()) for k, v in zip(*(x.split([*blocks, rows], 1) for x in (keys, values)), strict=True)
    ]
    groups = [*(KeyGroup(*part) for part in parts[:-1]), KeyGroup(*parts[-1], causal=True)]
    sees = torch.ones(rows, past + rows, dtype=torch.bool).tril(past)
    k, v = (x.double().repeat_interleave(heads // kv_heads, 0)[None] for x in (keys, values))
    exact = plain_attention(q.double()[None], k, v, scale, mask=sees)[0][0]
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter  # others may use the core
    least: dict[bool | None, float] = {}
    error: dict[bool | None, float] = {}
    for turn in range(repeats + 1):  # the first one warms up
        for way in (False, True, None):
            start = clock()
            out = joint_attention(q, groups, scale=scale, products=way)
            ms = 1000 * (clock() - start)
            if turn:
                least[way] = min(ms, least.get(way, ms))
            else:
                error[way] = float((out.double() - exact).norm() / exact.norm())
    return Compared(
        heads=heads,
        kv_heads=kv_heads,
        width=width,
        rows=rows,
        past=past,
        fused_ms=least[False],
        products_ms=least[True],
        chosen_ms=least[None],
        fused_error=error[False],
        products_error=error[True],
    )
