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
    minutes: Annotated[float | None, typer.Option(help="How long to train in all; default 90.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in all, instead of minutes.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and data.")] = 1,
    device: options.Device = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Start anew instead of resuming.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Run the whole path in seconds, for tests.")] = False,
    as_json: options.Json = False,
) -> None:
    """Train nano on the synthetic world; Ctrl-C saves, and the same command goes on.

    Example: headrace train nano runs/nano --minutes 90
    """
    from headrace.train import train_nano

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
            progress=not as_json and context.obj.verbosity >= 0,
        )
    except KeyboardInterrupt:
        out.note(f"stopped; the run is saved in {folder}, the same command goes on")
        raise
    out.object("trained", folder=str(folder), **result)
    for key, value in result.items():
        out.line(f"{key:>30}  {value:.3f}" if isinstance(value, float) else f"{key:>30}  {value}")
