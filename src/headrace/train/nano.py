"""Train nano from nothing, or go on where a run stopped."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from headrace.backbones import plain
from headrace.engine.engine import choose_device
from headrace.train import bind, follow, see, watch
from headrace.train.drop import MIXES
from headrace.train.export import Trained, digest, export
from headrace.train.facts import FactHead
from headrace.train.grow import grow
from headrace.train.loop import Phase, Report, Run
from headrace.train.measure import Findings, measure
from headrace.train.notes import NoteHead
from headrace.train.pack import Words
from headrace.train.recipe import NANO, SMOKE, Recipe
from headrace.train.see import TokenHead
from headrace.train.show import Bar, draw_curve
from headrace.train.start import start_decoder
from headrace.train.study import study
from headrace.train.summary import SummaryHead
from headrace.video.world import ALL_INSTRUCTIONS, ALL_KINDS, vocabulary

STUDIES = {"bind": bind.clips, "follow": follow.clips, "watch": watch.clips}
MINUTES = 180.0  # of one thread
BEGINNINGS = ("follow", "watch")  # phases that a run from a checkpoint may begin with
CROWDED = {"bind": 70, "follow": 40, "watch": 25}  # percent of worlds with many sprites


def train_nano(
    folder: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 1,
    threads: int = 1,
    device: str = "cpu",
    resume: bool = True,
    smoke: bool = False,
    start: str | Path | None = None,
    first: str | None = None,
    more: bool = False,
    drop: str | None = None,
    progress: bool | Report = True,
) -> dict[str, Any]:
    """Train nano and export it.

    Args:
        folder: The run's folder: ``log.jsonl``, ``curve.png``, ``state.pt``, and the checkpoint in ``nano/``.
        minutes: How long to train in all; interruptions do not count. 180 when ``steps`` is not given
            either.
        steps: Steps in all, instead of minutes: the same steps give the same run, however fast the machine.
        seed: Seed of weights, worlds and order.
        threads: CPU threads.
        device: Where to compute; ``auto`` takes an accelerator if there is one.
        resume: Go on with the run in the folder, if it holds one; False starts anew and forgets that run.
        smoke: Walk the whole path at once with almost no steps, to test it.
        start: A checkpoint to start from instead of nothing, or ``nano`` for the embedded one: the phases that teach
            to see and to bind are left out. It may know fewer words and have fewer layers.
        first: With ``start``, the phase to begin with: ``follow`` (default), or ``watch``, which then goes on as it is
            at its end.
        more: Train a finished run on for ``minutes`` or ``steps``, with the last phase.
        drop: Who drops tokens in training: ``mixed``, or the controls ``uniform`` and ``none``; None for whoever does
            in the run that goes on, ``mixed`` in a new one.
        progress: Show a bar, or a function that is called with (phase, share done, figures).

    Returns:
        ``checkpoint`` (the folder to load), and what ``measure.Findings.figures`` holds: held-out accuracy, macro over
        the kinds (``macro``), by kind, of the majority answer, and ``speak_f1``.

    Raises:
        ValueError: A number is out of range, the device or the checkpoint to start from is not there, the folder holds
            a run of another kind (see ``Run.load``), or ``more`` is given and there is no finished run.
        KeyboardInterrupt: Ctrl-C; the run has been saved, and the text says how it goes on.
    """
    _check(minutes, steps, threads, drop, first)
    if first and not start and not (resume and (Path(folder) / "state.pt").exists()):
        raise ValueError(f"first {first} needs a checkpoint to start from; give start too")
    if more and not resume:
        raise ValueError("more goes on with a run, and a restart forgets it; give one of the two")
    if smoke:
        steps, minutes = 8, None
    elif minutes is None and steps is None:
        minutes = MINUTES
    torch.set_num_threads(threads)
    kind: dict[str, Any] = {"start": str(start or ""), "first": first or "", "drop": drop or "", "smoke": smoke}
    run = Run(Path(folder), seed, choose_device(device), **kind)
    origin = _checkpoint(run.start) if run.start and not (resume and run.state.exists()) else None
    run.folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in (run.state, run.folder / "log.jsonl"):
            old.unlink(missing_ok=True)
    parts, tokenizer = _open(run, origin)
    recipe = replace(SMOKE if smoke else NANO, drop=run.drop)
    phases = recipe.phases(minutes, steps, first=run.first)
    if more:
        phases = [_another(run, recipe, [phase.name for phase in phases], minutes, steps)]
    with contextlib.ExitStack() as stack:
        if progress is True:
            run.report = stack.enter_context(Bar([phase.name for phase in phases]))
        elif progress:
            run.report = progress
        try:
            _train(run, phases, recipe, parts, tokenizer)
        except KeyboardInterrupt:
            run.log(event="interrupted")
            raise KeyboardInterrupt(f"stopped; the run is saved in {run.folder}, the same command goes on") from None
    draw_curve(run.folder)
    try:
        return finish(run, parts["model"], tokenizer, threads=threads)
    except KeyboardInterrupt:
        again = "the same command" + (" without --more" if more else "")
        raise KeyboardInterrupt(f"stopped while measuring; training is over, {again} measures again") from None


def _check(minutes: float | None, steps: int | None, threads: int, drop: str | None, first: str | None) -> None:
    """Refuse numbers and names that are out of range."""
    if minutes is not None and steps is not None:
        raise ValueError("give minutes or steps, not both")
    if (minutes is not None and minutes <= 0) or (steps is not None and steps < 4):
        raise ValueError("minutes must be more than 0, and steps at least 4")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    if drop is not None and drop not in MIXES:
        raise ValueError(f"drop must be one of {', '.join(MIXES)}, not {drop!r}")
    if first is not None and first not in BEGINNINGS:
        raise ValueError(f"first must be one of {', '.join(BEGINNINGS)}, not {first!r}")


def build_nano(seed: int) -> tuple[dict[str, Any], Any]:
    """Build nano with random weights, its throw-away heads, by name, and its tokenizer."""
    tokenizer = plain.word_tokenizer(vocabulary(tuple(ALL_KINDS), ALL_INSTRUCTIONS))
    model = plain.build(plain.nano_config(len(tokenizer)), seed=seed)
    model.model.vision_tower.set_attn_implementation("eager")  # 256 rows: faster than the fused kernel on a CPU
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = model.config.text_config.hidden_size
        heads = {"head": TokenHead(width), "notes": NoteHead(width), "facts": FactHead(width)}
        heads["summary"] = SummaryHead(width)
        return {"model": model, **heads}, tokenizer


def embedded() -> Path:
    """Return the folder of the checkpoint that comes with the package."""
    return Path(str(files("headrace") / "weights" / "nano"))


def measure_nano(folder: str | Path, **how: Any) -> Findings:
    """Measure a trained nano on held-out worlds.

    Args:
        folder: A checkpoint, or ``nano`` for the embedded one.
        **how: As ``measure.measure`` takes it.

    Raises:
        ValueError: The folder holds no such checkpoint.
    """
    model, tokenizer = plain.load(_checkpoint(folder))
    return measure(model, Words(tokenizer), **how)


def _checkpoint(folder: str | Path) -> Path:
    """Return the folder of a checkpoint; ``nano`` is the embedded one."""
    path = embedded() if str(folder) == "nano" else Path(folder)
    if not (path / "config.json").exists():
        raise ValueError(f"{folder}: holds no checkpoint; give a folder that headrace train nano wrote, or nano")
    return path


def _open(run: Run, origin: Path | None) -> tuple[dict[str, Any], Any]:
    """Build the parts of a run, from its state, from a checkpoint or from nothing."""
    parts, tokenizer = build_nano(run.seed)
    if run.state.exists():
        run.load(parts)
    else:
        run.drop = run.drop or "mixed"
        run.first = run.first or ("follow" if run.start else "see")
        if origin is not None:
            grow(parts["model"], tokenizer, origin)
            run.origin = f"{Path(run.start).name}, sha256 {digest(origin)}"
    for part in parts.values():
        part.to(run.device)
    return parts, tokenizer


def _another(run: Run, recipe: Recipe, names: list[str], minutes: float | None, steps: int | None) -> Phase:
    """Return the next round of the last phase, or the one that was interrupted."""
    if missing := [name for name in names if name not in run.finished]:
        raise ValueError(f"{run.folder} holds no finished run: {missing[0]} is not over; train without --more first")
    last = names[-1]
    rounds = sum(name.split()[0] == last for name in run.finished)
    return recipe.phase(last, 1.0, minutes, steps, number=rounds + 1)


def _train(run: Run, phases: list[Phase], recipe: Recipe, parts: dict[str, Any], tokenizer: Any) -> None:
    model, head = parts["model"], parts["head"]
    words = Words(tokenizer)
    for phase in phases:
        if phase.name in run.finished:
            continue
        if phase.name == "see":
            see.train(run, phase, parts, frames=recipe.frames)
            continue
        if phase.name == "bind" and run.at is None:
            with torch.no_grad():
                values, _ = see.batch(run.seed, -1, recipe.frames)
                start_decoder(model, tokenizer, head, see.look(model, values.to(run.device)).flatten(0, 1))
        kind = phase.name.split()[0]
        study(
            run,
            phase,
            parts,
            words,
            STUDIES[kind],
            clips=recipe.clips[kind],
            recipe=recipe,
            crowded=CROWDED[kind],
        )


def finish(run: Run, model: Any, tokenizer: Any, *, threads: int) -> dict[str, Any]:
    """Measure a trained model on held-out worlds and export it; returns what ``train_nano`` does."""
    words = Words(tokenizer)
    half = torch.bfloat16
    for weight in model.parameters():  # measure what is shipped
        weight.data = weight.data.to(half).to(weight.dtype)
    found = measure(model, words, clips=2 if run.smoke else 400, seeds=1 if run.smoke else 3)
    run.log(event="measured", **found.figures)
    origin = run.origin or run.start
    trained = Trained(run.seed, dict(run.finished), dict(run.seconds), threads, origin, run.drop)
    checkpoint = export(model, tokenizer, run.folder / "nano", trained, found)
    return {"checkpoint": str(checkpoint), **found.figures}
