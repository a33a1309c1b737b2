"""What a pipeline costs in accuracy: long synthetic streams, questions at their moments, truth beside each answer.

All pipelines watch the same frames side by side. Frames that share an encoder are encoded once; what that took is
counted for every pipeline that used it.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace import registry, video
from headrace.bench.cuts import Cuts
from headrace.bench.fed import Eyes, Fed, Seen
from headrace.bench.names import MAJORITY, TEXT_ONLY, full_text, without_oracle
from headrace.bench.rows import Oracle
from headrace.bench.speaking import choose
from headrace.bench.statistics import Outcome
from headrace.engine import Engine, Pipeline, Stream
from headrace.engine.answering import Prompt, Said, ask, say, show_past
from headrace.engine.state import fork
from headrace.types import Frame, Query
from headrace.video.world import (
    ALL_KINDS,
    GROUPS,
    LEVELS,
    TICKS_PER_SECOND,
    Question,
    Watch,
    World,
    foreground,
    matches,
    questions,
    write_video,
)
from headrace.video.world.marking import Marker, Tally

FIRST_SEED = 1 << 29  # seeds from here up are neither trained on nor typed
MAX_TOKENS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        level: Level of the world.
        seconds: Length of each stream.
        every_s: Seconds between two moments of asking.
        h264: Watch the stream through an H.264 file instead of its exact pixels.
        watches: Standing instructions per stream, at most.
        cut_s: Seconds after which the stream jumps to another world, 0 where it stays in one; see ``bench.cuts``.
        kinds: Kinds of question, or groups of them (``real-time perception``, ``backward tracing``), with commas
            between them; empty for all.
    """

    level: str = "standard"
    seconds: float = 60.0
    every_s: float = 4.0
    h264: bool = True
    watches: int = 2
    cut_s: float = 0.0
    kinds: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level: {self.level!r} is unknown; known: {', '.join(LEVELS)}")
        for name in ("seconds", "every_s", "cut_s"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: must be a number of seconds, not {getattr(self, name)}")
        if self.every_s < 1 / TICKS_PER_SECOND:
            raise ValueError(f"every: must be at least {1 / TICKS_PER_SECOND:g} s, a frame, not {self.every_s:g}")
        if int(self.seconds * TICKS_PER_SECOND) < round(self.every_s * TICKS_PER_SECOND):
            raise ValueError(f"seconds: {self.seconds:g} s hold no moment of asking, one every {self.every_s:g} s")
        if self.watches < 0:
            raise ValueError(f"watches: must be 0 or more, not {self.watches}")
        known = (*ALL_KINDS, *(group for group in GROUPS if any(kind.group == group for kind in ALL_KINDS.values())))
        if unknown := [name for name in self.kinds.split(",") if self.kinds and name not in known]:
            raise ValueError(f"kinds: {unknown[0]!r} is unknown; known: {', '.join(known)}")
        if self.kinds and self.cut_s:
            raise ValueError("kinds: cannot be chosen on a stream with jumps; leave out one of the two")
        if self.cut_s:
            Cuts(0, self.level, self.cut_s)
            if self.h264 or self.watches:
                raise ValueError("cut: such a stream has no file and nothing to watch for; add --exact --watches 0")


@dataclass(slots=True)
class Row:
    """One pipeline on one stream.

    Attributes:
        name: The pipeline's text as given.
        pipeline: The pipeline in full.
        seed: Number of the stream.
        outcomes: Every question, in order.
        tokens_per_frame: Visual tokens kept per frame.
        ms_per_frame: Milliseconds per frame, shared encoding included, standing instructions not.
        ms_per_question: Milliseconds per question.
        memory_bytes: Bytes held at the end.
        watched: What came of every standing instruction.
        ms_per_watch: Milliseconds per standing instruction and frame.
    """

    name: str
    pipeline: str
    seed: int
    outcomes: list[Outcome] = field(default_factory=list)
    tokens_per_frame: float = 0.0
    ms_per_frame: float = 0.0
    ms_per_question: float = 0.0
    memory_bytes: int = 0
    watched: dict[str, Tally] = field(default_factory=dict)
    ms_per_watch: float = 0.0


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
        names: Pipeline texts, with settings behind them, such as ``recent:16+stc_pruner:0.3@memory.positions=repack``;
            ``oracle:KEEP`` may stand for a compressor; ``text-only`` sees no frame.
        seed: Number of the stream, counted from 0.
        setting: What is measured.
        progress: Called after every frame.

    Returns:
        One row per name.

    Raises:
        ValueError: A name is wrong, or cannot run on such a stream.
    """
    if setting.cut_s and any("oracle" in name for name in names):
        raise ValueError("oracle: knows the foreground of one world; a stream with cuts has many")
    world = World(FIRST_SEED + seed, LEVELS[setting.level])
    num = int(setting.seconds * TICKS_PER_SECOND)
    watched = choose(world, num, setting.watches)
    lanes = [_Lane(engine, name, seed, world, watched) for name in names]
    eyes = Eyes(engine, [lane.watched for lane in lanes if lane.watched is not None])
    step = max(1, round(setting.every_s * TICKS_PER_SECOND))
    with torch.no_grad():
        for frame in _shown(world, num, setting):
            seen = eyes.see(frame)
            for lane in lanes:
                lane.push(frame, seen)
            if (frame.index + 1) % step == 0:
                now = asked(world, frame.index, setting)
                assert all(x.time_s == frame.time_s for x in now), "a question may only rest on what has been seen"
                for lane in lanes:
                    lane.ask(now)
            progress()
    return [lane.finish(num) for lane in lanes]


def text_of(name: str) -> str:
    """The full text of a row of ``run_seed`` or ``majority_row``, by today's defaults.

    Raises:
        ValueError: The name is wrong.
    """
    return name if name in (MAJORITY, TEXT_ONLY) else full_text(_parse(name, World(FIRST_SEED)))


def majority_row(seed: int, setting: Setting) -> Row:
    """The guesser who gives each kind's most frequent answer, counted on other streams of the same level."""
    guess, row = _common_answers(setting), Row(MAJORITY, MAJORITY, seed)
    for question in _asked(FIRST_SEED + seed, setting):
        right = question.answer == guess.get(question.kind)
        row.outcomes.append(Outcome(question.kind, seed, right))
    return row


@cache
def _common_answers(setting: Setting) -> dict[str, str]:
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    for number in range(16):
        for question in _asked(FIRST_SEED - 1 - number, setting):
            tally[question.kind][question.answer] += 1
    return {kind: found.most_common(1)[0][0] for kind, found in tally.items()}


def _asked(seed: int, setting: Setting) -> Iterator[Question]:
    """Every question of a stream, in order."""
    world, step = World(seed, LEVELS[setting.level]), max(1, round(setting.every_s * TICKS_PER_SECOND))
    for tick in range(step - 1, int(setting.seconds * TICKS_PER_SECOND), step):
        yield from asked(world, tick, setting)


def _shown(world: World, num: int, setting: Setting) -> Iterator[Frame]:
    """The frames that are watched."""
    if setting.cut_s:
        return Cuts(world.seed, setting.level, setting.cut_s).frames(num)
    return frames(world, num, h264=setting.h264)


def asked(world: World, tick: int, setting: Setting) -> list[Question]:
    """What is asked at a moment: every chosen kind, and so that no answer is worth guessing where nothing jumps."""
    if setting.cut_s:
        return Cuts(world.seed, setting.level, setting.cut_s).questions(tick)
    wanted = [name for name, kind in ALL_KINDS.items() if {name, kind.group} & set(setting.kinds.split(","))]
    return questions(world, tick, kinds=wanted or tuple(ALL_KINDS), fair=True)


def frames(world: World, num: int, *, h264: bool) -> Iterator[Frame]:
    """The stream's frames, numbered by tick."""
    if not h264:
        yield from video.world.frames(world, 0, num)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream.mp4"
        write_video(path, world.seed, num / TICKS_PER_SECOND, level=world.level)
        with video.open(path) as source:
            yield from source


class _Lane:
    """One pipeline on one stream, fed with shared tokens."""

    def __init__(self, engine: Engine, name: str, seed: int, world: World, watched: Sequence[Watch]) -> None:
        self.watched = None if name == TEXT_ONLY else _parse(name, world)
        self._fed = Fed(engine, self.watched or Pipeline.parse("dense"))
        self._stream: Stream = self._fed.stream
        self._row = Row(name, name if self.watched is None else full_text(self.watched), seed)
        self._frames_ms: list[float] = []
        self._asks_ms: list[float] = []
        self._speak_ms = 0.0
        self._kept = 0
        seen = watched if self.watched is not None else ()
        self._markers = {self._stream.watch(x.text, max_tokens=MAX_TOKENS): (x.text, Marker(x.events_s)) for x in seen}

    def push(self, frame: Frame, seen: Seen) -> None:
        if self.watched is None:
            return
        events, encode_ms = self._fed.push(frame, seen)
        for event in events:
            if event.number:
                self._markers[event.number][1].said(event.time_s)
        report = self._stream.report
        if report is None:  # the frame waits for those the tower takes with it
            return
        self._kept += report.tokens_kept
        self._speak_ms += report.stage_ms["speak"]
        self._frames_ms.append(encode_ms + sum(report.stage_ms.values()) - report.stage_ms["speak"])

    def ask(self, asked: Sequence[Question]) -> None:
        """Ask the questions of a moment, each on a Context of its own; what a token memory runs before runs once."""
        stream, backbone, start = self._stream, self._stream.backbone, time.perf_counter()
        memory, state = stream.pipeline.memory.read(stream.state.memory, stream.spec, query=True), stream.state
        if state.pending:  # the question sees frames that still wait for others
            state = dataclasses.replace(state, compressor=fork(state.compressor))
        memory, cursor = show_past(backbone, Prompt(stream.pipeline, state, memory))
        past_ms = 1000 * (time.perf_counter() - start)
        for question in asked:
            start = time.perf_counter()
            query = Query(question.text, max_tokens=MAX_TOKENS, evidence=0)
            *_, said = say(backbone, ask(backbone, query, memory.fork(), cursor), stream.state, start=start)
            assert isinstance(said, Said)
            self._asks_ms.append(past_ms + 1000 * (time.perf_counter() - start))  # what it would take alone
            right = matches(said.answer.text, question.answer)
            self._row.outcomes.append(Outcome(question.kind, self._row.seed, right))

    def finish(self, num: int) -> Row:
        self._row.tokens_per_frame = self._kept / num
        self._row.ms_per_frame = sum(self._frames_ms) / num
        self._row.ms_per_question = sum(self._asks_ms) / max(1, len(self._asks_ms))
        self._row.watched = {text: marker.tally() for text, marker in self._markers.values()}
        self._row.ms_per_watch = self._speak_ms / num / max(1, len(self._markers))
        self._row.memory_bytes = self._stream.pipeline.memory.num_bytes(self._stream.state.memory)
        self._stream.close()
        return self._row


def _parse(name: str, world: World) -> Pipeline:
    """Parse a pipeline text in which ``oracle:KEEP`` may stand for a compressor; its speaker takes instructions."""
    text, settings, keep = without_oracle(name)
    if keep is None:
        pipeline = Pipeline.parse(name)
    else:

        def shown(index: int, grid: tuple[int, int]) -> Tensor:
            return torch.from_numpy(foreground(world, index, grid)).flatten()

        oracle: Any = Oracle(keep=registry.parse_value(keep), foreground=shown)
        pipeline = dataclasses.replace(Pipeline.parse(text, settings), compressor=oracle)
    if pipeline.chunk_frames != 1:
        raise ValueError(f"pipeline {name!r}: the bench takes one frame per step")
    if not pipeline.speaker.reads_reply:
        pipeline = dataclasses.replace(pipeline, speaker=registry.build("eos_threshold"))
    return pipeline
