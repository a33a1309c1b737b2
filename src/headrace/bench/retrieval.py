"""What a question costs that looks the past up: first-token time after few and after many frames, against today's way.

The blocks hold random keys and values at a real model's size, so that no frame needs to be run. What people do today is
to sample frames from the recording, encode them again and prefill them with transformers, for every question anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from headrace.backbones import adopt, plain
from headrace.cache import Disk
from headrace.engine.answering import Prompt, answer
from headrace.engine.pipeline import Pipeline
from headrace.engine.state import StreamState
from headrace.engine.step import wait
from headrace.protocols import Tiered
from headrace.types import Cursor, Frame, LayerSpan, ModelSpec, Query, Span, Token, View, VisualTokens

PICTURE = (384, 384, 3)
QUESTION = Query("what is in the picture", max_tokens=1, evidence=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        shape: A name of ``plain.SHAPES``.
        pipeline: Names the memory.
        few: Frames of the short stream.
        many: Frames of the long one.
        today: Frames that are encoded again with transformers; 0 leaves that out.
        encoded: How many of them are timed in the tower, the others counted at their mean.
        repeats: Questions per stream.
        ram_blocks: Blocks in memory; the others lie on disk.
        cold: The system forgets the files of the blocks before every question, as after a restart or a long silence.
        dtype: Name of the number type.
        device: Where to run.
    """

    shape: str = "llava-onevision-0.5b"
    pipeline: str = "rekv"
    few: int = 100
    many: int = 2000
    today: int = 64
    encoded: int = 4
    repeats: int = 5
    ram_blocks: int = 200
    cold: bool = False
    dtype: str = "bfloat16"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 1 <= self.few < self.many:
            raise ValueError(f"frames: {self.few},{self.many} must be two whole numbers, the smaller first")
        if self.repeats < 1:
            raise ValueError(f"repeats: must be at least 1, not {self.repeats}")
        if self.today < 0 or (self.today and not 1 <= self.encoded <= self.today):
            raise ValueError(f"encoded: {self.encoded} of {self.today} frames cannot be timed")
        if self.cold and not hasattr(os, "posix_fadvise"):
            raise ValueError("cold: this system cannot be told to forget the pages of a file")


def filled(pipeline: Pipeline, spec: ModelSpec, backbone: Any, frames: int, disk: Disk) -> StreamState:
    """The state of a stream whose memory holds random rows of so many frames."""
    memory, generator = pipeline.memory, torch.Generator().manual_seed(frames)
    looks_up = (pipeline.retriever,) if memory.retriever else ()
    state, cursor = memory.init(spec, *looks_up), Cursor()
    if isinstance(memory, Tiered):
        state = memory.house(state, disk)
    rows, cols = spec.grid
    axes = torch.meshgrid(*(torch.arange(n) for n in (1, rows, cols)), indexing="ij")
    frame, row, col = (axis.flatten() for axis in axes)
    features = torch.randn(rows * cols, spec.dim, generator=generator).to(spec.dtype)
    for i in range(-1, frames):
        tokens = VisualTokens(features, frame, row, col, spec.grid, (i,), (float(i),))
        segment = backbone.open() if i < 0 else backbone.wrap(tokens, cursor)
        segment, cursor = backbone.place(cursor, segment)
        state = memory.write(state, Span(segment, _random(spec, len(segment), generator)))
    shown = replace(cursor, clip_open=True)
    return StreamState(
        encoder=None, compressor=None, memory=state, speaker=None, cursor=shown, num_frames=frames, time_s=frames - 1.0
    )


def _random(spec: ModelSpec, num: int, generator: torch.Generator) -> tuple[LayerSpan, ...]:
    """Keys and values of new rows, a different random direction for every block and layer."""
    shape = (2, spec.layers, spec.kv_heads, num, spec.head_dim)
    keys, values = torch.randn(shape, generator=generator).to(spec.dtype)
    rows = torch.arange(num)
    return tuple(LayerSpan(keys[i], values[i], keys[i], rows) for i in range(spec.layers))


def ask(pipeline: Pipeline, backbone: Any, state: StreamState) -> float:
    """Milliseconds from a question to its first token."""
    start = time.perf_counter()
    context = pipeline.memory.read(state.memory, backbone.spec, query=True)
    parts = answer(backbone, QUESTION, Prompt(pipeline, state, context), start=start)
    first = next(parts)
    ms = 1000 * (time.perf_counter() - start)
    assert isinstance(first, Token) or not first.answer.tokens
    return ms


def forget(folder: Path) -> None:
    """Have the system drop the pages of all files in a folder; what is not on the disk yet is written first."""
    for path in folder.glob("*.kv"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def read_bytes() -> int:
    """Bytes this process has fetched from storage so far, 0 where the system does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), 0)


def again(model: Any, backbone: Any, setting: Setting) -> dict[str, float]:
    """Milliseconds of encoding frames again and prefilling them with transformers, and of both.

    The tower takes as many frames at once as it does in a clip; what is left over at the end counts as a whole step.
    """
    generator, times, features = torch.Generator().manual_seed(0), [], torch.empty(0)
    unit = backbone.spec.frames_per_step
    steps, timed = (-(-num // unit) for num in (setting.today, setting.encoded))
    for i in range(timed):
        pictures = torch.randint(0, 256, (unit, *PICTURE), generator=generator, dtype=torch.uint8)
        start = time.perf_counter()
        frames = [Frame(unit * i + k, float(unit * i + k), picture) for k, picture in enumerate(pictures)]
        features = backbone.vision(backbone.pixels(frames), frames).features
        wait(backbone.spec.device)
        times.append(1000 * (time.perf_counter() - start))
    rows = torch.cat([backbone.open().embeds, features.repeat(steps, 1)])
    rows = torch.cat([rows, backbone.turn(QUESTION.text, Cursor(clip_open=True)).embeds])
    start = time.perf_counter()
    plain.prefill(model, rows)
    wait(backbone.spec.device)
    prefill_ms = 1000 * (time.perf_counter() - start)
    encode_ms = steps * sum(times) / len(times)
    return {"encode_ms": encode_ms, "prefill_ms": prefill_ms, "first_token_ms": encode_ms + prefill_ms}


@torch.no_grad()
def retrieval(setting: Setting, folder: Path, *, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Fill two streams, and ask them in turn.

    Args:
        setting: What is measured.
        folder: Where blocks go that do not fit in memory.
        tell: Called with what is done next.

    Returns:
        First-token times in ms with their ratio (medians over the repeats), what today's way costs, and bytes: held by
        the long stream in memory and on disk, and fetched from there for one of its questions (median).

    Raises:
        ValueError: The shape or the pipeline is wrong, or the folder cannot be written to.
    """
    bounds = (f"memory.max_blocks={setting.many}", f"memory.ram_blocks={setting.ram_blocks}", "memory.window=512")
    pipeline = Pipeline.parse(setting.pipeline, bounds)
    tell(f"building {setting.shape}")
    config, place = plain.shape_config(setting.shape), torch.device(setting.device)
    model = plain.build_large(config, dtype=getattr(torch, setting.dtype), device=place)
    backbone = adopt(model, plain.word_tokenizer(QUESTION.text.split()), name=setting.shape)
    backbone = backbone.at(backbone.choose(View(), Frame(0, 0.0, torch.zeros(*PICTURE, dtype=torch.uint8))))
    disk, states, times, fetched, before = Disk(folder), {}, {}, list[int](), 0
    for num in (setting.few, setting.many):
        tell(f"filling a stream of {num} frames")
        before = disk.num_bytes  # those of the short stream, in the end
        states[num], times[num] = filled(pipeline, backbone.spec, backbone, num, disk), list[float]()
    disk_bytes = disk.num_bytes - before
    for repeat in range(setting.repeats + 1):
        tell(f"question {repeat} of {setting.repeats} to each" if repeat else "warming up")
        order = sorted(states, reverse=bool(repeat % 2))
        for num in order:
            if setting.cold:
                forget(disk.folder)
            read = read_bytes()
            ms = ask(pipeline, backbone, states[num])
            if repeat:
                times[num].append(round(ms, 2))
            if repeat and num == setting.many:
                fetched.append(read_bytes() - read)
    few, many = (median(times[num]) for num in (setting.few, setting.many))
    result: dict[str, Any] = {
        "first_token_ms": {str(num): times[num] for num in times},
        "few_ms": few,
        "many_ms": many,
        "ratio": many / few,
        "memory_bytes": pipeline.memory.num_bytes(states[setting.many].memory),
        "disk_bytes": disk_bytes,
        "read_bytes": int(median(fetched)),
    }
    if setting.today:
        tell(f"first token {few:.0f} and {many:.0f} ms; now encoding and prefilling {setting.today} frames again")
        result["again"] = again(model, backbone, setting)
        result["share_of_today"] = many / result["again"]["first_token_ms"]
    return result
