"""The vision tower of Qwen2.5-VL and Qwen3-VL, walked layer by layer.

A temporal step is a pair of frames, cut into patches that span both. Rows stand in merge groups: the four patches of a
2x2 block follow each other, because the merger makes one token of them. Qwen2.5-VL also sorts the groups by window.
Queries and keys are turned by row and column, in fp32; a key that has been turned can be used again, because its patch
stays where it is.

Shapes: F temporal steps, N rows of each, U of them chosen, H heads, D width, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MERGE = 2  # patches along one side of a merge group; what both families are released with


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Where the rows of a tower stand, for one size of pictures.

    Attributes:
        grid: (rows, columns) of patches.
        order: (N,) int64 place on the grid, in raster order, of every row of the tower.
        groups: (N/4,) int64 place of every merge group among the groups in raster order.
        windows: Runs of equal windows: (first row, windows, rows of a window); they cover all rows in order.
        cos: (N, 1, d) float32.
        sin: (N, 1, d) float32.
    """

    grid: tuple[int, int]
    order: Tensor
    groups: Tensor
    windows: tuple[tuple[int, int, int], ...]
    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor, rows: Tensor | None) -> Tensor:
        """Turn (F, U, H, d) queries or keys by their places, in fp32, and give them back in their type."""
        cos, sin = (self.cos, self.sin) if rows is None else (self.cos[rows], self.sin[rows])
        wide, half = x.float(), x.shape[-1] // 2
        turned = torch.cat((-wide[..., half:], wide[..., :half]), -1)
        return (wide * cos + turned * sin).to(x.dtype)


def make_plan(grid: tuple[int, int], inv_freq: Tensor, *, window: int | None) -> Plan:
    """Lay a tower out for one size of pictures.

    Args:
        grid: (rows, columns) of patches, both even.
        inv_freq: (d/4,) rotary frequencies of one axis.
        window: Merge groups along one side of a window, None where there are none.
    """
    rows, cols = grid[0] // MERGE, grid[1] // MERGE
    groups = torch.arange(rows * cols)
    runs: tuple[tuple[int, int, int], ...] = ((0, 1, grid[0] * grid[1]),)
    if window is not None:
        groups, runs = _windows(groups.view(rows, cols), window)
    inside = torch.arange(MERGE)
    row = ((groups // cols * MERGE)[:, None, None] + inside[:, None]).expand(-1, MERGE, MERGE).flatten()
    col = ((groups % cols * MERGE)[:, None, None] + inside[None, :]).expand(-1, MERGE, MERGE).flatten()
    place = torch.stack((row, col), 1).to(inv_freq.device)
    angle = place[..., None].float() * inv_freq.float()  # (N, 2, d/4)
    parts = [x.flatten(1).repeat(1, 2)[:, None] for x in (angle.cos(), angle.sin())]
    return Plan(grid, row * grid[1] + col, groups, runs, parts[0], parts[1])


def _windows(places: Tensor, window: int) -> tuple[Tensor, tuple[tuple[int, int, int], ...]]:
    """Sort groups by window, windows in raster order; those at the right and lower edge may be smaller.

    Args:
        places: (rows, columns) int64.
        window: Groups along a side.

    Returns:
        (N/4,) the places in their new order, and runs of neighbours with equally many rows.
    """
    cut, runs, at = [], list[tuple[int, int, int]](), 0
    for band in places.split(window, 0):
        for block in band.split(window, 1):
            num = block.numel() * MERGE**2
            cut.append(block.flatten())
            if runs and runs[-1][2] == num:
                first, count, _ = runs.pop()
                runs.append((first, count + 1, num))
            else:
                runs.append((at, 1, num))
            at += num
    return torch.cat(cut), tuple(runs)


def cut_patches(px: Tensor, *, patch: int, frames: int) -> Tensor:
    """Cut pairs of frames into patches, merge group by merge group in raster order.

    Args:
        px: (F, C, height, width); where frames are missing to the last step, its last one is taken again.
        patch: Pixels along one side of a patch.
        frames: Frames of a temporal step.

    Returns:
        (F', N, C * frames * patch * patch).
    """
    if missing := -px.shape[0] % frames:
        px = torch.cat((px, px[-1:].expand(missing, -1, -1, -1)))
    height, width = px.shape[-2] // patch // MERGE, px.shape[-1] // patch // MERGE
    steps = px.view(-1, frames, px.shape[1], height, MERGE, patch, width, MERGE, patch)
    return steps.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(steps.shape[0], height * width * MERGE**2, -1)


def sort_rows(x: Tensor, plan: Plan) -> Tensor:
    """Bring (F, N, D) rows from raster order of their merge groups into the tower's."""
    sorted_rows: Tensor = x.unflatten(1, (-1, MERGE**2))[:, plan.groups].flatten(1, 2)
    return sorted_rows


def sort_groups(x: Tensor, plan: Plan) -> Tensor:
    """Bring (F, N/4, D) merged rows from the tower's order into raster order."""
    return x[:, torch.argsort(plan.groups)]


class QwenBlock:
    """A layer of the tower, opened (pre-norm, one fused projection, rotary places).

    Args:
        layer: transformers' module.
        plan: Where rows stand.
        windowed: Rows attend within their window only, not to all of their step.
    """

    def __init__(self, layer: Any, plan: Plan, *, windowed: bool) -> None:
        self._layer, self._plan = layer, plan
        self._attn, self._heads = layer.attn, layer.attn.num_heads
        self._runs = plan.windows if windowed else ((0, 1, len(plan.order)),)

    def norm1(self, h: Tensor) -> Tensor:
        """Normalise (F, N, D) before the attention."""
        return self._layer.norm1(h)  # type: ignore[no-any-return]

    def keys(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Project (F, U, D) to keys, turned by their places."""
        return self._turned(self._project(x, 1), rows)

    def queries_values(self, x: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Project (F, U, D) to queries, turned by their places, and values."""
        return self._turned(self._project(x, 0), rows), self._project(x, 2)

    def _project(self, x: Tensor, part: int) -> Tensor:
        """Apply a third of the fused projection: queries, keys, values."""
        width = x.shape[-1]
        own = slice(part * width, (part + 1) * width)
        return torch.nn.functional.linear(x, self._attn.qkv.weight[own], self._attn.qkv.bias[own])

    def _turned(self, x: Tensor, rows: Tensor | None) -> Tensor:
        return self._plan.turn(x.unflatten(-1, (self._heads, -1)), rows).flatten(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None) -> Tensor:
        """Attend (F, U, D) queries to the keys and values of their window, or of their whole step.

        In a window every row's query has its place, asked for or not: what attention costs there is a few hundredths of
        what the projections cost, and the windows' shapes then do not depend on what was asked for.
        """
        if rows is None or (len(self._runs) == 1 and self._runs[0][1] == 1):
            return self._attend(q, k, v)
        index = rows[..., None].expand(-1, -1, q.shape[-1])
        whole = torch.zeros_like(k).scatter_(1, index, q)
        return self._attend(whole, k, v).gather(1, index)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend window by window; those of a run together."""
        if self._runs[0][1] == 1 and len(self._runs) == 1:
            return self._softmax(q, k, v)
        out = []
        for first, count, num in self._runs:
            own = slice(first, first + count * num)
            parts = (x[:, own].reshape(-1, num, x.shape[-1]) for x in (q, k, v))
            out.append(self._softmax(*parts).reshape(q.shape[0], count * num, -1))
        return torch.cat(out, 1)

    def _softmax(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (self._heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=self._attn.scaling)
        return out.transpose(1, 2).flatten(2)

    def out(self, o: Tensor) -> Tensor:
        """Project the attention's output."""
        return self._attn.proj(o)  # type: ignore[no-any-return]

    def norm2(self, h: Tensor) -> Tensor:
        """Normalise before the MLP."""
        return self._layer.norm2(h)  # type: ignore[no-any-return]

    def mlp(self, x: Tensor) -> Tensor:
        """Apply the MLP."""
        return self._layer.mlp(x)  # type: ignore[no-any-return]


def learned_places(table: Tensor, plan: Plan) -> Tensor:
    """Read a square table of learned places at every row's, bilinearly, corners on corners.

    Args:
        table: (side * side, D).
        plan: Where rows stand.

    Returns:
        (N, D), float32 whatever the table's type.
    """
    side = round(table.shape[0] ** 0.5)
    rows, row_shares = _taps(plan.order // plan.grid[1], plan.grid[0], side)
    cols, col_shares = _taps(plan.order % plan.grid[1], plan.grid[1], side)
    index = (rows[:, :, None] * side + cols[:, None, :]).flatten(1)
    share = (row_shares[:, :, None] * col_shares[:, None, :]).flatten(1)
    places: Tensor = (table[index.to(table.device)] * share.to(table.device)[:, :, None]).sum(1)
    return places


def _taps(place: Tensor, num: int, side: int) -> tuple[Tensor, Tensor]:
    """The two entries of an axis of ``side`` between which each place of an axis of ``num`` lies, and their shares."""
    source = place.float() * (side - 1) / max(num - 1, 1)
    low = source.floor()
    taps = torch.stack((low, low + 1), 1)
    return taps.long().clamp(max=side - 1), (1 - (source[:, None] - taps).abs()).clamp(min=0)


def open_blocks(layers: Sequence[Any], plan: Plan, full: Sequence[int] | None = None) -> tuple[QwenBlock, ...]:
    """Open a tower's layers.

    Args:
        layers: transformers' modules.
        plan: Where rows stand.
        full: Layers whose rows see their whole step; None for all.
    """
    return tuple(
        QwenBlock(layer, plan, windowed=full is not None and index not in full) for index, layer in enumerate(layers)
    )
