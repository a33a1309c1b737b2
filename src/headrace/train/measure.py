"""Everything that is said of a trained nano: held-out accuracy by kind, length and level, and standing instructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from headrace.train.evaluate import Measured, Spoken, evaluate, listen
from headrace.train.pack import Words
from headrace.video.world import LEVELS

FRAMES = 16


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found.

    Attributes:
        seeds: Clips of 16 frames at the standard level, one measurement per seed of held-out worlds.
        others: Other lengths, fewer tokens, other levels.
        spoken: Standing instructions on clips of 16 frames, of all seeds.
    """

    seeds: tuple[Measured, ...]
    others: tuple[Measured, ...]
    spoken: Spoken

    @property
    def main(self) -> Measured:
        """All seeds in one."""
        results = tuple(result for part in self.seeds for result in part.results)
        return Measured(f"{FRAMES} frames", results, tuple(right for part in self.seeds for right in part.crowd))

    @property
    def figures(self) -> dict[str, Any]:
        """The findings as plain numbers."""
        main = self.main
        return {
            "macro": main.model.macro,
            "macro_by_seed": [part.model.macro for part in self.seeds],
            "majority": main.majority.macro,
            "by_kind": main.model.by_kind,
            "questions": len(main.results),
            "others": {part.title: part.model.macro for part in self.others},
            "speak_f1": self.spoken.whole.f1,
            "speak_precision": self.spoken.whole.precision,
            "speak_recall": self.spoken.whole.recall,
            "speak_by_instruction": {name: tally.f1 for name, tally in self.spoken.tallies.items()},
            "speak_threshold": self.spoken.threshold,
        }


def measure(
    model: Any,
    words: Words,
    *,
    clips: int,
    seeds: int = 3,
    threshold: float = 0.5,
    report: Callable[[str], None] = lambda title: None,
) -> Findings:
    """Measure a trained model on held-out worlds.

    Args:
        model: The LLaVA-OneVision model.
        words: The tokenizer's ids.
        clips: Clips per seed; a quarter of that for everything else, for standing instructions per seed.
        seeds: Seeds of held-out worlds for the main figure; no world belongs to two.
        threshold: Of the speaker ``eos_threshold``.
        report: Called with the title of what has been measured.
    """
    main = []
    for number in range(seeds):
        main.append(evaluate(model, words, clips=clips, frames=FRAMES, first=number * clips))
        report(f"seed {number + 1}")
    fewer = max(2, clips // 4)
    others: list[Measured] = []
    for title, frames, how in (
        ("8 frames", 8, {}),
        ("32 frames", 32, {}),
        ("64 frames", 64, {}),
        ("30 % of the tokens", FRAMES, {"ratio": 0.3, "selector": "noisy"}),
        ("easy", FRAMES, {"level": LEVELS["easy"]}),
        ("hard", FRAMES, {"level": LEVELS["hard"]}),
    ):
        others.append(replace(evaluate(model, words, clips=fewer, frames=frames, **how), title=title))
        report(title)
    spoken = Spoken(threshold, {})
    for number in range(seeds):
        spoken += listen(model, words, clips=fewer, frames=FRAMES, first=number * clips, threshold=threshold)
        report(f"standing instructions, seed {number + 1}")
    return Findings(tuple(main), tuple(others), spoken)
