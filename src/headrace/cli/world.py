"""``headrace world``: write the synthetic world as a video file with its questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output

LONGEST_S = 86400.0


@clean
def world(
    context: typer.Context,
    *,
    path: Annotated[Path, typer.Argument(metavar="OUT.mp4", help="The video file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the world; the same seed gives the same pictures.")] = 0,
    seconds: Annotated[float, typer.Option(help="Length.")] = 60.0,
    size: Annotated[
        int | None, typer.Option(help="Height and width in pixels, a multiple of the level's 128 or 160; twice that.")
    ] = None,
    level: Annotated[str, typer.Option(help="How hard the world is: easy, standard or hard.")] = "standard",
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there already.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write a synthetic stream as H.264, and its questions with true answers as JSON beside it.

    Example: headrace world --seed 7 --seconds 60 out.mp4
    """
    from headrace.video.world import LEVELS, TICKS_PER_SECOND, write_video

    if level not in LEVELS:
        raise ValueError(f"level: {level!r} is unknown; known: {', '.join(LEVELS)}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--seconds: must be above 0, not {seconds:g}")
    if seconds > LONGEST_S:
        raise ValueError(f"--seconds: must be at most {LONGEST_S:.0f}, a day, not {seconds:g}")
    if not force and (there := [str(file) for file in (path, path.with_suffix(".json")) if file.is_file()]):
        raise ValueError(f"{' and '.join(there)}: there already; --force writes over it, or give another name")
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    with out.progress(f"rendering {path}", int(seconds * TICKS_PER_SECOND)) as move:
        sheet = write_video(path, seed, seconds, size=size, level=LEVELS[level], progress=lambda done, total: move())
    out.object("written", video=str(path), questions=str(sheet))
    out.line(f"wrote {path} and {sheet}")
