"""A random decoder of two small layers: once driven through a Context, once with every row spelled out.

The two share the weights and nothing else. The spelled-out one keeps python lists of rows, rotates each key at the
place it is told, and takes one softmax in fp64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headrace.types import ModelSpec, Rope, Segment
from reference.naive.attention import attend
from reference.naive.rope import axis_of
from reference.naive.rows import Row

HEADS, KV_HEADS, HEAD_DIM, DIM = 4, 2, 16, 24
SECTION = (4, 2, 2)
KINDS = {1: "plain", 3: "chunked"}


def spec(
    *,
    position_rows: int = 1,
    kind: str | None = None,
    windows: tuple[int | None, ...] = (None, None),
    dtype: torch.dtype = torch.float32,
    grid: tuple[int, int] = (2, 3),
    positions: str = "repack",
    trained_length: int = 24,
) -> ModelSpec:
    """Describe a decoder; ``trained_length`` is short, so that the far angles are used as well."""
    inv_freq = 1.0 / 100.0 ** (torch.arange(0, HEAD_DIM, 2, dtype=torch.float32) / HEAD_DIM)
    section = None if position_rows == 1 else SECTION
    return ModelSpec(
        family="synthetic",
        name="synthetic",
        layers=len(windows),
        heads=HEADS,
        kv_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        dim=DIM,
        grid=grid,
        vision_layers=1,
        vision_dim=8,
        frames_per_step=1,
        rope=Rope(inv_freq, 1.0, trained_length, kind or KINDS[position_rows], section),
        scale=HEAD_DIM**-0.5,
        windows=windows,
        positions=positions,
        dtype=dtype,
        device=torch.device("cpu"),
        stop_ids=(0,),
        position_rows=position_rows,
        fingerprint="synthetic",
    )


class Decoder:
    """Random weights for a spec."""

    def __init__(self, model: ModelSpec, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def matrix(rows: int, cols: int) -> Tensor:
            return torch.randn(rows, cols, generator=generator, dtype=torch.float64) * rows**-0.5

        self.spec = model
        width, kv_width = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        self._weights = [
            (matrix(DIM, width), matrix(DIM, kv_width), matrix(DIM, kv_width), matrix(width, DIM))
            for _ in range(model.layers)
        ]

    def project(self, layer: int, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (H, T, D), keys and values (G, T, D) of (T, C) rows."""
        q, k, v = (h @ w.to(h.dtype) for w in self._weights[layer][:3])
        return tuple(
            x.view(len(h), n, HEAD_DIM).transpose(0, 1)
            for x, n in ((q, HEADS), (k, KV_HEADS), (v, KV_HEADS))  # type: ignore[return-value]
        )

    def close(self, layer: int, h: Tensor, o: Tensor) -> Tensor:
        """Add the attention's output to the rows and keep them bounded."""
        return torch.tanh(h + o.transpose(0, 1).reshape(len(h), HEADS * HEAD_DIM) @ self._weights[layer][3].to(h.dtype))


def drive(
    decoder: Decoder,
    segment: Segment,
    context: object,
    *,
    drop: Mapping[int, Sequence[int]] | None = None,
    watch: bool = False,
) -> Tensor:
    """Run rows through a Context as a backbone does.

    Args:
        decoder: The weights.
        segment: New rows with canonical ids.
        context: What they may look at.
        drop: Layer -> which of the rows that are left stay after it.
        watch: Ask for the attention of the last row.

    Returns:
        (T', C) rows that are left at the end.
    """
    context.begin(segment)
    h, rows = segment.embeds, None
    for layer in range(decoder.spec.layers):
        q, k, v = decoder.project(layer, h)
        h = decoder.close(layer, h, context.attend(layer, rows, q, k, v, watch=watch))
        if drop and layer in drop:
            kept = torch.tensor(drop[layer])
            h, rows = h[kept], kept if rows is None else rows[kept]
    return h


@dataclass
class Spelled:
    """What a run by hand gives: rows at the end, the new rows for the memory, attention of the last row per layer."""

    hidden: Tensor
    rows: list[Row]
    weights: list[dict[int, float]] = field(default_factory=list)


def spell_out(
    decoder: Decoder,
    segment: Segment,
    past: Sequence[Row],
    twin: object,
    *,
    first: int,
    drop: Mapping[int, Sequence[int]] | None = None,
    query: bool = False,
) -> Spelled:
    """Run the same rows with lists.

    A twin whose attention is more than one place per row has ``attend`` and does it itself.

    Args:
        decoder: The weights.
        segment: New rows with canonical ids.
        past: Rows that may be seen, oldest first.
        twin: Says at which ``places`` the rows stand.
        first: Arrival number of the first new row.
        drop: See ``drive``.
        query: The rows are a question's, not the stream's.
    """
    model = decoder.spec
    new = [
        Row(
            first + i,
            int(segment.kind[i]),
            tuple(int(x) for x in segment.ids[:, i]),
            (),
            (),
            int(segment.frame[i]),
            segment.embeds[i],
        )
        for i in range(len(segment))
    ]
    if not new:  # a frame of which nothing is left: nobody looks, and there is nothing to remember
        return Spelled(segment.embeds.double(), [])
    by_hand = hasattr(twin, "attend")
    everything = [*past, *new]
    places = {} if by_hand else dict(zip([row.arrival for row in everything], twin.places(everything), strict=True))
    h, left = segment.embeds.double(), list(range(len(new)))
    keys: list[list[Tensor | None]] = [[] for _ in new]
    values: list[list[Tensor | None]] = [[] for _ in new]
    weights = []
    for layer in range(model.layers):
        q, k, v = decoder.project(layer, h)
        mine = [new[i].arrival for i in left]
        for i in range(len(new)):
            at = left.index(i) if i in left else None
            keys[i].append(None if at is None else k[:, at])
            values[i].append(None if at is None else v[:, at])
        held = [row for row in past if row.keys[layer] is not None]
        arrivals = [row.arrival for row in held] + mine
        all_keys = torch.cat([x for x in (_stack([row.keys[layer] for row in held]), k) if x is not None], 1)
        all_values = torch.cat([x for x in (_stack([row.values[layer] for row in held]), v) if x is not None], 1)
        if by_hand:
            here = [dict(zip(arrivals, x.unbind(1), strict=True)) for x in (all_keys, all_values)]
            out, shares = twin.attend(layer, q, new, [new[i] for i in left], *here, query=query)
            weights.append(shares[-1])
        else:
            window = model.windows[layer]
            sees = torch.tensor(
                [[other <= me and (window is None or other > me - window) for other in arrivals] for me in mine]
            )
            turned_q = turn(q, [places[a] for a in mine], model.rope)
            turned_k = turn(all_keys, [places[a] for a in arrivals], model.rope)
            out, share = attend(turned_q, turned_k, all_values, sees, model.scale)
            last = share[:, -1].mean(0).tolist()
            weights.append(dict(zip(arrivals, last, strict=True)))
        h = decoder.close(layer, h, out)
        if drop and layer in drop:
            h, left = h[list(drop[layer])], [left[i] for i in drop[layer]]
    rows = [replace(row, keys=tuple(keys[i]), values=tuple(values[i])) for i, row in enumerate(new)]
    return Spelled(h, rows, weights)


def _stack(rows: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(rows), 1) if rows else None


def turn(x: Tensor, places: Sequence[Sequence[int]], rope: Rope) -> Tensor:
    """Rotate (heads, T, D) rows; the angles of a row at once, otherwise as ``rope.rotate_row``."""
    half = x.shape[-1] // 2
    axes = [axis_of(rope, channel, len(places[0])) for channel in range(half)]
    where = torch.tensor([[place[axis] for axis in axes] for place in places], dtype=torch.float64)
    angle = where * rope.inv_freq.double()
    cos, sin = angle.cos() * rope.scaling, angle.sin() * rope.scaling
    a, b = x[..., :half].double(), x[..., half:].double()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
