"""The program: its commands and what they have in common."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Annotated

import typer

import headrace
from headrace.cli import ask, bench, demo, doctor, methods, models, train, world
from headrace.cli.failing import stand_in

SPINS = "1000"  # how long idle threads of a CPU build wait in a loop; on a busy machine the default stalls all of them

app = typer.Typer(
    name="headrace",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Watch a live video stream with a video language model, and ask it questions at any moment.",
)
app.command("demo")(demo.demo)
app.command("ask")(ask.ask)
app.command("world")(world.world)
app.command("methods")(methods.methods)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(train.app, name="train")


@dataclass(frozen=True)
class Common:
    """Options that stand before the command: -1 quiet, 0 normal, 1 verbose; CPU threads or None."""

    verbosity: int
    threads: int | None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {headrace.__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="One line per step, and tracebacks.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads to use; default: all cores.")] = None,
) -> None:
    """Set what all commands share, before a command imports torch."""
    stand_in()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    context.obj = Common(1 if verbose else -1 if quiet else 0, threads)
    logging.getLogger("headrace").addHandler(logging.NullHandler())
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def main() -> None:
    """Run the program."""
    app()
