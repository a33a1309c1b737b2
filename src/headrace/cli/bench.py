"""``headrace bench``: figures anyone can reproduce."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output

app = typer.Typer(no_args_is_help=True, help="Measure the engine.")


@app.callback()
def common() -> None:
    """Measure the engine."""


@app.command("overhead")
@clean
def overhead(
    context: typer.Context,
    *,
    model_shape: Annotated[str, typer.Option(help="Shape of the random model.")] = "llava-onevision-0.5b",
    frames: Annotated[int, typer.Option(min=4, help="Frames per run.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Runs.")] = 1,
    dtype: options.Dtype = "bfloat16",
    device: options.Device = "auto",
    save: Annotated[Path | None, typer.Option(help="Write the result to this JSON file.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Rebuild the table in this Markdown file.")] = None,
    as_json: options.Json = False,
) -> None:
    """Compare the engine with the bare modules, and own prefill with transformers', frame by frame in one process.

    Example: headrace bench overhead --frames 8 --json
    """
    from headrace.bench import overhead as bench
    from headrace.bench.machine import machine
    from headrace.bench.table import replace_between
    from headrace.engine.engine import choose_device, choose_dtype

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    place = choose_device(device)
    kind = choose_dtype(dtype, place, model_shape)
    with out.progress(f"{model_shape}, {frames} frames", repeats * frames + 2) as move:
        found = bench.overhead(
            shape=model_shape, frames=frames, repeats=repeats, dtype=kind, device=place, progress=move
        )
    result = {"bench": "overhead", "dtype": str(kind), "device": str(place), **asdict(found), "machine": machine()}
    out.object("result", **result)
    text = _table(result)
    out.line(text)
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(result, indent=1) + "\n")
    if readme is not None:
        replace_between(readme, "bench:overhead", text)


def _table(result: dict[str, Any]) -> str:
    from headrace.bench.table import table

    at, dtype = result["machine"], result["dtype"].removeprefix("torch.")
    rows = [
        [
            "engine / bare modules",
            f"{result['engine_ratio']:.3f}",
            f"{result['engine_ms']:.0f} / {result['bare_ms']:.0f}",
        ],
        [
            "own prefill / transformers prefill",
            f"{result['prefill_ratio']:.3f}",
            f"{result['prefill_ms']:.0f} / {result['transformers_ms']:.0f}",
        ],
        ["the same, last quarter of the frames", f"{result['prefill_ratio_last']:.3f}", ""],
    ]
    where = (
        f"`headrace bench overhead`: {result['shape']} (random weights), {result['frames']} frames of"
        f" {result['rows_per_frame']} tokens, {dtype} on {result['device']} ({at['cpu']}, {at['threads']} threads),"
        f" torch {at['torch']}, transformers {at['transformers']}, {at['date']}."
    )
    return table(["what", "ratio", "ms per frame (median)"], rows) + "\n\n" + where
