"""Running an accuracy bench stream by stream, with a word on how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace.bench.accuracy import Setting
    from headrace.bench.ledger import Ledger
    from headrace.engine import Engine

FULL_FRAMES = 16  # until which a memory of so many frames fills, and questions cost less


def open_ledger(save: Path | None, engine: Engine, setting: Setting) -> Ledger:
    """Open the rows of this model, setting and place; without a file they are kept until the command ends."""
    from headrace.bench.ledger import Ledger
    from headrace.bench.machine import machine, place

    spec = engine.backbone.spec
    return Ledger(save, spec.fingerprint, setting, place(machine(), spec.device))


def told_model(model: str, weights: str, dtype: object) -> str:
    """Name a model for a caption, with its weights and number type where these are not ``full`` and ``float32``."""
    kind = str(dtype).removeprefix("torch.")
    other = [f"{weights} weights"] * (weights != "full") + [kind] * (kind != "float32")
    return f"{model} ({', '.join(other)})" if other else model


def told_setting(setting: Setting) -> str:
    """Say for a caption what is not the default: exact pixels, moments of asking, kinds, cuts; empty where all is."""
    kinds = f" of the kinds {setting.kinds.replace(',', ', ')}" if setting.kinds else ""
    every = f" every {setting.every_s:g} s" if setting.every_s != type(setting)().every_s else ""
    parts = [
        f" with a cut every {setting.cut_s:g} s" if setting.cut_s else "",
        "" if setting.h264 else ", exact pixels",
        f", questions{kinds}{every}" if kinds or every else "",
    ]
    return "".join(parts)


def fill(out: Output, ledger: Ledger, engine: Engine, names: Sequence[str], *, seeds: int) -> None:
    """Run what the ledger does not hold yet, stream by stream.

    Args:
        out: Takes progress and the estimate.
        ledger: Takes the rows.
        engine: The model.
        names: Pipelines, as ``bench.accuracy.run_seed`` takes them, and ``majority``.
        seeds: Streams.
    """
    from headrace.bench.accuracy import majority_row, run_seed
    from headrace.bench.names import MAJORITY

    setting = ledger.setting
    missing = {seed: [name for name in names if not ledger.has(name, seed)] for seed in range(seeds)}
    to_run = {seed: [name for name in found if name != MAJORITY] for seed, found in missing.items()}
    num = int(setting.seconds * 2)
    clock = Estimate(out, num, [len(found) for found in to_run.values() if found], round(2 * setting.every_s))
    for seed, found in missing.items():
        if MAJORITY in found:
            ledger.add(majority_row(seed, setting))
        if to_run[seed]:
            with out.progress(f"stream {seed + 1} of {seeds}", num) as move:
                for row in run_seed(engine, to_run[seed], seed, setting, progress=clock.over(move)):
                    ledger.add(row)


class Estimate:
    """Says once how long a bench will take, as soon as full frames with their questions have been timed.

    Args:
        out: Where to say it.
        frames: Frames per stream.
        pipelines: Pipelines to run on each stream that is left.
        every: Frames between two moments of asking.
        clock: Seconds.
    """

    def __init__(
        self,
        out: Output,
        frames: int,
        pipelines: Sequence[int],
        every: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out, self._frames, self._pipelines, self._clock = out, frames, list(pipelines), clock
        begin = min(-(-FULL_FRAMES // every) * every, max(0, (frames // every - 1) * every))
        self._begin, self._stop = begin, begin + every
        self._seen, self._since = 0, clock()
        self._start = self._since

    def over(self, move: Callable[[], Any]) -> Callable[[], None]:
        """What to call after every frame."""

        def moved() -> None:
            self._seen += 1
            if self._seen == self._begin:
                self._since = self._clock()
            elif self._seen == self._stop and self._pipelines:
                self._say()
            move()

        return moved

    def _say(self) -> None:
        now = self._clock()
        per_frame = (now - self._since) / (self._stop - self._begin) / self._pipelines[0]
        left = per_frame * (self._frames * sum(self._pipelines) - self._seen * self._pipelines[0])
        minutes = (now - self._start + left) / 60
        self._out.object("estimate", minutes=minutes, streams=len(self._pipelines), pipelines=self._pipelines[0])
        self._out.note(
            f"{sum(self._pipelines)} runs of {self._frames} frames, {len(self._pipelines)} streams: about"
            f" {max(1, round(minutes))} minutes in all" + ("" if minutes < 2 else "; with --save a stopped run goes on")
        )
