"""``headrace train``: train the embedded model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output

app = typer.Typer(no_args_is_help=True, help="Train models.")


@app.callback()
def common() -> None:
    """Train models."""


@app.command("nano")
@clean
def nano(
    context: typer.Context,
    *,
    folder: Annotated[Path, typer.Argument(help="Where checkpoints, log and result go.")] = Path("runs/nano"),
    minutes: Annotated[float | None, typer.Option(help="How long to train in all; default 180.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in all, instead of minutes.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data.")] = 1,
    device: options.Device = "auto",
    start: Annotated[str | None, typer.Option(help="Checkpoint to start from; nano is the embedded one.")] = None,
    first: Annotated[
        str | None, typer.Option(help="With --start, the phase to begin with: follow (default) or watch.")
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="Train a finished run on, for --minutes or --steps.")] = False,
    drop: Annotated[
        str | None, typer.Option(help="Who drops tokens: mixed (default); uniform and none are controls.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start anew instead of resuming.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Run the whole path in seconds, for tests.")] = False,
    as_json: options.Json = False,
) -> None:
    """Train nano on the synthetic world; Ctrl-C saves, and the same command goes on.

    Example: headrace train nano runs/nano --minutes 180, then headrace train nano runs/nano --more --minutes 60
    """
    from headrace.train import train_nano

    if minutes is not None and not 0 < minutes < float("inf"):
        raise ValueError(f"--minutes: must be a number above 0, not {minutes:g}")
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    try:
        result = train_nano(
            folder,
            minutes=minutes,
            steps=steps,
            seed=seed,
            threads=context.obj.threads or 1,
            device=device,
            resume=not restart,
            smoke=smoke,
            start=start,
            first=first,
            more=more,
            drop=drop,
            progress=not as_json and context.obj.verbosity >= 0,
        )
    except KeyboardInterrupt as stopped:
        if stopped.args:
            out.note(str(stopped))
        raise
    out.object("trained", folder=str(folder), **result)
    out.line(f"checkpoint {result['checkpoint']}: held-out accuracy {result['macro']:.3f}, majority")
    out.line(f"{result['majority']:.3f}, standing instructions F1 {result['speak_f1']:.3f}; the card has the rest")


@app.command("measure")
@clean
def measure(
    context: typer.Context,
    *,
    folder: Annotated[str, typer.Argument(help="A trained nano: a folder, or nano for the embedded one.")] = "nano",
    clips: Annotated[int, typer.Option(min=2, help="Held-out clips per seed.")] = 400,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of held-out worlds.")] = 3,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Speak where silence is less likely.")] = 0.5,
    as_json: options.Json = False,
) -> None:
    """Measure a trained nano on held-out worlds: by kind, length and level, and on standing instructions.

    Example: headrace train measure nano --clips 100 --seeds 1
    """
    import torch

    from headrace.train import measure_nano
    from headrace.train.export import table

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    torch.set_num_threads(context.obj.threads or torch.get_num_threads())
    with out.progress("held-out worlds", 2 * seeds + 6) as move:
        found = measure_nano(folder, clips=clips, seeds=seeds, threshold=threshold, report=lambda title: move())
    out.object("measured", model=folder, **found.figures)
    out.line(table(found))
    spoken = found.spoken.whole
    out.line(f"standing instructions, {found.spoken.events} events: F1 {spoken.f1:.3f} within one frame, precision")
    out.line(f"{spoken.precision:.3f}, recall {spoken.recall:.3f}, threshold {threshold}")
    for name, tally in found.spoken.tallies.items():
        out.line(f"  {name}: F1 {tally.f1:.3f}, {tally.hits + tally.missed} events")
