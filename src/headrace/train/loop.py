"""The loop every phase shares: optimiser, schedule, log, checkpoint, resume.

A run is a folder: ``log.jsonl`` (one JSON object per line), ``state.pt`` (everything needed to go on), ``curve.png``.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Report = Callable[[str, float, dict[str, float]], None]
WARM = 60  # steps from 0 to the full rate, at the start of a phase and after every resume
SAVE_S, LOG_STEPS = 60.0, 20


@dataclass(frozen=True, slots=True)
class Phase:
    """How long and how fast a phase trains.

    Attributes:
        name: Its name in log and checkpoint.
        rate: Highest learning rate.
        steps: Steps it takes, or None when it runs by the clock.
        seconds: Seconds it takes when it runs by the clock; interruptions do not count.
        ripe: Its curriculum is over from the start: everything is as it is at the phase's end.
    """

    name: str
    rate: float
    steps: int | None = None
    seconds: float = 0.0
    ripe: bool = False

    def done(self, step: int, spent_s: float) -> float:
        """Return the share of the phase that is over, 0..1."""
        share = step / self.steps if self.steps else spent_s / max(self.seconds, 1e-9)
        return min(1.0, share)


@dataclass(slots=True)
class Run:
    """A training run on disk.

    Attributes:
        folder: Where it lives.
        seed: Seed of weights, worlds and order.
        device: Where it computes.
        report: Called now and then with (phase, share done 0..1, figures).
        finished: Names of the phases that are over, with the steps each took.
        seconds: Seconds that each finished phase took.
        at: (phase, step, seconds spent in it) of the checkpoint that was resumed, or None.
        optimiser: The optimiser's state in that checkpoint, until its phase goes on.
        start: The checkpoint the run started from, empty when it started from nothing.
        origin: The same with its hash, for the card.
        first: The phase it begins with, empty for whatever the run on disk says.
        drop: Who drops tokens, empty for whoever the run on disk says.
        smoke: Whether it is a smoke run, None for whatever the run on disk is.
    """

    folder: Path
    seed: int
    device: torch.device
    report: Report = field(default=lambda phase, share, figures: None)
    finished: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    at: tuple[str, int, float] | None = None
    optimiser: dict[str, Any] | None = None
    start: str = ""
    origin: str = ""
    first: str = ""
    drop: str = ""
    smoke: bool | None = None

    @property
    def state(self) -> Path:
        """The checkpoint."""
        return self.folder / "state.pt"

    def log(self, **row: Any) -> None:
        """Append one line to the log."""
        with (self.folder / "log.jsonl").open("a") as out:
            out.write(json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()}) + "\n")

    def save(self, parts: dict[str, Any], at: tuple[str, int, float] | None) -> None:
        """Write the checkpoint whole or not at all."""
        content = {name: part.state_dict() for name, part in parts.items()}
        partial = self.state.with_suffix(".part")
        done = {"seed": self.seed, "finished": self.finished, "seconds": self.seconds, "at": at}
        kind = {"start": self.start, "origin": self.origin, "first": self.first, "drop": self.drop, "smoke": self.smoke}
        torch.save({"parts": content, **done, **kind}, partial)
        os.replace(partial, self.state)

    def load(self, parts: dict[str, Any]) -> None:
        """Read the checkpoint into modules, and where the run stood into this object.

        Raises:
            ValueError: The checkpoint belongs to another seed, start, drop or shape of nano, or to a smoke run and this
                is none, or the other way round.
        """
        content = torch.load(self.state, map_location=self.device, weights_only=True)
        if content["seed"] != self.seed:
            raise ValueError(f"{self.folder} holds a run with seed {content['seed']}, not {self.seed}")
        first = content.get("first") or ("follow" if content.get("start") else "see")
        start, drop, smoke = content.get("start", ""), content.get("drop") or "mixed", bool(content.get("smoke"))
        if self.start not in ("", start):
            raise ValueError(f"{self.folder} holds a run that did not start from {self.start}; --restart starts anew")
        if self.first not in ("", first):
            raise ValueError(f"{self.folder} holds a run that began with {first}, not {self.first}")
        if self.drop not in ("", drop):
            raise ValueError(f"{self.folder} holds a run with --drop {drop}, not {self.drop}; --restart starts anew")
        if self.smoke not in (None, smoke):
            held = "a smoke run; give another folder" if smoke else "a run that is no smoke run; give another folder"
            raise ValueError(f"{self.folder} holds {held}")
        try:
            for name, part in parts.items():
                part.load_state_dict(content["parts"][name])
        except (KeyError, RuntimeError):
            raise ValueError(f"{self.folder} holds a run of another shape of nano; --restart starts anew") from None
        self.finished, self.seconds, self.at = content["finished"], content["seconds"], content["at"]
        self.first = first
        self.start, self.origin, self.drop, self.smoke = start, content.get("origin", ""), drop, smoke
        self.optimiser = content["parts"].get("optimiser")


def fit(
    run: Run,
    phase: Phase,
    parts: dict[str, nn.Module],
    trained: Iterable[nn.Parameter],
    step_loss: Callable[[int, float], tuple[Tensor, dict[str, float]]],
) -> None:
    """Train one phase, or what is left of it, and mark it finished.

    Args:
        run: Where to log and to save.
        phase: How long and how fast.
        parts: Modules of the checkpoint, by name.
        trained: Parameters to train; all others stay as they are.
        step_loss: From (step, share done) to the loss and figures for the log.

    Raises:
        ValueError: The loss or its gradient is no finite number; nothing of that step is kept.
    """
    weights = list(trained)
    for weight in (w for part in parts.values() for w in part.parameters()):
        weight.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimiser = torch.optim.AdamW(weights, lr=phase.rate, betas=(0.9, 0.98), weight_decay=0.01)
    step, spent = 0, 0.0
    if run.at and run.optimiser and run.at[0] == phase.name:
        step, spent = run.at[1], run.at[2]
        optimiser.load_state_dict(run.optimiser)
        run.optimiser = None
    saved_s, born = time.monotonic(), step
    everything: dict[str, Any] = {**parts, "optimiser": optimiser}
    try:
        while (share := phase.done(step, spent)) < 1:
            began = time.monotonic()
            rate = phase.rate * min(1.0, (step - born + 1) / WARM) * _decay(share)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss, figures = step_loss(step, share)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(weights, 1.0)
            if not torch.isfinite(norm):
                raise ValueError(f"{phase.name}: the loss is no number at step {step}; the last checkpoint stands")
            optimiser.step()
            step, spent = step + 1, spent + time.monotonic() - began
            if step % LOG_STEPS == 0 or phase.done(step, spent) == 1:
                row = {"loss": float(loss.detach()), "rate": rate, "norm": float(norm), **figures}
                run.log(phase=phase.name, step=step, spent_s=spent, **row)
                run.report(phase.name, phase.done(step, spent), row)
            if time.monotonic() - saved_s > SAVE_S:
                run.save(everything, (phase.name, step, spent))
                saved_s = time.monotonic()
    except KeyboardInterrupt:
        run.save(everything, (phase.name, step, spent))
        raise
    run.finished[phase.name], run.seconds[phase.name], run.at = step, spent, None
    run.save(dict(parts), None)


def _decay(share: float) -> float:
    """Full rate for the first 40 %, then down in a straight line to 5 %."""
    return 1.0 if share < 0.4 else 1 - 0.95 * (share - 0.4) / 0.6
