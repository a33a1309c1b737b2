"""What the decoder's phases share: draw clips from the pool, ask about them, train on the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from headrace.train.answer import loss
from headrace.train.loop import Phase, Run, fit
from headrace.train.pack import Ask, Clip, Words, pack
from headrace.train.pool import Pool
from headrace.video.world import KINDS, View, draw_pair
from headrace.video.world.generator import Draw

DrawClips = Callable[[Pool, Draw, float, int], list[Clip]]


def ask(view: View, draw: Draw, weights: Mapping[str, int]) -> Ask | None:
    """Draw a question of some kind about a view, asked after its last frame.

    Args:
        view: What has been seen.
        draw: Where chance comes from.
        weights: How often each kind is tried, relative to the others.

    Returns:
        The question with ``after`` counted in the view's frames, or None when three kinds in turn had none.
    """
    bag = [kind for kind, weight in weights.items() for _ in range(weight)]
    for _ in range(3):
        kind = draw.pick(bag)
        pairs = KINDS[kind](view)
        sure = kind in ("before", "changed", "seen") and len({answer for _, answer in pairs}) == 1
        if pairs and not (sure and draw.chance(60)):
            return Ask(len(view.ticks) - 1, kind, *draw_pair(pairs, draw))
    return None


def study(
    run: Run,
    phase: Phase,
    parts: dict[str, Any],
    words: Words,
    draw_clips: DrawClips,
    *,
    clips: int,
    fresh: int,
    crowded: int,
    capacity: int = 256,
) -> None:
    """Train the decoder, words and newline on clips; the tower stays as it is.

    Args:
        run: The run.
        phase: How long and how fast.
        parts: ``model``, the LLaVA-OneVision model; ``head`` and ``notes``, the throw-away heads.
        words: The tokenizer's ids.
        draw_clips: From (pool, chance, share of the phase that is over, clips) to the clips of a step.
        clips: Clips of one step.
        fresh: New scenes looked at per step.
        crowded: Share of worlds with many sprites, in percent.
        capacity: Scenes held in the pool.
    """
    model, notes = parts["model"], parts["notes"]
    core = model.model
    resumed = run.at[1] if run.at and run.at[0] == phase.name else 0
    number = sum(ord(letter) << 8 * place for place, letter in enumerate(phase.name[:6]))
    pool = Pool(model, (run.seed, number, resumed), crowded=crowded, capacity=capacity)
    pool.add(max(4, capacity // 8))

    def step_loss(step: int, share: float) -> tuple[Tensor, dict[str, float]]:
        pool.add(fresh)
        drawn = draw_clips(pool, Draw(run.seed, number, step), share, clips)
        return loss(model, notes, pack(drawn, words))

    trained = [*core.language_model.parameters(), core.image_newline, *notes.parameters()]
    fit(run, phase, parts, trained, step_loss)
