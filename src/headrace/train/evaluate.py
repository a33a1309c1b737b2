"""Accuracy on held-out worlds: what a stream of the last N frames lets the model answer, by kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from headrace.ops.silence import breaks_silence
from headrace.train.answer import answered, run_rows
from headrace.train.clips import held_out_world
from headrace.train.drop import keep
from headrace.train.pack import Ask, Clip, Words, pack
from headrace.train.pool import Take, take, views
from headrace.train.summary import EVENTS
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, Level, Score, happening, majority, score
from headrace.video.world.fair import odds
from headrace.video.world.generator import Draw
from headrace.video.world.kind import texts
from headrace.video.world.marking import FRAME_S, Marker, Tally, total

EVALUATE = 21  # purpose of a draw
CROWD = 4  # things on the picture from which binding colour to shape is hard


@dataclass(frozen=True, slots=True)
class Measured:
    """One held-out measurement.

    Attributes:
        title: What was measured, such as ``8 frames``.
        results: (kind, truth, answer) of every question; a wrong answer is empty.
        crowd: Whether "what colour is the ..." was answered right, for every such question with four things or more
            on the picture: what tells binding from guessing.
    """

    title: str
    results: tuple[tuple[str, str, str], ...]
    crowd: tuple[bool, ...]

    @property
    def model(self) -> Score:
        """The model's score."""
        return score(self.results)

    @property
    def majority(self) -> Score:
        """The score of each kind's most frequent answer on the same questions."""
        return majority([(kind, truth) for kind, truth, _ in self.results])


def held_out_clip(model: Any, number: int, frames: int, level: Level | None = None) -> Clip:
    """Build held-out clip ``number``: the last ``frames`` ticks of a stream at some moment, cuts included.

    One question of every kind that is unambiguous from the clip's frames is asked at the end, and so many with common
    answers are left out that guessing does not pay.
    """
    world, draw = held_out_world(number, level), Draw(EVALUATE, number)
    now = draw.between(frames + 20, frames + 200)
    ticks = range(now - frames + 1, now + 1)
    shown: list[tuple[Take, int]] = []
    while len(shown) < frames:
        scene = world.scene(ticks[len(shown)])
        part = [tick for tick in ticks if scene.start <= tick < scene.stop]
        seen = take(model, world, part)
        shown += [(seen, index) for index in range(len(part))]
    share = odds(world.level, tuple(ALL_KINDS.values()))
    view, asks = views(shown)[-1], []
    for name, kind in ALL_KINDS.items():
        found = kind.ask(view, draw)
        if found and draw.below(1000) < share.get((name, found[1]), 1000):
            asks.append(Ask(frames - 1, name, *found))
    return Clip(shown, asks, torch.ones(frames, shown[0][0].shown.shape[1], dtype=torch.bool))


@dataclass(frozen=True, slots=True)
class Spoken:
    """How well standing instructions were followed on held-out clips; an event counts as met within one frame.

    Attributes:
        threshold: Of the speaker ``eos_threshold``.
        tallies: What each instruction came to, by its text with placeholders.
    """

    threshold: float
    tallies: dict[str, Tally]

    def __add__(self, other: Spoken) -> Spoken:
        assert self.threshold == other.threshold, "two thresholds make no sum"
        names = self.tallies | other.tallies
        both = ((name, (self.tallies.get(name), other.tallies.get(name))) for name in names)
        return Spoken(self.threshold, {name: total(part for part in parts if part) for name, parts in both})

    @property
    def whole(self) -> Tally:
        """All instructions in one."""
        return total(self.tallies.values())

    @property
    def events(self) -> int:
        """Number of events."""
        return self.whole.hits + self.whole.missed


@torch.no_grad()
def listen(model: Any, words: Words, *, clips: int, frames: int, first: int = 0, threshold: float = 0.5) -> Spoken:
    """Give every instruction before a held-out clip and decide after every frame whether to speak.

    Args:
        model: The LLaVA-OneVision model.
        words: The tokenizer's ids.
        clips: Number of clips, one world each.
        frames: Frames of a clip.
        first: Number of the first held-out world.
        threshold: Of the speaker ``eos_threshold``, by whose rule it is decided as on a stream.
    """
    told = {text: instruction for instruction in ALL_INSTRUCTIONS for text in texts(instruction)}
    tallies = dict.fromkeys(ALL_INSTRUCTIONS, Tally())
    for number in range(first, first + clips):
        clip = held_out_clip(model, number, frames)
        happens = [happening(view) for view in views(clip.frames)]
        asks = [Ask(at, "watch", text, "") for at in range(frames) for text in EVENTS]
        batch = pack([Clip(clip.frames, asks, clip.kept)], words)
        with torch.autocast(batch.visual.device.type, torch.bfloat16):
            logits, _ = run_rows(model, batch)
        speaks = breaks_silence(logits, (words.stop,), threshold)[0].reshape(frames, -1)
        for column, text in enumerate(EVENTS):
            marker = Marker([at * FRAME_S for at in range(frames) if text in happens[at]])
            for at in range(frames):
                if speaks[at, column]:
                    marker.said(at * FRAME_S)
            tallies[told[text]] += marker.tally()
    return Spoken(threshold, tallies)


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
    level: Level | None = None,
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
        level: Of the worlds; standard when None.

    Returns:
        Every question with its answer.
    """
    results: list[tuple[str, str, str]] = []
    crowd: list[bool] = []
    for number in range(first, first + clips):
        clip = held_out_clip(model, number, frames, level)
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
    title = f"{frames} frames" + (f", {level.name}" if level else "") + (f", {ratio:.0%} kept" if ratio < 1 else "")
    return Measured(title, tuple(results), tuple(crowd))


def _dropped(clip: Clip, ratio: float, selector: str, number: int) -> torch.Tensor:
    change = torch.stack([seen.change[index] for seen, index in clip.frames])
    shown = torch.stack([seen.shown[index] for seen, index in clip.frames])
    return keep(selector, ratio, change, shown, torch.Generator().manual_seed(number))
