"""Many questions behind one visual prefill: rows, positions, mask and targets of a batch of clips.

A row of group 0 belongs to the clip, a row of group i to its i-th question. A question asked after frame f starts at
the position that follows that frame's newline; its rows look at clip rows before that position and at its own rows up
to themselves, exactly as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from headrace.train.pool import Take

SPLIT = "<video>"


@dataclass(frozen=True, slots=True)
class Ask:
    """A question of a clip: asked after frame ``after`` (0, 1, ...)."""

    after: int
    kind: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Frames, by their take and their index in it, and the questions about them.

    Attributes:
        frames: (take, index of the frame in the take), in the order of the stream.
        asks: The questions.
        kept: (T, 64) bool, the visual tokens that are not dropped.
        notes: (T, 64, K) int64, what tokens could know of the past, or None.
        summary: (T, K') int64, what the newline rows could know, or None.
        facts: (T, K'') int64, what the newline rows should know early, or None.
    """

    frames: Sequence[tuple[Take, int]]
    asks: Sequence[Ask]
    kept: Tensor
    notes: Tensor | None = None
    summary: Tensor | None = None
    facts: Tensor | None = None


class Words:
    """The tokenizer's ids for the conversations of training."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids = lru_cache(maxsize=None)(self._make)
        self.prefix = self._conversation("")[0]
        self.stop: int = tokenizer.eos_token_id

    def _conversation(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        content = [{"type": "video"}, {"type": "text", "text": text}]
        chat = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(chat, add_special_tokens=False).input_ids
        at = ids.index(self._tokenizer.convert_tokens_to_ids(SPLIT))
        return tuple(ids[:at]), tuple(ids[at + 1 :])

    def _make(self, text: str, answer: str) -> tuple[tuple[int, ...], int]:
        told = self._tokenizer(answer, add_special_tokens=False).input_ids
        return (*self._conversation(text)[1], *told, self.stop), len(told) + 1

    def ids(self, ask: Ask) -> tuple[tuple[int, ...], int]:
        """Return the rows after the clip, answer and stop included, and how many of them are to be predicted."""
        return self._ids(ask.text, ask.answer)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A batch for the decoder; ``B`` clips, ``V`` visual and newline rows, ``Q`` rows of all questions.

    Attributes:
        prefix: (B, 2) int64 ids of the rows before the first frame.
        visual: (B, V, D) visual rows; newline rows are marked in ``newline``.
        newline: (B, V) bool.
        asked: (B, Q) int64 ids of the questions' rows.
        positions: (B, 2 + V + Q) int64.
        groups: (B, 2 + V + Q) int64, -1 for padding.
        horizon: (B, 2 + V + Q) int64, last position of the clip that a row may look at.
        notes: (B, V, K) int64, what the visual rows could know of the past, -100 for nothing; None without notes.
        summary: (R, K') int64, what the newline rows could know, in the order of ``newline``; None without.
        facts: (R, K'') int64, what they should know early; None without.
        targets: (B, Q) int64, id that each question row should predict, -100 for none.
        asks: The questions of each clip.
    """

    prefix: Tensor
    visual: Tensor
    newline: Tensor
    asked: Tensor
    positions: Tensor
    groups: Tensor
    horizon: Tensor
    targets: Tensor
    asks: list[Sequence[Ask]]
    notes: Tensor | None = None
    summary: Tensor | None = None
    facts: Tensor | None = None

    def mask(self) -> Tensor:
        """Return (B, 1, S, S) bool: which row (third axis) looks at which (last axis)."""
        own, other = self.groups[:, :, None], self.groups[:, None, :]
        at = self.positions[:, None, :]
        seen = (other == 0) & (at <= self.horizon[:, :, None])
        seen |= (other == own) & (other > 0) & (at <= self.positions[:, :, None])
        return (seen | torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device))[:, None]


def pack(clips: Sequence[Clip], words: Words) -> Packed:
    """Lay out a batch of clips; all of it on the device of the features."""
    visual, newline, places = zip(*(_visual_rows(clip, len(words.prefix)) for clip in clips), strict=True)
    rows = [_question_rows(clip, words) for clip in clips]
    device, start = visual[0].device, len(words.prefix)
    num_v, num_q = max(map(len, visual)), max(len(row[0]) for row in rows)
    size = len(clips)
    total = start + num_v + num_q
    out = Packed(
        prefix=torch.tensor(words.prefix, device=device).expand(size, -1),
        visual=visual[0].new_zeros(size, num_v, visual[0].shape[1]),
        newline=torch.zeros(size, num_v, dtype=torch.bool),
        asked=torch.zeros(size, num_q, dtype=torch.int64),
        positions=torch.zeros(size, total, dtype=torch.int64),
        groups=torch.full((size, total), -1, dtype=torch.int64),
        horizon=torch.zeros(size, total, dtype=torch.int64),
        targets=torch.full((size, num_q), -100, dtype=torch.int64),
        asks=[clip.asks for clip in clips],
    )
    for b in range(size):
        n, (ids, positions, groups, horizon, targets) = len(visual[b]), rows[b]
        out.visual[b, :n], out.newline[b, :n] = visual[b], newline[b]
        out.positions[b, : start + n] = torch.cat([torch.arange(start), places[b]])
        out.horizon[b, : start + n] = out.positions[b, : start + n]
        out.groups[b, : start + n] = 0
        end = start + num_v + len(ids)
        out.asked[b, : len(ids)], out.targets[b, : len(ids)] = torch.tensor(ids), torch.tensor(targets)
        out.positions[b, start + num_v : end] = torch.tensor(positions)
        out.groups[b, start + num_v : end] = torch.tensor(groups)
        out.horizon[b, start + num_v : end] = torch.tensor(horizon)
    if clips[0].notes is not None:
        told = [clip.notes[clip.kept] for clip in clips if clip.notes is not None]
        notes = torch.full((*out.newline.shape, told[0].shape[1]), -100)
        for b in range(size):
            notes[b, : len(visual[b])][~newline[b]] = told[b]
        out = replace(out, notes=notes.to(device))
    if clips[0].summary is not None:
        out = replace(out, summary=torch.cat([c.summary for c in clips if c.summary is not None]).to(device))
    if clips[0].facts is not None:
        out = replace(out, facts=torch.cat([c.facts for c in clips if c.facts is not None]).to(device))
    names = ("newline", "asked", "positions", "groups", "horizon", "targets")
    return replace(out, **{name: getattr(out, name).to(device) for name in names})


def _visual_rows(clip: Clip, start: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kept visual and newline rows of a clip: features, newline marks, positions."""
    features = torch.stack([take.features[index] for take, index in clip.frames])
    num, each, width = features.shape
    rows = torch.cat([features, features.new_zeros(num, 1, width)], dim=1).flatten(0, 1)
    kept = torch.cat([clip.kept, torch.ones(num, 1, dtype=torch.bool)], dim=1).flatten()
    newline = (torch.arange(num * (each + 1)) % (each + 1)) == each
    chosen = kept.nonzero().squeeze(1)
    return rows[chosen.to(rows.device)], newline[chosen], chosen + start


def _question_rows(clip: Clip, words: Words) -> tuple[list[int], ...]:
    """Return ids, positions, groups, horizon and targets of a clip's question rows."""
    ids: list[int] = []
    positions: list[int] = []
    groups: list[int] = []
    horizon: list[int] = []
    targets: list[int] = []
    each = clip.kept.shape[1] + 1
    for number, ask in enumerate(clip.asks, start=1):
        rows, told = words.ids(ask)
        first = len(words.prefix) + (ask.after + 1) * each
        ids += rows
        positions += range(first, first + len(rows))
        groups += [number] * len(rows)
        horizon += [first - 1] * len(rows)
        targets += [-100] * (len(rows) - told - 1) + list(rows[-told:]) + [-100]
    return ids, positions, groups, horizon, targets
