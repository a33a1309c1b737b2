"""What the engine adds to the bare modules, and own prefill against transformers'.

Every frame is run by each contender in turn, so that a noisy machine disturbs all alike; figures are ratios of sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from headrace.backbones import adopt, plain
from headrace.bench.bare import FAMILY, BareModel
from headrace.engine import Engine
from headrace.engine.step import wait
from headrace.types import Frame


@dataclass(frozen=True, slots=True)
class Overhead:
    """Result of the overhead bench.

    Attributes:
        shape: Model shape.
        frames: Frames per run.
        rows_per_frame: Decoder rows of a frame.
        repeats: Runs over all frames.
        engine_ms: Median ms per frame of the engine: pixels, tower, compressor, prefill, memory.
        bare_ms: Median ms per frame of the bare modules doing the same; both stop the last decoder layer at its keys
            and values, because nobody asked about the frame.
        engine_ratio: Engine against bare modules, sums over all frames.
        prefill_ms: Median ms per frame of the engine's prefill.
        transformers_ms: Median ms per frame of transformers' decoder with its own cache on the same rows, last layer
            included.
        prefill_ratio: Own prefill against transformers', sums over all frames.
        prefill_ratio_last: The same over the last quarter of the frames, where the past is longest.
    """

    shape: str
    frames: int
    rows_per_frame: int
    repeats: int
    engine_ms: float
    bare_ms: float
    engine_ratio: float
    prefill_ms: float
    transformers_ms: float
    prefill_ratio: float
    prefill_ratio_last: float


def overhead(
    *,
    shape: str = "llava-onevision-0.5b",
    frames: int = 32,
    repeats: int = 1,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    progress: Callable[[], None] = lambda: None,
) -> Overhead:
    """Measure the engine against bare modules and against transformers' own prefill.

    Args:
        shape: A name of ``plain.shapes`` of the family that the bare model is written for; weights are random.
        frames: Frames per run, >= 4.
        repeats: Runs, >= 1.
        dtype: Type of the weights.
        device: Where to run.
        progress: Called after every frame.

    Raises:
        ValueError: An argument is out of range.
    """
    if frames < 4 or repeats < 1:
        raise ValueError(f"frames must be at least 4 and repeats at least 1, not {frames} and {repeats}")
    place, config = torch.device(device), plain.shape_config(shape)
    if config.model_type != FAMILY:
        raise ValueError(f"model shape {shape!r} is of the family {config.model_type}; this bench measures {FAMILY}")
    model = plain.build_large(config, dtype=dtype, device=place)
    backbone = adopt(model, plain.word_tokenizer([]), name=shape)
    size = model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8) for _ in range(frames)]
    timer = _Timer(place)
    for repeat in range(repeats + 1):
        _run(backbone, model, images[: 2 if repeat == 0 else frames], timer if repeat else _Timer(place), progress)
    return _result(timer, shape, frames, repeats, backbone.spec.grid[0] * backbone.spec.grid[1])


class _Timer:
    """Seconds per named contender, in order."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._device = device

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        wait(self._device)
        self.seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result


@torch.no_grad()
def _run(backbone: Any, model: Any, images: list[Tensor], timer: _Timer, progress: Callable[[], None]) -> None:
    """Run all frames once, each through every contender; the order changes from frame to frame."""
    stream = Engine(backbone).open("dense")
    rows = backbone.spec.grid[0] * backbone.spec.grid[1]
    bare = BareModel(model, (len(images) + 1) * rows)
    bare.prefill(backbone.open().embeds)
    _, cache = plain.prefill(model, backbone.open().embeds)
    tokens = torch.empty(0)
    for index, image in enumerate(images):
        frame = Frame(index, float(index), image)

        def run_bare(frame: Frame = frame) -> Tensor:
            tokens = bare.see(backbone.pixels([frame]))
            bare.prefill(tokens, output=False)
            return tokens

        order = ["bare", "engine", "transformers"]
        if index % 2:
            order[:2] = order[1::-1]
        if index % 4 > 1 and index:  # every other pair of frames transformers goes first, with the frame before
            order = order[2:] + order[:2]
        for name in order:
            if name == "bare":
                tokens = timer("bare", run_bare)
            elif name == "engine":
                timer("engine", partial(stream.push, frame))
                assert stream.report is not None
                timer.seconds.setdefault("prefill", []).append(stream.report.stage_ms["prefill"] / 1000)
            else:
                timer("transformers", partial(plain.prefill, model, tokens, cache))
        progress()


def _result(timer: _Timer, shape: str, frames: int, repeats: int, rows: int) -> Overhead:
    seconds = timer.seconds
    tail = [i for i in range(frames * repeats) if i % frames >= frames - frames // 4]

    def ratio(a: str, b: str, picks: list[int] | None = None) -> float:
        chosen = range(frames * repeats) if picks is None else picks
        return sum(seconds[a][i] for i in chosen) / sum(seconds[b][i] for i in chosen)

    return Overhead(
        shape=shape,
        frames=frames,
        rows_per_frame=rows,
        repeats=repeats,
        engine_ms=1000 * median(seconds["engine"]),
        bare_ms=1000 * median(seconds["bare"]),
        engine_ratio=ratio("engine", "bare"),
        prefill_ms=1000 * median(seconds["prefill"]),
        transformers_ms=1000 * median(seconds["transformers"]),
        prefill_ratio=ratio("prefill", "transformers"),
        prefill_ratio_last=ratio("prefill", "transformers", tail),
    )
