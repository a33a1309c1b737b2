"""The nouns of headrace: what a stream is made of, from a frame of pixels to an answer.

Shape letters used in the whole package: ``T`` new decoder rows, ``N`` visual tokens, ``F`` frames, ``H`` query
heads, ``G`` key/value heads, ``D`` width, ``L`` layers, ``P`` position rows (1, or 3 for M-RoPE), ``J`` deepstack
features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor


class Kind(IntEnum):
    """What a decoder row stands for; stored per row as int8."""

    PREFIX = 0  # system prompt and everything before the first frame
    VISUAL = 1  # one (pooled) visual token
    NEWLINE = 2  # the row that closes a clip, or a frame where every frame is a clip
    MARKER = 3  # delimiters and timestamps around visual rows
    TEXT = 4  # questions
    ANSWER = 5  # rows the model produced


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a stream.

    Attributes:
        index: Position in the source, counted from 0 over the frames that were handed out.
        time_s: Presentation time in seconds from the start of the stream.
        image: uint8 tensor (height, width, 3), RGB.
        gap: True when frames are known to be missing before this one (reconnect, decode error).
    """

    index: int
    time_s: float
    image: Tensor
    gap: bool = False

    def __post_init__(self) -> None:
        if self.image.dtype != torch.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            shape, dtype = tuple(self.image.shape), self.image.dtype
            raise ValueError(f"a frame's image must be uint8 (height, width, 3), not {dtype} {shape}")


@dataclass(frozen=True, slots=True, eq=False)
class VisualTokens:
    """Visual tokens of one step (one or several frames), with where each came from.

    Attributes:
        features: (N, D) features in the decoder's width.
        frame: (N,) int64, ordinal of the token's frame within this step, 0..F-1.
        row: (N,) int64 row on the pooled grid.
        col: (N,) int64 column on the pooled grid.
        grid: (rows, columns) of the pooled grid; the same for every frame of the step.
        frames: Stream index of each of the F frames.
        times_s: Presentation time of each of the F frames, in seconds.
        deep: (J, N, D) features that join decoder layers 0..J-1, or None.
        weight: (N,) float32 number of dense tokens each one stands for, or None when all are 1.
    """

    features: Tensor
    frame: Tensor
    row: Tensor
    col: Tensor
    grid: tuple[int, int]
    frames: tuple[int, ...]
    times_s: tuple[float, ...]
    deep: Tensor | None = None
    weight: Tensor | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def dense_len(self) -> int:
        """Number of tokens of this step before anything was dropped."""
        return len(self.frames) * self.grid[0] * self.grid[1]

    @property
    def slot(self) -> Tensor:
        """(N,) int64: index of each token among all tokens of the step before anything was dropped."""
        return (self.frame * self.grid[0] + self.row) * self.grid[1] + self.col

    def take(self, indices: Tensor) -> VisualTokens:
        """Keep the tokens at ``indices`` ((K,) int64, ascending), with every attached map."""
        return replace(
            self,
            features=self.features[indices],
            frame=self.frame[indices],
            row=self.row[indices],
            col=self.col[indices],
            deep=None if self.deep is None else self.deep[:, indices],
            weight=None if self.weight is None else self.weight[indices],
        )

    def merge(self, groups: Tensor, weights: Tensor) -> VisualTokens:
        """Average tokens into groups; a group keeps the place of its heaviest (then first) token.

        Args:
            groups: (N,) int64, group number of each token, 0..K-1, every group non-empty.
            weights: (N,) float32 > 0, share of each token in its group's mean.

        Returns:
            K tokens, in the raster order of their places.
        """
        num = int(groups.max()) + 1
        share = (
            weights.float()
            / torch.zeros(num, device=weights.device).index_add_(0, groups, weights.float())[groups]
        )
        chief = torch.full((num,), len(self), dtype=torch.int64, device=groups.device)
        heaviest = torch.zeros(num, device=weights.device).scatter_reduce_(0, groups, weights.float(), "amax")
        is_chief = weights.float() == heaviest[groups]
        chief.scatter_reduce_(0, groups[is_chief], torch.nonzero(is_chief).squeeze(1), "amin")

        def mean(x: Tensor) -> Tensor:
            out = torch.zeros(num, x.shape[1], dtype=torch.float32, device=x.device)
            return out.index_add_(0, groups, x.float() * share[:, None]).to(x.dtype)

        old = torch.ones(len(self), device=groups.device) if self.weight is None else self.weight
        merged = replace(
            self.take(chief),
            features=mean(self.features),
            deep=None if self.deep is None else torch.stack([mean(x) for x in self.deep]),
            weight=torch.zeros(num, device=groups.device).index_add_(0, groups, old.float()),
        )
        return merged.take(torch.argsort(merged.slot))

    def fork(self) -> VisualTokens:
        """Return itself: the value is never changed in place, so streams may share it."""
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Keep:
    """A compressor's edit: keep the tokens at ``indices`` ((K,) int64, ascending)."""

    indices: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """A compressor's edit: average tokens with equal ``groups`` ((N,) int64), weighted by ``weights`` ((N,))."""

    groups: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Replace:
    """A compressor's edit: use these tokens instead."""

    tokens: VisualTokens


Edit = Keep | Merge | Replace


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A run of new rows for the decoder.

    Attributes:
        embeds: (T, D) input embeddings.
        ids: (P, T) int64 position ids. Relative to the segment's start as a backbone builds it; canonical (counted
            over the whole stream, before anything was dropped) after ``Backbone.place``.
        advance: Positions this run consumes, dropped tokens included.
        kind: (T,) int8, a ``Kind`` per row.
        frame: (T,) int64 stream index of the frame a row shows, -1 for text.
        time_s: (T,) float64 time of that frame in seconds, -1 for text.
        tokens: (T,) int64 vocabulary ids, -1 for rows that are no vocabulary entries.
        turn: Number of the conversation turn, 0 before the first question.
        deep: (J, V, D) features added after decoder layers 0..J-1 to the V visual rows, or None.
    """

    embeds: Tensor
    ids: Tensor
    advance: int
    kind: Tensor
    frame: Tensor
    time_s: Tensor
    tokens: Tensor
    turn: int = 0
    deep: Tensor | None = None

    def __len__(self) -> int:
        return self.embeds.shape[0]

    def fork(self) -> Segment:
        """Return itself: the value is never changed in place, so streams may share it."""
        return self


def join(segments: Sequence[Segment]) -> Segment:
    """Concatenate segments whose ids are all relative: each starts where the one before it ended."""
    start, ids = 0, []
    for seg in segments:
        ids.append(seg.ids + start)
        start += seg.advance
    deep = [seg.deep for seg in segments if seg.deep is not None]
    return replace(
        segments[0],
        embeds=torch.cat([seg.embeds for seg in segments]),
        ids=torch.cat(ids, dim=1),
        advance=start,
        kind=torch.cat([seg.kind for seg in segments]),
        frame=torch.cat([seg.frame for seg in segments]),
        time_s=torch.cat([seg.time_s for seg in segments]),
        tokens=torch.cat([seg.tokens for seg in segments]),
        deep=torch.cat(deep, dim=1) if deep else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class LayerSpan:
    """The new rows of one decoder layer.

    Attributes:
        keys: (G, T, D) un-rotated keys (after a key norm, where the family has one).
        values: (G, T, D).
        rotated: (G, T, D) keys rotated at the positions the Context chose, or None.
        rows: (T,) int64, which rows of the span these are; ascending. Fewer than all after a pruner dropped some.
    """

    keys: Tensor
    values: Tensor
    rotated: Tensor | None
    rows: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Attention:
    """How much attention the watched rows paid to each frame.

    Attributes:
        frame: (R,) int64 stream index of the frame, -1 for text.
        time_s: (R,) float64.
        mass: (R,) float32 attention per row, mean over layers and heads; sums to 1.
    """

    frame: Tensor
    time_s: Tensor
    mass: Tensor

    def moments(self, num: int) -> tuple[Moment, ...]:
        """Return the ``num`` frames with most attention, heaviest first (earlier first on a tie)."""
        visual = self.frame >= 0
        if not bool(visual.any()):
            return ()
        frames, slot = self.frame[visual].unique(return_inverse=True)
        mass = torch.zeros(len(frames), device=slot.device).index_add_(0, slot, self.mass[visual])
        times = torch.zeros(len(frames), dtype=torch.float64, device=slot.device)
        times.scatter_(0, slot, self.time_s[visual])
        order = torch.argsort(mass, descending=True, stable=True)[:num].tolist()
        return tuple(Moment(int(frames[i]), float(times[i]), float(mass[i])) for i in order)


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """What a Context hands to a memory when it is finished.

    Attributes:
        segment: The rows, with canonical ids. A token memory reads ``tokens`` instead where it is given.
        layers: Keys and values per decoder layer; empty for token memories.
        positions: (P, T) int64 positions the keys were rotated at.
        attention: Statistics of the watched rows, if any were asked for.
        tokens: The visual tokens of the step, for token memories.
    """

    segment: Segment
    layers: tuple[LayerSpan, ...] = ()
    positions: Tensor | None = None
    attention: Attention | None = None
    tokens: VisualTokens | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Cursor:
    """Where the stream stands in canonical positions and in the conversation.

    Attributes:
        next: The next free canonical position id.
        clip_open: True when frames were added since the last turn, so that the next turn must close the clip.
        turn: Number of remembered turns so far.
        answered: True when the last remembered rows are an answer, so that new rows must end it first.
    """

    next: int = 0
    clip_open: bool = False
    turn: int = 0
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A question and how to decode its answer.

    Attributes:
        text: The question.
        max_tokens: Longest answer, in tokens, >= 1.
        temperature: 0 takes the likeliest token; above 0 samples.
        top_p: Sample from the smallest set of tokens with at least this probability, 0 < top_p <= 1.
        seed: Seed of the sampling; the same seed gives the same answer.
        stop: Strings that end the answer; they are not part of it.
        remember: Write the question and the answer into the stream's memory.
        evidence: How many moments to name.
    """

    text: str
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    remember: bool = False
    evidence: int = 3

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("question: is empty; give a question in words")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: must be at least 1, not {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature: must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must be above 0 and at most 1, not {self.top_p}")
        if self.evidence < 0:
            raise ValueError(f"evidence: must be 0 or more, not {self.evidence}")


@dataclass(frozen=True, slots=True)
class Token:
    """One decoded token: its vocabulary id, and the text that became certain with it."""

    id: int
    text: str


@dataclass(frozen=True, slots=True)
class Moment:
    """A frame an answer rests on: its index, its time in seconds, and its share of attention, 0..1."""

    frame: int
    time_s: float
    score: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it cost.

    Attributes:
        question: The question.
        text: The answer.
        tokens: Vocabulary ids of the answer, without the stop id.
        time_s: Stream time of the last frame seen, -1 before the first.
        frames_seen: Frames that had been pushed when it was asked.
        first_token_ms: From the question to the first token.
        total_ms: From the question to the end.
        prompt_rows: Decoder rows that were run for the question.
        finish: ``stop``, ``length`` or ``cancelled``.
        evidence: The frames the prompt's last row paid most attention to.
    """

    question: str
    text: str
    tokens: tuple[int, ...]
    time_s: float
    frames_seen: int
    first_token_ms: float
    total_ms: float
    prompt_rows: int
    finish: str
    evidence: tuple[Moment, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What one step (one or several frames) cost.

    Attributes:
        frames: Stream indices of the step's frames.
        time_s: Time of the last of them.
        tokens_in: Visual tokens before the compressor.
        tokens_kept: Visual tokens after it.
        stage_ms: Milliseconds per stage: ``pixels``, ``encode``, ``compress``, ``prefill``, ``speak``.
        memory_bytes: Bytes the memory holds after the step.
    """

    frames: tuple[int, ...]
    time_s: float
    tokens_in: int
    tokens_kept: int
    stage_ms: dict[str, float] = field(default_factory=dict)
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What a speaker sees after a step.

    Attributes:
        frame: Stream index of the last frame.
        time_s: Its time in seconds.
        hidden: (T, D) last hidden rows of the step, or None when the speaker did not ask for them.
        tokens: Visual tokens of the step after compression.
    """

    frame: int
    time_s: float
    hidden: Tensor | None
    tokens: VisualTokens


@dataclass(frozen=True, slots=True)
class Decision:
    """A speaker's verdict: whether to speak now, what to ask the model, and how sure it is (0..1)."""

    speak: bool = False
    prompt: str = ""
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something the stream said by itself, at ``time_s`` seconds, because of ``decision``."""

    time_s: float
    decision: Decision
    answer: Answer


@dataclass(frozen=True, eq=False)
class Rope:
    """Rotary embedding of a decoder.

    Attributes:
        inv_freq: (D/2,) float32 on the CPU.
        scaling: Factor on cosine and sine.
        trained_length: Longest position the model was trained for; up to it angles use the library's fp32
            arithmetic, beyond it fp64.
        kind: ``plain``, ``chunked`` or ``interleaved`` (how M-RoPE spreads P axes over the channels).
        section: Channels per axis for M-RoPE, else None.
    """

    inv_freq: Tensor
    scaling: float = 1.0
    trained_length: int = 32768
    kind: str = "plain"
    section: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class ModelSpec:
    """What a method may know of the model.

    Attributes:
        family: transformers' model type.
        name: Hub name or folder the weights came from.
        layers: Decoder layers.
        heads: Query heads of a decoder layer.
        kv_heads: Key/value heads.
        head_dim: Width of a head.
        dim: Width of the decoder.
        grid: (rows, columns) of visual tokens per temporal step.
        vision_layers: Layers of the vision tower.
        vision_dim: Width of the tower.
        frames_per_step: Frames the tower takes at once (2 where patches span two frames).
        rope: Rotary embedding.
        scale: Factor on attention logits.
        windows: Sliding window per layer in rows, None for full attention.
        positions: Position policy the checkpoint was trained with once tokens are dropped: ``repack`` or ``original``.
        dtype: Type of weights, keys and values.
        device: Where they live.
        stop_ids: Vocabulary ids that end an answer.
        position_rows: P, 1 or 3.
    """

    family: str
    name: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    dim: int
    grid: tuple[int, int]
    vision_layers: int
    vision_dim: int
    frames_per_step: int
    rope: Rope
    scale: float
    windows: tuple[int | None, ...]
    positions: str
    dtype: torch.dtype
    device: torch.device
    stop_ids: tuple[int, ...]
    position_rows: int = 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's keys and values over all layers."""
        return self.layers * self.kv_heads * self.head_dim * 2 * self.dtype.itemsize
