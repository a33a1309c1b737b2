"""Train nano from nothing, or go on where a run stopped."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from headrace.backbones import plain
from headrace.engine.engine import choose_device
from headrace.train import bind, follow, see, watch
from headrace.train.evaluate import evaluate
from headrace.train.export import Trained, export
from headrace.train.loop import Phase, Report, Run
from headrace.train.notes import NoteHead
from headrace.train.pack import Words
from headrace.train.recipe import NANO, SMOKE, Recipe
from headrace.train.see import TokenHead
from headrace.train.show import Bar, draw_curve
from headrace.train.start import start_decoder
from headrace.train.study import study
from headrace.video.world import vocabulary

STUDIES = {"bind": bind.clips, "follow": follow.clips, "watch": watch.clips}
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
    progress: bool | Report = True,
) -> dict[str, Any]:
    """Train nano and export it.

    Args:
        folder: The run's folder: ``log.jsonl``, ``curve.png``, ``state.pt``, and the checkpoint in ``nano/``.
        minutes: How long to train in all; interruptions do not count. 90 when ``steps`` is not given either.
        steps: Steps in all, instead of minutes: the same steps give the same run, however fast the machine.
        seed: Seed of weights, worlds and order.
        threads: CPU threads.
        device: Where to compute; ``auto`` takes an accelerator if there is one.
        resume: Go on with the run in the folder, if it holds one; False starts anew and forgets that run.
        smoke: Walk the whole path at once with almost no steps, to test it.
        progress: Show a bar, or a function that is called with (phase, share done, figures).

    Returns:
        ``checkpoint`` (the folder to load), and held-out accuracies, macro over the kinds: ``macro_8_frames``,
        ``macro_16_frames``, ``macro_8_frames_30_percent_kept``, ``majority_8_frames``.

    Raises:
        ValueError: A number is out of range, the device is not there, or the folder holds a run of another seed.
        KeyboardInterrupt: Ctrl-C; the run has been saved and goes on with the same call.
    """
    if minutes is not None and steps is not None:
        raise ValueError("give minutes or steps, not both")
    if (minutes is not None and minutes <= 0) or (steps is not None and steps < 4):
        raise ValueError("minutes must be more than 0, and steps at least 4")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}")
    recipe = SMOKE if smoke else NANO
    if smoke:
        steps, minutes = 8, None
    elif minutes is None and steps is None:
        minutes = 90.0
    torch.set_num_threads(threads)
    run = Run(Path(folder), seed, choose_device(device))
    run.folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for old in (run.state, run.folder / "log.jsonl"):
            old.unlink(missing_ok=True)
    phases = recipe.phases(minutes, steps)
    with contextlib.ExitStack() as stack:
        if progress is True:
            run.report = stack.enter_context(Bar([phase.name for phase in phases]))
        elif progress:
            run.report = progress
        try:
            model, tokenizer = _train(run, phases, recipe)
        except KeyboardInterrupt:
            run.log(event="interrupted")
            if progress is True:
                Console(stderr=True).print(f"stopped and saved in {run.folder}; the same command goes on from there")
            raise
    draw_curve(run.folder)
    return finish(run, model, tokenizer, threads=threads, clips=4 if smoke else 400)


def build_nano(seed: int) -> tuple[dict[str, Any], Any]:
    """Build nano with random weights and the throw-away heads (``model``, ``head``, ``notes``), and its tokenizer."""
    tokenizer = plain.word_tokenizer(vocabulary())
    model = plain.build(plain.nano_config(len(tokenizer)), seed=seed)
    model.model.vision_tower.set_attn_implementation("eager")  # 256 rows: faster than the fused kernel on a CPU
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = model.config.text_config.hidden_size
        return {"model": model, "head": TokenHead(width), "notes": NoteHead(width)}, tokenizer


def _train(run: Run, phases: list[Phase], recipe: Recipe) -> tuple[Any, Any]:
    parts, tokenizer = build_nano(run.seed)
    for part in parts.values():
        part.to(run.device)
    if run.state.exists():
        run.load(parts)
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
        study(
            run,
            phase,
            parts,
            words,
            STUDIES[phase.name],
            clips=recipe.clips[phase.name],
            fresh=recipe.fresh,
            crowded=CROWDED[phase.name],
            capacity=recipe.capacity,
        )
    return model, tokenizer


def finish(run: Run, model: Any, tokenizer: Any, *, threads: int, clips: int) -> dict[str, Any]:
    """Measure a trained model on held-out worlds and export it; returns what ``train_nano`` does."""
    words = Words(tokenizer)
    half = torch.bfloat16
    for weight in model.parameters():  # measure what is shipped
        weight.data = weight.data.to(half).to(weight.dtype)
    measured = [
        evaluate(model, words, clips=clips, frames=8),
        evaluate(model, words, clips=clips, frames=16),
        evaluate(model, words, clips=clips, frames=8, ratio=0.3, selector="noisy"),
    ]
    for part in measured:
        run.log(event="measured", title=part.title, macro=part.model.macro, by_kind=part.model.by_kind)
    trained = Trained(run.seed, dict(run.finished), dict(run.seconds), threads)
    checkpoint = export(model, tokenizer, run.folder / "nano", trained, measured)
    eight, sixteen, thinned = measured
    return {
        "checkpoint": str(checkpoint),
        "macro_8_frames": eight.model.macro,
        "macro_16_frames": sixteen.model.macro,
        "macro_8_frames_30_percent_kept": thinned.model.macro,
        "majority_8_frames": eight.majority.macro,
    }
