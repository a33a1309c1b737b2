"""The world as a source of frames, and as a video file with its questions beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from headrace.types import Frame
from headrace.video.world.levels import LEVELS, Level
from headrace.video.world.questions import KINDS, questions
from headrace.video.world.render import render
from headrace.video.world.script import TICKS_PER_SECOND, World
from headrace.video.world.watches import INSTRUCTIONS, watches

FORMATS = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".ts", ".flv")  # what a file that holds H.264 is called


def frames(world: World, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[Frame]:
    """Yield the pictures of every ``step``-th tick from ``start``, endlessly or up to ``stop`` (not included)."""
    tick = start
    while stop is None or tick < stop:
        yield Frame((tick - start) // step, tick / TICKS_PER_SECOND, torch.from_numpy(render(world, tick)))
        tick += step


@dataclass(frozen=True, slots=True)
class WorldSource:
    """A world opened as a source.

    Attributes:
        world: What is shown.
        start: First tick.
        stop: Tick after the last, None for an endless stream.
    """

    world: World
    start: int = 0
    stop: int | None = None

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(TICKS_PER_SECOND)

    @property
    def width(self) -> int:
        """Width of a picture in pixels."""
        return self.world.level.size

    @property
    def height(self) -> int:
        """Height of a picture in pixels."""
        return self.world.level.size

    def __iter__(self) -> Iterator[Frame]:
        return frames(self.world, self.start, self.stop)


def open_world(text: str) -> WorldSource:
    """Open the world described by ``SEED`` or ``SEED,key=value,...``.

    Args:
        text: The seed, then any of ``seconds`` (length), ``start`` (first second) and ``level``.

    Raises:
        ValueError: The text is not of that form.
    """
    seed, *rest = text.split(",")
    knobs = {"seconds": "", "start": "0", "level": "standard"}
    for part in rest:
        key, equals, value = part.partition("=")
        if key.strip() not in knobs or not equals:
            raise ValueError(f"world:{text}: {part.strip()!r} is not one of {', '.join(knobs)} with a value")
        knobs[key.strip()] = value.strip()
    if knobs["level"] not in LEVELS:
        raise ValueError(f"world:{text}: unknown level {knobs['level']!r}; known: {', '.join(LEVELS)}")
    start = _whole(text, "start", knobs["start"])
    stop = start + _whole(text, "seconds", knobs["seconds"]) if knobs["seconds"] else None
    if stop == start:
        raise ValueError(f"world:{text}: seconds must be more than 0")
    world = World(_seed(text, seed.strip()), LEVELS[knobs["level"]])
    return WorldSource(world, start, stop)


def _seed(text: str, seed: str) -> int:
    if not (seed.isascii() and seed.isdigit()) or len(seed) > 18:
        raise ValueError(f"world:{text}: the seed must be a whole number of up to 18 digits, not {seed!r}")
    return int(seed)


def _whole(text: str, key: str, value: str) -> int:
    """Turn seconds into ticks."""
    try:
        ticks = Fraction(value) * TICKS_PER_SECOND
    except (ValueError, ZeroDivisionError):
        ticks = Fraction(-1)
    if ticks < 0 or ticks.denominator != 1:
        raise ValueError(f"world:{text}: {key} must be a multiple of 0.5 seconds, not {value!r}")
    return int(ticks)


def write_video(
    path: str | Path,
    seed: int,
    seconds: float,
    *,
    size: int | None = None,
    every_s: float = 4.0,
    level: Level | None = None,
    kinds: Sequence[str] = tuple(KINDS),
    instructions: Sequence[str] = INSTRUCTIONS,
    fair: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a world as an H.264 file and its questions as JSON beside it.

    Args:
        path: The video file, usually ``.mp4``.
        seed: Seed of the world.
        seconds: Length, at least one frame (0.5 s).
        size: Height and width of the video in pixels, a multiple of the level's; twice that by default.
        every_s: A question of every kind is asked each time so many seconds have passed.
        level: Level of the world; standard by default.
        kinds: Kinds of questions.
        instructions: Standing instructions.
        fair: Leave out so many questions with common answers that guessing does not pay.
        progress: Called with (frames written, frames in all) after every frame.

    Returns:
        The path of the JSON file: seed, level, questions (kind, text, answer, time_s), standing instructions.

    Raises:
        ValueError: The length or size is not possible, the folder does not exist, or the file's name ends in no format
            that holds H.264.
    """
    path, world = Path(path), World(seed, level or Level())
    size = 2 * world.level.size if size is None else size
    total, scale = int(seconds * TICKS_PER_SECOND), size // world.level.size
    if total < 1:
        raise ValueError(f"seconds must be at least {1 / TICKS_PER_SECOND}, not {seconds}")
    if scale < 1 or scale * world.level.size != size:
        raise ValueError(f"size must be a multiple of {world.level.size}, not {size}")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: there is no folder {path.parent}")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot write {path}: its name must end in {', '.join(FORMATS)}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=TICKS_PER_SECOND, options={"crf": "16", "preset": "fast"})
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for tick in range(total):
            picture = render(world, tick).repeat(scale, axis=0).repeat(scale, axis=1)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
            if progress:
                progress(tick + 1, total)
        container.mux(stream.encode(None))
    step = max(1, int(every_s * TICKS_PER_SECOND))
    asked = [q for tick in range(step - 1, total, step) for q in questions(world, tick, kinds=kinds, fair=fair)]
    sheet = {
        "seed": seed,
        "level": world.level.name,
        "seconds": total / TICKS_PER_SECOND,
        "questions": [asdict(question) for question in asked],
        "watches": [asdict(watch) for watch in watches(world, 0, total, instructions=instructions)],
    }
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(sheet, indent=1) + "\n")
    return beside
