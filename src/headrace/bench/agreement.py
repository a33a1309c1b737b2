"""Does a compressed video, or another form of the weights, change the answers? Two streams side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from headrace.bench.accuracy import FIRST_SEED, MAX_TOKENS, Setting, asked, frames
from headrace.engine import Engine, Pipeline
from headrace.types import Query
from headrace.video.world import LEVELS, TICKS_PER_SECOND, World, normalise


@dataclass(frozen=True, slots=True)
class Agreement:
    """How often both give the same answer.

    Attributes:
        pipeline: The pipeline in full.
        share: Share of the questions with equal answers.
        num: Questions.
        by_kind: The share per kind.
        right: Share of right answers of the first stream, and of the second.
    """

    pipeline: str
    share: float
    num: int
    by_kind: dict[str, float]
    right: tuple[float, float]


def agreement(
    engine: Engine,
    text: str,
    *,
    seeds: int,
    setting: Setting,
    other: Engine | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Agreement:
    """Ask the same questions over exact pixels and over an H.264 file that ``headrace world`` would write.

    With ``other``, both streams see exact pixels, and the second is that engine's.

    Args:
        engine: The model.
        text: The pipeline.
        seeds: Streams.
        setting: Level, length and moments of asking.
        other: Another engine, None to compare exact pixels with H.264.
        progress: Called after every frame.

    Raises:
        ValueError: The pipeline's text is wrong.
    """
    pipeline, step = Pipeline.parse(text), max(1, round(setting.every_s * TICKS_PER_SECOND))
    same: dict[str, list[bool]] = defaultdict(list)
    hits = [0, 0]
    for seed in range(seeds):
        world, num = World(FIRST_SEED + seed, LEVELS[setting.level]), int(setting.seconds * TICKS_PER_SECOND)
        with engine.open(pipeline) as one, (other or engine).open(pipeline) as second:
            pairs = zip(frames(world, num, h264=False), frames(world, num, h264=other is None), strict=True)
            for clean, coded in pairs:
                one.push(clean)
                second.push(coded)
                progress()
                if (clean.index + 1) % step:
                    continue
                for question in asked(world, clean.index, setting):
                    query = Query(question.text, max_tokens=MAX_TOKENS, evidence=0)
                    told = [normalise(stream.ask(query).text) for stream in (one, second)]
                    same[question.kind].append(told[0] == told[1])
                    for number, words in enumerate(told):
                        hits[number] += words == normalise(question.answer)
    num_asked = sum(map(len, same.values()))
    return Agreement(
        pipeline=str(pipeline),
        share=sum(map(sum, same.values())) / num_asked,
        num=num_asked,
        by_kind={kind: sum(found) / len(found) for kind, found in sorted(same.items())},
        right=(hits[0] / num_asked, hits[1] / num_asked),
    )
