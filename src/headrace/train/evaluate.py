"""Accuracy on held-out worlds: what a stream of the last N frames lets the model answer, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from headrace.train.answer import answered, run_rows
from headrace.train.clips import held_out_world
from headrace.train.drop import keep
from headrace.train.pack import Ask, Clip, Words, pack
from headrace.train.pool import Take, take
from headrace.video.world import KINDS, Score, View, draw_pair, majority, score
from headrace.video.world.generator import Draw

EVALUATE = 21  # purpose of a draw
CROWD = 4  # things on the picture from which binding colour to shape is hard


@dataclass(frozen=True, slots=True)
class Measured:
    """One held-out measurement.

    Attributes:
        title: What was measured, such as ``8 frames``.
        model: The model's score.
        majority: The score of the majority answer on the same questions.
        crowd: Share of right answers to "what colour is the ..." where four things or more are on the picture, the
            figure that tells binding from guessing, and the number of such questions.
    """

    title: str
    model: Score
    majority: Score
    crowd: tuple[float, int]


def held_out_clip(model: Any, number: int, frames: int) -> Clip:
    """Build held-out clip ``number``: the last ``frames`` ticks of a stream at some moment, cuts included.

    One question of every kind that is unambiguous from the clip's frames of the current scene is asked at the end,
    with the answers as balanced as the world allows.
    """
    world, draw = held_out_world(number), Draw(EVALUATE, number)
    now = draw.between(frames + 20, frames + 200)
    ticks = range(now - frames + 1, now + 1)
    shown: list[tuple[Take, int]] = []
    while len(shown) < frames:
        scene = world.scene(ticks[len(shown)])
        part = [tick for tick in ticks if scene.start <= tick < scene.stop]
        seen = take(model, world, part)
        shown += [(seen, index) for index in range(len(part))]
    last: Take = shown[-1][0]
    view = View(last.scene, last.ticks, last.size)
    asks = []
    for kind, find in KINDS.items():
        pairs = find(view)
        sure = kind in ("before", "changed", "seen") and len({answer for _, answer in pairs}) == 1
        if pairs and not (sure and draw.chance(60)):
            asks.append(Ask(frames - 1, kind, *draw_pair(pairs, draw)))
    return Clip(shown, asks, torch.ones(frames, last.shown.shape[1], dtype=torch.bool))


@torch.no_grad()
def evaluate(
    model: Any,
    words: Words,
    *,
    clips: int,
    frames: int,
    first: int = 0,
    ratio: float = 1.0,
    selector: str = "uniform",
) -> Measured:
    """Score the model on held-out clips.

    Args:
        model: The LLaVA-OneVision model.
        words: The tokenizer's ids.
        clips: Number of clips, one world each.
        frames: Frames of a clip.
        first: Number of the first held-out world.
        ratio: Share of visual tokens kept, 0 < ratio <= 1.
        selector: Who chooses them, one of ``drop.SELECTORS``.

    Returns:
        The model's score, and that of the majority answer.
    """
    results: list[tuple[str, str, str]] = []
    crowd: list[bool] = []
    for number in range(first, first + clips):
        clip = held_out_clip(model, number, frames)
        if ratio < 1:
            clip = Clip(clip.frames, clip.asks, _dropped(clip, ratio, selector, number))
        batch = pack([clip], words)
        with torch.autocast(batch.visual.device.type, torch.bfloat16):
            logits, _ = run_rows(model, batch)
        last, index = clip.frames[-1]
        crowded = len(last.scene.visible(last.ticks[index])) >= CROWD
        for ask, right in zip(clip.asks, answered(logits, batch), strict=True):
            results.append((ask.kind, ask.answer, ask.answer if right else ""))
            if crowded and ask.kind == "colour":
                crowd.append(right)
    title = f"{frames} frames" + (f", {ratio:.0%} kept ({selector})" if ratio < 1 else "")
    guess = majority([(kind, truth) for kind, truth, _ in results])
    return Measured(title, score(results), guess, (sum(crowd) / max(1, len(crowd)), len(crowd)))


def _dropped(clip: Clip, ratio: float, selector: str, number: int) -> torch.Tensor:
    change = torch.stack([seen.change[index] for seen, index in clip.frames])
    shown = torch.stack([seen.shown[index] for seen, index in clip.frames])
    return keep(selector, ratio, change, shown, torch.Generator().manual_seed(number))
