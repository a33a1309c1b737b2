"""Watch an endless stream for long and see whether anything grows: memory, time per frame, time to a first token.

The pictures cost next to nothing to make, so that the time is the engine's. Questions are read-only and rare.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace import registry
from headrace.bench.space import anonymous_bytes
from headrace.engine import Pipeline, Stream
from headrace.types import Frame

SIZE = 128  # pixels of a picture's side
SCENE_FRAMES, SCENES = 40, 7
FRAMES_PER_SECOND = 2.0
QUESTION = "how many things are there?"
BLOCKS_FIELD, MAX_BLOCKS = "max_blocks", 2000  # of a memory that keeps blocks
MEMORY_GROWTH, TIME_RATIO = 0.02, 1.1  # the most at which a stream counts as flat: memory, processor time per frame
WARM, SPAN = 2000, 1000  # frames before anything is compared, and frames that are compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        frames: Length of the stream.
        ask_every: Frames between two questions.
    """

    frames: int = 20_000
    ask_every: int = 50

    def __post_init__(self) -> None:
        if self.frames < 50:
            raise ValueError(f"frames: {self.frames} are too few to see anything grow; give 50 or more")
        if not 1 <= self.ask_every <= self.span:
            raise ValueError(f"ask_every: must be 1 to {self.span} frames, not {self.ask_every}")

    @property
    def warm(self) -> int:
        """Frames before anything is compared: 2,000, less in short runs."""
        return min(WARM, 2 * self.frames // 5)

    @property
    def span(self) -> int:
        """Frames of the stretches that are compared: 1,000, less in short runs."""
        return min(SPAN, self.frames // 5)


@dataclass(slots=True)
class Soaked:
    """What has been measured so far, in a few bytes per frame.

    Attributes:
        setting: What is measured.
        frame_ms: Milliseconds of every frame.
        frame_cpu_ms: Milliseconds of processor time of every frame, which other programs cannot stretch.
        anonymous: Bytes of anonymous memory after every frame.
        ttft_ms: Milliseconds to the first token of every question.
        ask_cpu_ms: Milliseconds of processor time of every question, its second token included.
    """

    setting: Setting
    frame_ms: array[float] = field(default_factory=lambda: array("f"))
    frame_cpu_ms: array[float] = field(default_factory=lambda: array("f"))
    anonymous: array[int] = field(default_factory=lambda: array("q"))
    ttft_ms: array[float] = field(default_factory=lambda: array("f"))
    ask_cpu_ms: array[float] = field(default_factory=lambda: array("f"))

    def result(self, *, disk_bytes: int = 0) -> dict[str, Any]:
        """Compare the last stretch with the first one behind the warm-up.

        Returns:
            ``rss_growth`` (share by which anonymous memory grew; medians of a tenth of a stretch at both ends),
            ``frame_time_ratio`` and ``ttft_ratio`` (medians of the stretches), ``frame_cpu_ratio`` and
            ``ask_cpu_ratio`` (the same in processor time), ``flat`` (whether memory and processor time per frame stay
            within ``MEMORY_GROWTH`` and ``TIME_RATIO``), all None before there are two stretches, ``disk_bytes``, the
            medians themselves, and a curve of 20 points for each.
        """
        warm, span, every = self.setting.warm, self.setting.span, self.setting.ask_every
        done, edge = len(self.frame_ms), max(1, span // 10)
        enough = done >= warm + 2 * span
        frames = slice(warm, warm + span), slice(done - span, None)
        asked = slice(warm // every, (warm + span) // every), slice((done - span) // every, None)
        edges = slice(warm, warm + edge), slice(done - edge, None)

        def ratio(values: array[Any], cuts: tuple[slice, slice]) -> float | None:
            early, late = values[cuts[0]], values[cuts[1]]
            return statistics.median(late) / statistics.median(early) if enough and early and late else None

        growth, frame_cpu = ratio(self.anonymous, edges), ratio(self.frame_cpu_ms, frames)
        names = ("frame_ms", "frame_cpu_ms", "anonymous", "ttft_ms", "ask_cpu_ms")
        return {
            "frames": done,
            "rss_growth": None if growth is None else growth - 1,
            "frame_time_ratio": ratio(self.frame_ms, frames),
            "ttft_ratio": ratio(self.ttft_ms, asked),
            "frame_cpu_ratio": frame_cpu,
            "ask_cpu_ratio": ratio(self.ask_cpu_ms, asked),
            "flat": None if growth is None or frame_cpu is None else not over(growth - 1, frame_cpu),
            "disk_bytes": disk_bytes,
            "frame_ms": statistics.median(self.frame_ms[-span:]) if done else None,
            "ttft_ms": statistics.median(self.ttft_ms[-span // every :]) if self.ttft_ms else None,
            "anonymous_bytes": self.anonymous[-1] if done else None,
            "curves": {name: _curve(getattr(self, name), 20) for name in names},
        }


def over(growth: float, frame_cpu_ratio: float) -> list[str]:
    """What is beyond its goal, in words; nothing where a stream is flat.

    Args:
        growth: Share by which anonymous memory grew.
        frame_cpu_ratio: Processor time of a frame at the end over that behind the warm-up.
    """
    found = []
    if growth > MEMORY_GROWTH:
        found.append(f"memory {100 * growth:+.1f} %, more than {100 * MEMORY_GROWTH:+g} %")
    if frame_cpu_ratio > TIME_RATIO:
        found.append(f"processor time per frame x {frame_cpu_ratio:.3f}, more than x {TIME_RATIO:g}")
    return found


def soak(stream: Stream, found: Soaked, *, progress: Callable[[], None] = lambda: None) -> None:
    """Push frames and ask now and then.

    Args:
        stream: A stream that has seen nothing.
        found: Takes what is measured; whole up to the last frame whenever this is interrupted.
        progress: Called after every frame.
    """
    setting = found.setting
    for frame in itertools.islice(pictures(), setting.frames):
        start, cpu = time.perf_counter(), time.process_time()
        stream.push(frame)
        spent, cpu_spent = time.perf_counter() - start, time.process_time() - cpu
        if (frame.index + 1) % setting.ask_every == 0:
            cpu = time.process_time()
            found.ttft_ms.append(stream.ask(QUESTION, max_tokens=2, evidence=0).first_token_ms)
            found.ask_cpu_ms.append(1000 * (time.process_time() - cpu))
        found.frame_cpu_ms.append(1000 * cpu_spent)
        found.frame_ms.append(1000 * spent)
        found.anonymous.append(anonymous_bytes())
        progress()


def pictures() -> Iterator[Frame]:
    """Yield frames without end: one of a few backdrops, another every 20 s, and a square that goes its way."""
    dice = np.random.default_rng(0)
    backdrops = dice.integers(60, 130, (SCENES, SIZE, SIZE, 3), dtype=np.uint8)
    colours = dice.integers(0, 256, (SCENES, 3), dtype=np.uint8)
    for index in itertools.count():
        scene = index // SCENE_FRAMES % SCENES
        picture = backdrops[scene].copy()
        row, col = 5 * index % (SIZE - 24), 7 * index % (SIZE - 24)
        picture[row : row + 24, col : col + 24] = colours[index // 11 % SCENES]
        yield Frame(index, index / FRAMES_PER_SECOND, torch.from_numpy(picture))


def soaked_pipeline(text: str, settings: Sequence[str]) -> Pipeline:
    """Parse a pipeline; a memory of blocks keeps ``MAX_BLOCKS`` where nothing else is said.

    Raises:
        ValueError: The text or a setting is wrong.
    """
    pipeline = Pipeline.parse(text, settings)
    given = (*registry.apart(text)[1], *settings)
    named = any(part.split("=")[0].strip() == f"memory.{BLOCKS_FIELD}" for part in given)
    if named or BLOCKS_FIELD not in {f.name for f in dataclasses.fields(pipeline.memory)}:
        return pipeline
    return dataclasses.replace(pipeline, memory=registry.change(pipeline.memory, **{BLOCKS_FIELD: MAX_BLOCKS}))


def folder_bytes(path: Path | None) -> int:
    """Bytes of all files below a folder."""
    files = () if path is None else (file for file in path.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


def _curve(values: Iterable[float], points: int) -> list[float]:
    """Medians of so many stretches of equal length."""
    found = list(values)
    cuts = [len(found) * i // points for i in range(points + 1)]
    return [statistics.median(found[a:b]) for a, b in itertools.pairwise(cuts) if b > a]
