"""What a memory can still say of something seen long ago: read-only questions 1, 5, 20 and 60 minutes after it.

Every stream shows three things once (``video.world.rare``), early, and then goes on without them. All pipelines watch
the same frames side by side; a frame is encoded once.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch

from headrace import video
from headrace.bench.accuracy import FIRST_SEED, MAX_TOKENS
from headrace.bench.fed import Eyes, Fed, Seen
from headrace.bench.names import MOMENT, full_text
from headrace.bench.statistics import Accuracy, Outcome, accuracy
from headrace.engine import Engine, MemoryBudgetError, Pipeline
from headrace.types import Frame, Query
from headrace.video.world import LEVELS, TICKS_PER_SECOND, Question, RareWorld, matches

NOW = 0.0  # the age of what is still there
SOON = 4  # ticks after the cut at which "before the cut" is asked of what has just gone
GAP_S = 5.0  # seconds from one asking to the next
COUNTED, MARKED = 200, 1000  # streams on which the guesser's answers are counted, and others on which it is marked


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        ages: Minutes between the end of a moment and the questions about it, ascending, > 0.
        level: Level of the world.
        memory_mb: Most MiB for a memory that grows without end; it is out of the race when that is full.
        askings: How often a question is asked at each age, ``GAP_S`` apart.
        fps: Frames per second, all of the world's or one of so many.
    """

    ages: tuple[float, ...] = (1.0, 5.0, 20.0, 60.0)
    level: str = "standard"
    memory_mb: float = 1024.0
    askings: int = 1
    fps: float = float(TICKS_PER_SECOND)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level: {self.level!r} is unknown; known: {', '.join(LEVELS)}")
        if not self.ages or list(self.ages) != sorted(set(self.ages)) or not 0.1 <= self.ages[0] <= self.ages[-1] < 1e4:
            raise ValueError(f"ages: must be ascending minutes from 0.1 up, not {self.ages}")
        if self.askings < 1:
            raise ValueError(f"askings: must be 1 or more, not {self.askings}")
        if self.fps <= 0 or TICKS_PER_SECOND % self.fps:
            raise ValueError(f"fps: must divide the world's {TICKS_PER_SECOND} frames per second, not {self.fps:g}")

    @property
    def step(self) -> int:
        """Ticks of the world from one frame to the next."""
        return int(TICKS_PER_SECOND / self.fps)

    def num_frames(self, seed: int) -> int:
        """Length of a stream: up to its last question."""
        return max(plan(seed, self)) // self.step + 1


@dataclass(slots=True)
class Row:
    """One pipeline on one stream.

    Attributes:
        name: The pipeline's text as given.
        pipeline: The pipeline in full.
        seed: Number of the stream.
        outcomes: (age in minutes, kind, whether the answer was right) of every question it was asked.
        ms_per_frame: Milliseconds per frame, shared encoding included.
        ms_per_question: Milliseconds per question.
        memory_bytes: Bytes held at the end.
        full_s: Second of the stream at which its memory was full, None where it never was.
    """

    name: str
    pipeline: str
    seed: int
    outcomes: list[tuple[float, str, bool]] = field(default_factory=list)
    ms_per_frame: float = 0.0
    ms_per_question: float = 0.0
    memory_bytes: int = 0
    full_s: float | None = None


Plan = dict[int, list[tuple[float, int, Question]]]


def _whole(ticks: int, setting: Setting) -> int:
    """So many ticks, or a little more, after which a frame comes."""
    return -(-ticks // setting.step) * setting.step


def plan(seed: int, setting: Setting) -> Plan:
    """What is asked on a stream: (age in minutes, number of the moment, question) by tick, always one with a frame."""
    found: Plan = defaultdict(list)
    for number, moment in enumerate(_world(seed, setting).moments()):
        last = (moment.stop - 1) // setting.step * setting.step
        found[last] += [(NOW, number, x) for x in moment.questions(last, here=True)]
        soon = last + _whole(SOON, setting)
        found[soon] += [(NOW, number, x) for x in moment.questions(soon, here=False) if x.kind == "scene_before"]
        for age, asking in itertools.product(setting.ages, range(setting.askings)):
            seconds = round(60 * age + GAP_S * asking)
            tick = last + _whole(seconds * TICKS_PER_SECOND, setting)
            found[tick] += [(age, number, x) for x in moment.questions(tick, here=False)]
    return dict(found)


def _world(seed: int, setting: Setting) -> RareWorld:
    return RareWorld(FIRST_SEED + seed, LEVELS[setting.level])


def run_seed(
    engine: Engine,
    names: Sequence[str],
    seed: int,
    setting: Setting,
    *,
    progress: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Run pipelines side by side over one stream.

    Args:
        engine: The model.
        names: Pipeline texts, with settings behind them, such as ``streamingllm:1040@memory.sinks=4``; ``moment`` is
            a full cache of the moment's own scene and nothing else, as a memory would bring it back that finds it.
        seed: Number of the stream, counted from 0.
        setting: What is measured.
        progress: Called after every frame.

    Returns:
        One row per name.

    Raises:
        ValueError: A name is wrong.
    """
    world, asked, num = _world(seed, setting), plan(seed, setting), setting.num_frames(seed)
    lanes: list[_Lane] = [
        _MomentLane(engine, seed, world) if name == MOMENT else _Lane(engine, name, seed, setting.memory_mb)
        for name in names
    ]
    eyes = Eyes(engine, [lane.pipeline for lane in lanes])
    with torch.no_grad():
        for frame in video.world.frames(world, 0, num * setting.step, setting.step):
            seen = eyes.see(frame)
            for lane in lanes:
                lane.push(frame, seen)
                for age, number, question in asked.get(frame.index * setting.step, ()):
                    lane.ask(age, number, question)
            progress()
    return [lane.finish() for lane in lanes]


def text_of(name: str) -> str:
    """The full text of a row, by today's defaults.

    Raises:
        ValueError: The name is wrong.
    """
    return name if name == MOMENT else full_text(Pipeline.parse(name))


@cache
def guessing(level: str) -> Accuracy:
    """What guessing is worth: the share that each kind's most frequent answer gets right, at any age.

    The answers are counted on some streams of a level, and the share on others, so many that it is known to a point.
    """
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    for question, _ in _asked_before(level, range(COUNTED)):
        tally[question.kind][question.answer] += 1
    guess = {kind: found.most_common(1)[0][0] for kind, found in tally.items()}
    others = _asked_before(level, range(COUNTED, COUNTED + MARKED))
    return accuracy([Outcome(x.kind, number, x.answer == guess[x.kind]) for x, number in others])


def _asked_before(level: str, numbers: Iterable[int]) -> Iterator[tuple[Question, int]]:
    """Every question once, with the number of its stream, of streams that the bench does not watch."""
    for number in numbers:
        for moment in RareWorld(FIRST_SEED - 1 - number, LEVELS[level]).moments():
            yield from ((question, number) for question in moment.questions(0, here=False))


def num_moments(seed: int, setting: Setting) -> int:
    """Moments of a stream that are asked about."""
    return len(_world(seed, setting).moments())


def num_planned(seed: int, setting: Setting) -> Counter[float]:
    """Questions of a stream by age."""
    return Counter(age for found in plan(seed, setting).values() for age, _, _ in found)


class _Lane:
    """One pipeline on one stream, fed with shared tokens, until its memory is full."""

    def __init__(self, engine: Engine, name: str, seed: int, memory_mb: float | None) -> None:
        self.pipeline = Pipeline.parse(name)
        if self.pipeline.chunk_frames != 1:
            raise ValueError(f"pipeline {name!r}: the bench takes one frame per step")
        self._fed = Fed(engine, self.pipeline, memory_mb=memory_mb)
        self.row = Row(name, full_text(self.pipeline), seed)
        self._frames_ms = self._asks_ms = 0.0
        self._num = 0

    def push(self, frame: Frame, seen: Seen) -> None:
        if self.row.full_s is not None:
            return
        start = time.perf_counter()
        try:
            _, encode_ms = self._fed.push(frame, seen)
        except MemoryBudgetError:
            self.row.full_s = frame.time_s
            self._close()
            return
        self._frames_ms += encode_ms + 1000 * (time.perf_counter() - start)
        self._num += 1

    def ask(self, age: float, number: int, question: Question) -> None:
        if self.row.full_s is None:
            start = time.perf_counter()
            right = matches(self._answer(number, question), question.answer)
            self._asks_ms += 1000 * (time.perf_counter() - start)
            self.row.outcomes.append((age, question.kind, right))

    def _answer(self, number: int, question: Question) -> str:
        return _told(self._fed, question)

    def _close(self) -> None:
        self.row.memory_bytes = self._fed.stream.pipeline.memory.num_bytes(self._fed.stream.state.memory)
        self._fed.stream.close()

    def finish(self) -> Row:
        if self.row.full_s is None:
            self._close()
        self.row.ms_per_frame = self._frames_ms / max(1, self._num)
        self.row.ms_per_question = self._asks_ms / max(1, len(self.row.outcomes))
        return self.row


class _MomentLane(_Lane):
    """A full cache per moment that sees its scene and nothing else."""

    def __init__(self, engine: Engine, seed: int, world: RareWorld) -> None:
        super().__init__(engine, "full", seed, None)
        self.row = Row(MOMENT, MOMENT, seed)
        self._moments = world.moments()
        self._scenes = [Fed(engine, self.pipeline) for _ in self._moments]

    def push(self, frame: Frame, seen: Seen) -> None:
        for moment, fed in zip(self._moments, self._scenes, strict=True):
            if moment.start <= frame.time_s * TICKS_PER_SECOND < moment.stop:
                fed.push(frame, seen)

    def _answer(self, number: int, question: Question) -> str:
        return _told(self._scenes[number], question)


def _told(fed: Fed, question: Question) -> str:
    return fed.stream.ask(Query(question.text, max_tokens=MAX_TOKENS, evidence=0)).text
