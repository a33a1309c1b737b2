"""``headrace bench recall``: what a memory can still say of what was long ago."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.filling import told_model
from headrace.cli.output import Output
from headrace.cli.pace import Pace

if TYPE_CHECKING:
    from headrace.bench.recall import Setting
    from headrace.bench.recalled import Rows
    from headrace.engine import Engine

DEFAULT_ROWS = "streamingllm:1040,recent:16,recent:4,full,moment,majority"


@clean
def recall(
    context: typer.Context,
    *,
    pipelines: Annotated[
        str,
        typer.Option(
            help="Pipelines with commas between them; NAME@FIELD=VALUE sets a field; also majority, and moment:"
            " the moment's own scene and nothing else."
        ),
    ] = DEFAULT_ROWS,
    ages: Annotated[str, typer.Option(help="Minutes between a moment and its questions, with commas.")] = "1,5,20,60",
    streams: Annotated[int, typer.Option(min=1, help="Streams; each asks nine questions per age.")] = 12,
    askings: Annotated[int, typer.Option(help="How often each is asked at an age, 5 s apart.")] = 1,
    fps: Annotated[float, typer.Option(help="Frames per second of the streams: 2, or 1 for half the work.")] = 2.0,
    level: Annotated[str, typer.Option(help="Level of the world.")] = "standard",
    memory_mb: Annotated[float, typer.Option(help="Most MiB for a memory that grows without end.")] = 1024.0,
    model: options.Model = "nano",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    weights: options.WeightsText = "full",
    save: Annotated[Path | None, typer.Option(help="JSON-lines file to keep rows in; a re-run goes on.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Rebuild the table in this Markdown file.")] = None,
    as_json: options.Json = False,
) -> None:
    """Ask about things that a long stream showed once, some minutes after: accuracy by age for every memory.

    Example: headrace --threads 1 bench recall --ages 1,5 --streams 4 --pipelines streamingllm:1040,recent:16
    """
    from headrace.bench.machine import hardware, machine, place
    from headrace.bench.recall import Setting
    from headrace.bench.recalled import Rows, caption, recall_table, summarise
    from headrace.bench.table import check_places, replace_between
    from headrace.engine import load

    check_places(save, readme, "bench:recall")
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    setting = Setting(ages=_ages(ages), level=level, memory_mb=memory_mb, askings=askings, fps=fps)
    names = list(dict.fromkeys(name.strip() for name in pipelines.split(",") if name.strip()))
    engine = load(model, dtype=dtype, device=device, weights=weights)
    at, spec = machine(), engine.backbone.spec
    rows = Rows(save, spec.fingerprint, setting, place(at, spec.device))
    _fill(out, rows, engine, names, streams, setting)
    found = summarise(rows.rows, names, streams, setting)
    for result in found:
        out.object("result", **result)
    what = f"{told_model(model, weights, spec.dtype)}, {level} level"
    where = f"{hardware(at)}, {at['threads']} threads, torch {at['torch']}, {at['date']}."
    text = f"{recall_table(found, setting)}\n\n{caption(found, setting, what, streams)}; {where}"
    out.line(text)
    if readme is not None:
        replace_between(readme, "bench:recall", text)


def _fill(out: Output, rows: Rows, engine: Engine, names: list[str], streams: int, setting: Setting) -> None:
    """Run what there is no row for yet, stream by stream."""
    from headrace.bench.names import MAJORITY
    from headrace.bench.recall import run_seed

    run = [name for name in names if name != MAJORITY]
    missing = {seed: [name for name in run if not rows.has(name, seed)] for seed in range(streams)}
    left = {seed: open_ for seed, open_ in missing.items() if open_}
    pace = Pace(out, sum(setting.num_frames(seed) for seed in left), known=50)
    for seed, open_ in left.items():
        for row in run_seed(engine, open_, seed, setting, progress=pace):
            rows.add(row)


def _ages(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--ages: {text!r} is no list of minutes such as 1,5,20") from None
