"""Where the time goes at a real model's size: tower, projector, compressor, prefill and answer, dense against thinned.

Contenders take every frame in turn in one process, so a noisy machine disturbs all alike, and share one set of random
weights. Shorter lengths are prefixes of the one run. Where a tower takes two frames at once, or several are taken in
together, a frame of all figures is such a step.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from typing import Any

import torch

from headrace.backbones import adopt, plain
from headrace.bench.products import Counting, Floor, Product, Products, decoder, flops
from headrace.bench.space import check_room, needed_bytes, sized
from headrace.bench.timed import Timed
from headrace.engine import Engine, Pipeline, Stream
from headrace.engine.step import wait
from headrace.protocols import SelectiveEncoder
from headrace.types import Frame, ModelSpec

DENSE, TRANSFORMERS = "dense", "transformers"
WARM_UP = 2  # streams with each kind of step and a question before the first run; it shall pay for no recording
FPS = 2.0  # frames per second that are looked at, as the other commands do
COUNTED = 4  # steps whose tower products are counted

Cost = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        shape: A name of ``plain.shapes``.
        pipeline: What is compared with dense.
        lengths: Frames after which ratios are taken and a question is asked, ascending.
        source: What is watched.
        dtype: Name of the number type.
        device: Where to run.
        threads: CPU threads.
        chunk_frames: Frames that are taken in together; a frame of all figures is then such a step.
        fps: Frames per second that are looked at, None for all of a folder's.
        text: The pipeline in full, with every parameter.
        file: Size and time of the source, where it is a file.
    """

    shape: str = "llava-onevision-0.5b"
    pipeline: str = "stc_cacher+stc_pruner:64"
    lengths: tuple[int, ...] = (16, 32, 64)
    source: str = "world:0"
    dtype: str = "bfloat16"
    device: str = "cpu"
    threads: int = 1
    chunk_frames: int = 1
    fps: float | None = FPS
    text: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_frames: must be at least 1, not {self.chunk_frames}")
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 2:
            raise ValueError(f"frames: {self.lengths} must be whole numbers from 2 up, ascending")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps: must be a number above 0, not {self.fps}")
        if self.pipeline == DENSE:
            raise ValueError("pipeline: dense is what others are compared with; name another, such as stc")


@dataclass(slots=True)
class Run:
    """One run over the longest length.

    Attributes:
        frames: contender -> stage -> ms per frame.
        kinds: contender -> what its tower did on every frame: ``dense``, ``refresh`` or ``selective``.
        kept: contender -> visual tokens kept of every frame.
        answers: contender -> length -> (first token, per further token) in ms.
        memory_bytes: contender -> bytes its past holds after the last frame.
    """

    frames: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    kinds: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[str, list[int]] = field(default_factory=dict)
    answers: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)

    def note(self, contender: str, stage: str, ms: float) -> None:
        """Add one frame's time of a stage."""
        self.frames.setdefault(contender, {}).setdefault(stage, []).append(round(ms, 3))

    @property
    def reached(self) -> int:
        """Frames that every contender has taken."""
        if TRANSFORMERS not in self.frames:
            return 0
        return min(len(ms) for stages in self.frames.values() for ms in stages.values())


class Bench:
    """One shared model and its contenders.

    Args:
        setting: What is measured.
        tell: Called with what is done next, once it is sure that it can be done.

    Raises:
        ValueError: The shape or the pipeline is wrong, or the model does not fit into memory.
    """

    def __init__(self, setting: Setting, *, tell: Callable[[str], None] = lambda text: None) -> None:
        self.setting = setting
        names, many = (DENSE, setting.pipeline), setting.chunk_frames
        self._pipelines = {name: Pipeline.parse(name, chunk_frames=many) for name in names}
        config, place, dtype = plain.shape_config(setting.shape), torch.device(setting.device), _dtype(setting)
        what = f"{setting.shape} in {setting.dtype} with {setting.lengths[-1]} frames"
        check_room(what, needed_bytes(config, dtype, setting.lengths[-1], setting.chunk_frames), place)
        tell(f"building {setting.shape} and warming up")
        self._model = plain.build_large(config, dtype=dtype, device=place)
        self._backbone = Timed(adopt(self._model, plain.word_tokenizer([], config.model_type), name=setting.shape))
        self._engine = Engine(self._backbone)
        self._names = list(self._pipelines)
        self._tower: dict[str, dict[str, list[Products]]] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._backbone.spec.device  # type: ignore[no-any-return]

    @property
    def unit(self) -> int:
        """Frames of a step."""
        return _unit(self.setting, self._backbone.spec)

    @torch.no_grad()
    def warm_up(self, frames: Sequence[Frame]) -> None:
        """Take a few frames untimed, and count the matrix products of towers and projector.

        Args:
            frames: ``COUNTED`` times ``unit`` are looked at.
        """
        self._backbone.settle(frames[0])
        steps = list(grouped(frames, self.unit))
        _, cache = plain.prefill(self._model, self._backbone.open().embeds)
        for _ in range(WARM_UP):
            streams = [self._open(name) for name in self._names]
            for stream in streams:
                for step in _one_of_each(stream, steps):
                    _take(stream, step)
                _ask(stream)
            plain.prefill(self._model, self._backbone.projected, cache)
        for name, stream in zip(self._names, streams, strict=True):
            self._tower[name] = self._count(stream, steps[: 1 if name == DENSE else COUNTED])

    @property
    def _num(self) -> int:
        """Temporal frames of a step."""
        return self.unit // self._backbone.spec.frames_per_step  # type: ignore[no-any-return]

    def _open(self, name: str) -> Stream:
        return self._engine.open(self._pipelines[name])

    def _count(self, stream: Stream, steps: Sequence[Sequence[Frame]]) -> dict[str, list[Products]]:
        """Products of ``project`` and of the tower, per kind of step, once for every step of that kind."""
        encoder, found = stream.pipeline.encoder, defaultdict(list)
        state, self._backbone.counting = encoder.init(self._backbone.spec), True
        for step in steps:
            with Counting() as every:
                state, _ = encoder.step(state, step, self._backbone)
            found[f"tower_{kind_of(encoder, state, self._num)}"].append(every.products - self._backbone.products)
            found["project"].append(self._backbone.products)
        self._backbone.counting = False
        return dict(found)

    @torch.no_grad()
    def run(self, frames: Iterable[Frame], run: Run, *, progress: Callable[[], None] = lambda: None) -> None:
        """Take frames through every contender, the order changing from frame to frame.

        Args:
            frames: As many as the longest length, times ``unit``; where there are fewer, lengths are not reached.
            run: Where figures go, frame by frame, so that a stopped run leaves what it has.
            progress: Called after every frame.

        Raises:
            ValueError: There are fewer frames than the shortest length needs.
        """
        streams, index = {name: self._open(name) for name in self._names}, -1
        _, cache = plain.prefill(self._model, self._backbone.open().embeds)
        for index, step in enumerate(grouped(frames, self.unit)):
            # by the parity of the index's bits, so that who comes first hangs together with no refresh interval
            for name in self._names if index.bit_count() % 2 else reversed(self._names):
                self._push(run, name, streams[name], step)
            start = time.perf_counter()
            plain.prefill(self._model, self._backbone.dense, cache)
            wait(self._backbone.spec.device)
            run.note(TRANSFORMERS, "prefill", 1000 * (time.perf_counter() - start))
            if index + 1 in self.setting.lengths:
                for name in self._names:
                    run.answers.setdefault(name, {})[str(index + 1)] = _ask(streams[name])
            progress()
        reached(self.setting, index + 1, self.unit)
        for name, stream in streams.items():
            run.memory_bytes[name] = stream.pipeline.memory.num_bytes(stream.state.memory)

    def _push(self, run: Run, name: str, stream: Stream, step: Sequence[Frame]) -> None:
        _take(stream, step)
        report = stream.report
        assert report is not None
        if name == DENSE:
            self._backbone.dense = self._backbone.projected
        pixels, project = self._backbone.ms["pixels"], self._backbone.ms["project"]
        run.note(name, "pixels", pixels)
        run.note(name, "tower", report.stage_ms["encode"] - pixels - project)
        run.note(name, "project", project)
        run.note(name, "compress", report.stage_ms["compress"])
        run.note(name, "prefill", report.stage_ms["prefill"])
        run.kinds.setdefault(name, []).append(kind_of(stream.pipeline.encoder, stream.state.encoder, self._num))
        run.kept.setdefault(name, []).append(report.tokens_kept)

    def costs(self, run: Run) -> dict[str, dict[str, Cost]]:
        """Count operations and measure floors.

        Args:
            run: Tells how many tokens contenders keep.

        Returns:
            contender -> stage -> ``flops`` and ``floor_ms``: one figure per frame, for prefill a list over frames.
            There is no prefill where the past does not keep every row.
        """
        spec, floor = self._backbone.spec, Floor(_dtype(self.setting), torch.device(self.setting.device))
        text = self._model.config.text_config
        inner, most = text.intermediate_size, self.setting.lengths[-1]
        found: dict[str, dict[str, Cost]] = {}
        for name, stages in self._tower.items():
            found[name] = {
                stage: {"flops": _mean(map(flops, each)), "floor_ms": _mean(map(floor.ms, each))}
                for stage, each in stages.items()
            }
        for name in (*self._names, TRANSFORMERS):
            pipeline = self._pipelines[DENSE if name == TRANSFORMERS else name]
            if pipeline.memory.kind == "tokens" or pipeline.memory.bound_bytes(spec) is not None or pipeline.pruner:
                continue
            kept = round(_mean(run.kept[DENSE if name == TRANSFORMERS else name]))
            whole = name == TRANSFORMERS
            past = [spec.prefix_rows + kept * frame for frame in range(most)]

            def at(rows: int, kept: int = kept, whole: bool = whole) -> Products:
                return decoder(spec, inner, kept, rows, whole=whole)

            own = found.setdefault(name, {})
            own["prefill"] = {"flops": [flops(at(rows)) for rows in past], "floor_ms": floor.between(at, past)}
            if not whole:
                token = decoder(spec, inner, 1, spec.prefix_rows + kept * most, whole=True)
                token[Product(1, 1, spec.dim, text.vocab_size)] += 1
                own["generate"] = {"flops": flops(token), "floor_ms": floor.ms(token)}
        return found


def unit_of(setting: Setting) -> int:
    """Frames of a step, without making the model."""
    return _unit(setting, sized(plain.shape_config(setting.shape), _dtype(setting))[0])


def _unit(setting: Setting, spec: ModelSpec) -> int:
    return -(-setting.chunk_frames // spec.frames_per_step) * spec.frames_per_step


def reached(setting: Setting, steps: int, unit: int) -> Setting:
    """The same with the lengths that so many steps reach.

    Args:
        setting: What is to be measured.
        steps: Steps that the source has.
        unit: Frames of a step.

    Raises:
        ValueError: They reach none.
    """
    if steps < setting.lengths[0]:
        needed = setting.lengths[0] * unit
        raise ValueError(
            f"source: {setting.source} ends after {steps * unit} frames; the bench needs {needed}"
            " (--fps looks at more frames per second)"
        )
    return replace(setting, lengths=tuple(length for length in setting.lengths if length <= steps))


def grouped(frames: Iterable[Frame], unit: int) -> Iterator[tuple[Frame, ...]]:
    """Cut frames into steps of ``unit``; what is left over at the end is left out."""
    it = iter(frames)
    while len(step := tuple(islice(it, unit))) == unit:
        yield step


def _take(stream: Stream, step: Sequence[Frame]) -> None:
    for frame in step:
        stream.push(frame)


def kind_of(encoder: Any, state: Any, num_frames: int = 1) -> str:
    """What the tower did on the last step: ``dense``; of a selective encoder ``refresh`` or ``selective``.

    Args:
        encoder: The encoder.
        state: Its state after the step.
        num_frames: Temporal frames of the step.
    """
    if not isinstance(encoder, SelectiveEncoder):
        return "dense"
    return "refresh" if bool(encoder.updated(state, num_frames).all()) else "selective"


def _one_of_each(stream: Stream, steps: Sequence[Sequence[Frame]]) -> Iterator[Sequence[Frame]]:
    """Steps, over and over, until the next one is of a kind that the stream's encoder has done."""
    done: set[str] = set()
    for step in cycle(steps):
        kind = stream.pipeline.encoder.next_kind(stream.state.encoder)
        if kind in done:
            return
        done.add(kind)
        yield step


def _ask(stream: Stream) -> list[float]:
    found = stream.ask("what", max_tokens=8, evidence=0)
    further = (found.total_ms - found.first_token_ms) / max(1, len(found.tokens))
    return [round(found.first_token_ms, 3), round(further, 3)]


def _dtype(setting: Setting) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, setting.dtype)
    return dtype


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
