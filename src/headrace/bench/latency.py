"""Where the time goes at a real model's size: tower, projector, compressor, prefill and answer, dense against thinned.

Contenders take every frame in turn in one process, so a noisy machine disturbs all alike, and share one set of random
weights. Shorter lengths are prefixes of the one run. Figures are ratios of sums over the frames of a length.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from headrace.backbones import adopt, plain
from headrace.backbones.tower import run_tower
from headrace.engine import Engine, Stream
from headrace.types import Frame, VisualTokens

DENSE, TRANSFORMERS = "dense", "transformers"
VISION = ("tower", "project")
ALL = (*VISION, "compress", "prefill")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        shape: A name of ``plain.SHAPES``.
        pipeline: What is compared with dense.
        lengths: Frames after which ratios are taken and a question is asked, ascending.
        dtype: Name of the number type.
        device: Where to run.
    """

    shape: str = "llava-onevision-0.5b"
    pipeline: str = "stc_cacher+stc_pruner:64"
    lengths: tuple[int, ...] = (16, 32, 64)
    dtype: str = "bfloat16"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.lengths or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 2:
            raise ValueError(f"frames: {self.lengths} must be whole numbers from 2 up, ascending")


@dataclass(slots=True)
class Run:
    """Milliseconds of one run: per contender and stage a list over frames; and per length the question's.

    Attributes:
        frames: contender -> stage -> ms per frame.
        answers: contender -> length -> (first token, per further token) in ms.
        kept: contender -> visual tokens kept per frame.
    """

    frames: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    answers: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    def note(self, contender: str, stage: str, ms: float) -> None:
        """Add one frame's time of a stage."""
        self.frames.setdefault(contender, {}).setdefault(stage, []).append(ms)


class Timed:
    """A backbone that notes how long pixels and projection take, so that what is left of encoding is the tower.

    It also keeps the last projected tokens, and those of the dense contender for transformers to prefill.
    """

    def __init__(self, backbone: Any) -> None:
        self._inner = backbone
        self.ms = {"pixels": 0.0, "project": 0.0}
        self.projected = self.dense = torch.empty(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def pixels(self, frames: Sequence[Frame]) -> Tensor:
        """As the backbone."""
        return self._time("pixels", partial(self._inner.pixels, frames))  # type: ignore[no-any-return]

    def project(self, h: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """As the backbone."""
        tokens: VisualTokens = self._time("project", partial(self._inner.project, h, frames))
        self.projected = tokens.features
        return tokens

    def vision(self, px: Tensor, frames: Sequence[Frame]) -> VisualTokens:
        """As the backbone, in parts."""
        return self.project(run_tower(self._inner.blocks(), self._inner.patches(px)), frames)

    def _time(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        if self._inner.spec.device.type != "cpu":
            torch.accelerator.synchronize(self._inner.spec.device)
        self.ms[name] = 1000 * (time.perf_counter() - start)
        return result


class Bench:
    """One shared model and its contenders.

    Args:
        setting: What is measured.

    Raises:
        ValueError: The shape or the pipeline is wrong.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        place = torch.device(setting.device)
        self._model = plain.build_large(
            plain.shape_config(setting.shape), dtype=getattr(torch, setting.dtype), device=place
        )
        self._backbone = Timed(adopt(self._model, plain.word_tokenizer([]), name=setting.shape))
        self._engine = Engine(self._backbone)
        self._engine.open(setting.pipeline).close()

    @property
    def side(self) -> int:
        """Side of a frame in pixels."""
        return int(self._model.config.vision_config.image_size)

    @torch.no_grad()
    def run(self, frames: Iterable[Frame], *, progress: Callable[[], None] = lambda: None) -> Run:
        """Take frames through every contender, the order changing from frame to frame.

        Args:
            frames: As many as the longest length.
            progress: Called after every frame.

        Raises:
            ValueError: There are fewer frames than that.
        """
        run, names = Run(), [DENSE, self.setting.pipeline]
        streams = {name: self._engine.open(name) for name in names}
        _, cache = plain.prefill(self._model, self._backbone.open().embeds)
        kept, index = dict.fromkeys(names, 0), -1
        for index, frame in enumerate(frames):
            for name in names if index % 2 else reversed(names):
                kept[name] += self._push(run, name, streams[name], frame)
            start = time.perf_counter()
            plain.prefill(self._model, self._backbone.dense, cache)
            self._wait()
            run.note(TRANSFORMERS, "prefill", 1000 * (time.perf_counter() - start))
            if index + 1 in self.setting.lengths:
                for name in names:
                    run.answers.setdefault(name, {})[str(index + 1)] = self._ask(streams[name])
            progress()
        if index + 1 < self.setting.lengths[-1]:
            raise ValueError(f"source: ends after {index + 1} frames; the bench needs {self.setting.lengths[-1]}")
        run.kept = {name: count / (index + 1) for name, count in kept.items()}
        return run

    def _push(self, run: Run, name: str, stream: Stream, frame: Frame) -> int:
        stream.push(frame)
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
        return report.tokens_kept

    def _ask(self, stream: Stream) -> list[float]:
        found = stream.ask("what", max_tokens=8, evidence=0)
        further = (found.total_ms - found.first_token_ms) / max(1, len(found.tokens))
        return [found.first_token_ms, further]

    def _wait(self) -> None:
        if self._backbone.spec.device.type != "cpu":
            torch.accelerator.synchronize(self._backbone.spec.device)


def summarise(setting: Setting, runs: Sequence[Run]) -> dict[str, Any]:
    """Turn runs into the ratios and medians that are reported.

    Returns:
        ``vision_ratio`` (tower, projector and pooling, at the largest length), ``prefill_ratio`` (against transformers
        dense, by length), ``prefill_ratio_own`` (against our dense), ``own_prefill_ratio`` (our dense against
        transformers), ``end_to_end_ratio`` (everything but pixels, against dense tower and transformers' prefill),
        ``end_to_end_ratio_own``, and the median and spread of every stage.
    """
    ours, longest = setting.pipeline, setting.lengths[-1]

    def total(contender: str, stages: Sequence[str], length: int) -> float:
        return sum(sum(run.frames[contender][stage][:length]) for run in runs for stage in stages)

    def by_length(a: str, b: str) -> dict[str, float]:
        return {str(n): total(a, ["prefill"], n) / total(b, ["prefill"], n) for n in setting.lengths}

    baseline = total(DENSE, VISION, longest) + total(TRANSFORMERS, ["prefill"], longest)
    stages = {
        name: {stage: _spread([ms for run in runs for ms in run.frames[name][stage]]) for stage in found}
        for name, found in runs[0].frames.items()
    }
    return {
        "vision_ratio": total(ours, VISION, longest) / total(DENSE, VISION, longest),
        "prefill_ratio": by_length(ours, TRANSFORMERS),
        "prefill_ratio_own": by_length(ours, DENSE),
        "own_prefill_ratio": by_length(DENSE, TRANSFORMERS),
        "end_to_end_ratio": total(ours, ALL, longest) / baseline,
        "end_to_end_ratio_own": total(ours, ALL, longest) / total(DENSE, ALL, longest),
        "tokens_per_frame": runs[0].kept,
        "stages": stages,
        "answers": runs[0].answers,
        "runs": len(runs),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median and the middle half, in ms."""
    ranked = sorted(values)
    quarter = len(ranked) // 4
    return {"median": median(ranked), "low": ranked[quarter], "high": ranked[-1 - quarter]}


def read_runs(path: Path | None, setting: Setting) -> list[Run]:
    """Read the runs of an earlier bench with the same setting; none where there is no file.

    Raises:
        ValueError: The file is damaged, or holds another setting.
    """
    if path is None or not path.is_file():
        return []
    try:
        found = json.loads(path.read_text())
        known, runs = found["setting"], [Run(**run) for run in found["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no result of this bench ({error}); remove it or give another file") from None
    if known != json.loads(json.dumps(dataclasses.asdict(setting))):
        raise ValueError(f"{path}: holds runs of another setting ({known}); give another file")
    return runs


def write_runs(path: Path | None, setting: Setting, runs: Sequence[Run], machine: Mapping[str, Any]) -> None:
    """Write runs, and what they come to, so that a re-run goes on from them."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {
        "setting": dataclasses.asdict(setting),
        "machine": dict(machine),
        "result": summarise(setting, runs),
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    path.write_text(json.dumps(found) + "\n")


def lines(setting: Setting, result: Mapping[str, Any]) -> list[str]:
    """The result for people."""
    text = [f"{setting.pipeline} at the {setting.shape} shape, {setting.dtype} on {setting.device}:"]
    text.append(f"  vision (tower, projector, pooling)   {result['vision_ratio']:.3f} of dense")
    for name, what in (
        ("prefill_ratio", "prefill                              {} of transformers dense"),
        ("prefill_ratio_own", "prefill                              {} of own dense"),
        ("own_prefill_ratio", "own dense prefill                    {} of transformers"),
    ):
        ratios = ", ".join(f"{ratio:.3f} at {length}" for length, ratio in result[name].items())
        text.append("  " + what.format(ratios))
    text.append(f"  end to end                           {result['end_to_end_ratio']:.3f} of dense with transformers")
    for contender, stages in result["stages"].items():
        shown = ", ".join(f"{stage} {ms['median']:.0f}" for stage, ms in stages.items())
        text.append(f"  ms per frame, {contender}: {shown}")
    return text
