"""What the decoder's phases share: draw clips from the pool, ask about them, train on the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from headrace.train.answer import loss
from headrace.train.loop import Phase, Run, fit
from headrace.train.pack import Ask, Clip, Words, pack
from headrace.train.pool import Pool, Take, views
from headrace.train.recipe import Recipe
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, View, happening
from headrace.video.world.generator import Draw
from headrace.video.world.kind import texts

DrawClips = Callable[[Pool, Draw, float, int, str], list[Clip]]
WATCH = "watch"  # stands among the kinds of question for a standing instruction


def ask(after: int, view: View, draw: Draw, weights: Mapping[str, int]) -> Ask | None:
    """Draw a question of some kind about a view, asked after its last frame.

    Args:
        after: Number of that frame in the clip.
        view: What has been seen.
        draw: Where chance comes from.
        weights: How often each kind is tried, relative to the others; ``WATCH`` is a kind.

    Returns:
        The question, or None when three kinds in turn had none.
    """
    bag = [kind for kind, weight in weights.items() for _ in range(weight)]
    for _ in range(3):
        kind = draw.pick(bag)
        found = instruct(view, draw) if kind == WATCH else ALL_KINDS[kind].ask(view, draw)
        if found:
            return Ask(after, kind, *found)
    return None


def instruct(view: View, draw: Draw) -> tuple[str, str]:
    """Draw a standing instruction and what it says on the view's last picture: nothing, if it does not come true.

    All instructions come up equally often, however many texts they have.
    """
    happens = happening(view)
    if happens and draw.chance(35):
        told = [[text for text in texts(instruction) if text in happens] for instruction in ALL_INSTRUCTIONS]
        text = draw.pick(draw.pick([found for found in told if found]))
        return text, happens[text]
    text = draw.pick(texts(draw.pick(ALL_INSTRUCTIONS)))
    return text, happens.get(text, "")


def ask_all(frames: Sequence[tuple[Take, int]], draw: Draw, weights: Mapping[str, int], num: int) -> list[Ask]:
    """Draw up to ``num`` questions about a clip, six of ten after its last frame."""
    seen = views(frames)
    last = len(frames) - 1
    moments = [last if draw.chance(60) else draw.below(last + 1) for _ in range(num)]
    found = [ask(after, seen[after], draw, weights) for after in moments]
    return list(dict.fromkeys(question for question in found if question))


def numbered(name: str) -> int:
    """Turn a phase's name into a key for draws; every round of a phase has worlds of its own."""
    number = int.from_bytes(name.encode(), "little")
    return number ^ number >> 64  # a key holds eight letters; what is beyond must count, too


def study(
    run: Run,
    phase: Phase,
    parts: dict[str, Any],
    words: Words,
    draw_clips: DrawClips,
    *,
    clips: int,
    recipe: Recipe,
    crowded: int,
) -> None:
    """Train the decoder, words and newline on clips; the tower stays as it is.

    Args:
        run: The run.
        phase: How long and how fast.
        parts: ``model``, the LLaVA-OneVision model; ``notes``, ``facts`` and ``summary``, the throw-away heads.
        words: The tokenizer's ids.
        draw_clips: From (pool, chance, share of the phase that is over, clips, mix of selectors) to the clips
            of a step.
        clips: Clips of one step.
        recipe: Sizes, and who drops tokens.
        crowded: Share of worlds with many sprites, in percent.
    """
    model, core = parts["model"], parts["model"].model
    resumed = run.at[1] if run.at and run.at[0] == phase.name else 0
    number = numbered(phase.name)
    pool = Pool(model, (run.seed, number, resumed), crowded=crowded, capacity=recipe.capacity)
    pool.add(max(4, recipe.capacity // 8))

    def step_loss(step: int, share: float) -> tuple[Tensor, dict[str, float]]:
        pool.add(recipe.fresh)
        drawn = draw_clips(pool, Draw(run.seed, number, step), 1.0 if phase.ripe else share, clips, recipe.drop)
        return loss(model, parts, pack(drawn, words))

    heads = [weight for name in ("notes", "facts", "summary") for weight in parts[name].parameters()]
    trained = [*core.language_model.parameters(), core.image_newline, *heads]
    fit(run, phase, parts, trained, step_loss)
