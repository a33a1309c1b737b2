"""``headrace bench attention``: the fused kernel against plain products on this processor."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output


@clean
def attention(
    context: typer.Context,
    *,
    model_shape: Annotated[str, typer.Option(help="Shape that gives heads and width.")] = "llava-onevision-0.5b",
    rows: Annotated[str, typer.Option(help="New rows, with commas.")] = "1,64,196",
    past: Annotated[str, typer.Option(help="Rows before them, with commas.")] = "1024,4096,12288",
    repeats: Annotated[int, typer.Option(min=1, help="Times each is measured; the least counts.")] = 7,
    dtype: options.Dtype = "bfloat16",
    as_json: options.Json = False,
) -> None:
    """Compare the two ways of attention on a CPU: torch's fused kernel, and plain fp32 products.

    Errors are distances from fp64; the engine takes products where they are the faster way.

    Example: headrace --threads 1 bench attention --rows 196 --past 4096
    """
    import torch

    from headrace.bench.attention import attention as compare
    from headrace.bench.machine import machine
    from headrace.bench.table import table
    from headrace.engine.engine import choose_dtype

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    kind = choose_dtype(dtype, torch.device("cpu"), model_shape)
    sizes = _numbers("--rows", rows), _numbers("--past", past)
    with out.progress("both ways in turn", len(sizes[0]) * len(sizes[1])) as move:
        found = compare(model_shape, *sizes, dtype=kind, repeats=repeats, progress=move)
    at, lines = machine(), []
    for one in found:
        out.object("attention", dtype=str(kind), **asdict(one), machine=at)
        chosen = f"{one.chosen_ms:.2f} ({one.chosen_ms / one.fused_ms:.2f})"
        errors = f"{one.fused_error:.1e}", f"{one.products_error:.1e}"
        name = f"{one.heads} / {one.kv_heads} x {one.width}"
        times = f"{one.fused_ms:.2f}", f"{one.products_ms:.2f}"
        lines.append([name, str(one.rows), str(one.past), *times, chosen, *errors])
    header = [
        "heads",
        "rows",
        "past",
        "fused, ms",
        "products, ms",
        "engine, ms (of fused)",
        "fused error",
        "products error",
    ]
    where = f"{at['cpu']}, {at['threads']} threads, torch {at['torch']}, {kind}"
    out.line(table(header, lines) + f"\n\n`headrace bench attention`: {where}.")


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no list of whole numbers such as 64,196") from None
