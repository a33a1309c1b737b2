"""Deterministic synthetic inputs: frames, visual tokens, decoder rows, observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from headrace.cache import RowView, Sealed
from headrace.types import Cursor, Frame, Kind, LayerSpan, ModelSpec, Observation, Reply, Segment, VisualTokens
from reference.naive.decoder import DIM as DECODER_DIM

DIM = 16
NUM_STEPS = 24


def dice(*numbers: int) -> torch.Generator:
    """A generator that depends on these numbers alone."""
    seed = 17
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**62
    return torch.Generator().manual_seed(seed)


def places(num_frames: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Frame, row and column of every token in raster order."""
    axes = torch.meshgrid(*(torch.arange(n) for n in (num_frames, *grid)), indexing="ij")
    return axes[0].flatten(), axes[1].flatten(), axes[2].flatten()


def tokens_of(
    seed: int, i: int, *, grid: tuple[int, int], dtype: torch.dtype, attached: bool, num_frames: int | None = None
) -> VisualTokens:
    """The tokens of step ``i``: a background that stays, and something that changes. Steps hold 1 to 3 frames."""
    counts = [1 + (seed + j) % 3 for j in range(i + 1)]
    num = counts[i] if num_frames is None else num_frames
    before = sum(counts[:i]) if num_frames is None else i * num_frames
    per_frame = grid[0] * grid[1]
    still = torch.randn(per_frame, DIM, generator=dice(seed)).repeat(num, 1)
    moving = torch.cat([torch.randn(per_frame, DIM, generator=dice(seed, before + f)) for f in range(num)])
    features = (still + 0.3 * moving).to(dtype)
    frame, row, col = places(num, grid)
    return VisualTokens(
        features=features,
        frame=frame,
        row=row,
        col=col,
        grid=grid,
        frames=tuple(range(before, before + num)),
        times_s=tuple(0.5 * f for f in range(before, before + num)),
        deep=torch.stack((features * 2, features - 1)) if attached else None,
        weight=torch.ones(len(features)) if attached else None,
    )


def frames_of(seed: int, i: int, num: int) -> tuple[Frame, ...]:
    """Frames of step ``i``: one background per stream with a little noise, and a bright square that moves.

    Without the noise, which of the unchanged patches an encoder picks would hang on the last bit.
    """
    picture = torch.randint(0, 256, (30, 40, 3), generator=dice(seed), dtype=torch.uint8)
    out = []
    for f in range(num):
        noise = torch.randint(0, 12, picture.shape, generator=dice(seed, i, f), dtype=torch.uint8)
        image = (picture // 2) + noise
        at = (5 * i + 3 * f + seed) % 24
        image[at : at + 6, at : at + 9] = 255 - 10 * (seed % 3)
        out.append(Frame(100 * i + f, 10.0 * i + 0.25 * f, image))
    return tuple(out)


def observation_of(seed: int, i: int, *, hidden: bool, reply: bool) -> Observation:
    """What a speaker sees after step ``i``; every third reply may end in two ways, and silence is often likely."""
    tokens = tokens_of(seed, i, grid=(2, 3), dtype=torch.float32, attached=False)
    rows = torch.randn(len(tokens) + 1, DECODER_DIM, generator=dice(seed, i, 5)) if hidden else None
    said = None
    if reply:
        logits = torch.randn(9, generator=dice(seed, i, 7))
        logits[3] += 2.0 * (i % 2) + 0.5 * (i % 5)
        said = Reply(f"instruction {seed}", logits, (3, 6) if i % 3 == 0 else (3,))
    return Observation(tokens.frames[-1], tokens.times_s[-1], rows, tokens, said)


@dataclass(frozen=True)
class Walk:
    """One step of a memory's stream.

    ``raw`` has ids relative to its start, ``segment`` canonical ones; ``drop`` says which rows a pruner leaves after a
    layer; ``cursor`` stands behind the step; ``asked`` says that a question follows.
    """

    tokens: VisualTokens | None
    raw: Segment
    segment: Segment
    drop: Mapping[int, Sequence[int]] | None
    cursor: Cursor
    asked: bool = False


def place(raw: Segment, cursor: Cursor) -> tuple[Segment, Cursor]:
    """Give a segment its canonical ids."""
    return replace(raw, ids=raw.ids + cursor.next), replace(cursor, next=cursor.next + raw.advance)


def text_rows(seed: int, num: int, position_rows: int, dtype: torch.dtype, *, kind: Kind, turn: int) -> Segment:
    """Rows that stand for words."""
    return Segment(
        embeds=torch.randn(num, DECODER_DIM, generator=dice(seed, num, 3), dtype=torch.float64).to(dtype),
        ids=torch.arange(num).expand(position_rows, -1),
        advance=num,
        kind=torch.full((num,), int(kind), dtype=torch.int8),
        frame=torch.full((num,), -1),
        time_s=torch.full((num,), -1.0, dtype=torch.float64),
        tokens=torch.arange(num),
        turn=turn,
    )


def turn_of(seed: int, num: int, cursor: Cursor, position_rows: int, dtype: torch.dtype) -> tuple[Segment, Cursor]:
    """A placed question."""
    return place(text_rows(seed, num, position_rows, dtype, kind=Kind.TEXT, turn=cursor.turn + 1), cursor)


def wrapped(tokens: VisualTokens, position_rows: int) -> Segment:
    """Visual rows with the ids a family with P position rows would give them; dropped tokens leave gaps."""
    rows, cols = tokens.grid
    if position_rows == 1:
        ids, advance = tokens.slot[None], tokens.dense_len
    else:
        step = max(rows, cols)
        start = tokens.frame * step
        ids, advance = torch.stack((start, start + tokens.row, start + tokens.col)), step * len(tokens.frames)
    return Segment(
        embeds=tokens.features,
        ids=ids,
        advance=advance,
        kind=torch.full((len(tokens),), int(Kind.VISUAL), dtype=torch.int8),
        frame=torch.tensor(tokens.frames)[tokens.frame],
        time_s=torch.tensor(tokens.times_s, dtype=torch.float64)[tokens.frame],
        tokens=torch.full((len(tokens),), -1),
    )


def deepened(features: Tensor) -> Tensor:
    """The (2, N, D) deepstack features of made-up tokens: averages of tokens have them, too, whatever the weights."""
    return torch.stack((features * 2, features - 1))


def thinned(seed: int, i: int, dtype: torch.dtype, *, bare: bool = False) -> VisualTokens:
    """Tokens of one or two frames of a 2 x 3 grid, some of them dropped; ``bare``: all of every third frame."""
    num = 1 + i % 2
    frame, row, col = places(num, (2, 3))
    generator = dice(seed, i)
    features = torch.randn(6 * num, DECODER_DIM, generator=generator, dtype=torch.float64).to(dtype)
    index = 3 * (i // 2) + i % 2
    full = VisualTokens(
        features,
        frame,
        row,
        col,
        (2, 3),
        tuple(range(index, index + num)),
        tuple(1.5 * index + f for f in range(num)),
        deep=deepened(features),
        weight=1.0 + torch.arange(6 * num) % 3,
    )
    kept = []
    for f in range(num):
        order = torch.randperm(6, generator=generator)
        kept += [f * 6 + int(x) for x in order[: 0 if bare and (i + f) % 3 == 0 else 2 + i % 4].sort().values]
    return full.take(torch.tensor(kept, dtype=torch.int64))


@cache
def walk(seed: int, position_rows: int, dtype: torch.dtype, *, bare: bool = False) -> tuple[Walk, ...]:
    """A stream: the prefix (the same for all seeds), then frames, with a remembered turn after every third step.

    After the first layer a pruner drops visual rows of every fourth step, so that layers hold different rows. With
    ``bare`` a compressor has left nothing of some frames, the first among them, and of some steps.
    """
    raw = text_rows(0, 5, position_rows, dtype, kind=Kind.PREFIX, turn=0)
    segment, cursor = place(raw, Cursor())
    steps = [Walk(None, raw, segment, None, cursor)]
    for i in range(NUM_STEPS):
        tokens, drop = None, None
        if i % 4 == 3:
            cursor = replace(cursor, turn=cursor.turn + 1)
            raw = text_rows(seed + i, 4 + i % 3, position_rows, dtype, kind=Kind.TEXT, turn=cursor.turn)
        else:
            tokens = thinned(seed, i, dtype, bare=bare)
            raw = wrapped(tokens, position_rows)
            if i % 4 == 1:
                drop = {0: [j for j in range(len(raw)) if j % 3 != 1]}
        segment, cursor = place(raw, cursor)
        steps.append(Walk(tokens, raw, segment, drop, cursor, asked=i % 3 != 1))
    return tuple(steps)


@dataclass(frozen=True)
class Shelved:
    """A block with its name, what went into the decoder for it, and a question: queries per layer, and words."""

    number: int
    block: Sealed
    embeds: Tensor
    queries: tuple[Tensor, ...]
    words: Tensor


def shelved(seed: int, i: int, model: ModelSpec) -> Shelved:
    """The ``i``-th block of a stream, a frame or (every fourth) a turn; a pruner has dropped rows of some."""
    generator = dice(seed, i, 11)
    num = 2 + (seed + i) % 4

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(model.dtype)

    if i % 4 == 3:
        raw = text_rows(seed + i, num, model.position_rows, model.dtype, kind=Kind.TEXT, turn=1)
    else:
        frame, row, col = places(1, (1, num))
        raw = wrapped(VisualTokens(random(num, model.dim), frame, row, col, (1, num), (i,), (float(i),)), 1)
    segment, _ = place(raw, Cursor(next=10 * i))
    rows = [torch.arange(num), torch.arange(num) if i % 3 else torch.arange(0, num, 2)]
    layers = tuple(
        LayerSpan(random(model.kv_heads, len(x), 16), random(model.kv_heads, len(x), 16), None, x) for x in rows
    )
    notes = RowView.alone(10 * i, segment.kind, segment.frame, segment.time_s, segment.ids)
    block = Sealed.seal(layers, notes, 0)
    queries = tuple(random(model.heads, 3, model.head_dim) for _ in range(model.layers))
    return Shelved(i, block, segment.embeds, queries, random(3, model.dim))
