"""``headrace models``: which models can be loaded, and what an hour of stream costs on them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import typer
from rich.table import Table

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output

PRESETS = ("full", "streamingllm:2048", "recent:16")
WIDE = (360, 640)  # (height, width) of a frame, for families whose tokens depend on its shape
HOUR_FRAMES = 3600  # one hour at one frame per second
VERIFIED = "logits and greedy tokens equal transformers' at tiny random sizes in fp32; released weights were not run"


@clean
def models(context: typer.Context, *, as_json: options.Json = False) -> None:
    """List the model families, released checkpoints, and the bytes of one hour at 1 frame per second in bf16.

    Example: headrace models --json
    """
    from headrace.backbones import FAMILIES, TRANSFORMERS

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    rows = [{**row, "verified": f"{VERIFIED} (transformers {TRANSFORMERS})"} for row in _rows()]
    for row in rows:
        out.object("model", **row)
    if as_json:
        return
    table = Table("hub name", "tokens", "full", "window", "recent", box=None, header_style="bold", pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        costs = (f"{row['hour_bytes'][preset] / 2**20:,.0f} MiB" for preset in PRESETS)
        table.add_row(row["hub_name"], str(row["tokens_per_step"]), *costs)
    out.console.print(table)
    out.line(f"Families: {', '.join(FAMILIES)}. tokens: visual tokens of a step of {WIDE[1]} x {WIDE[0]} frames.")
    out.line(f"full, window, recent: what {', '.join(PRESETS)} hold; --pipeline takes these names.")
    out.line("Bytes: the past after one hour at 1 frame per second in bf16, timestamps and delimiters included;")
    out.line("a full past grows on and on, the others stay. nano is embedded and needs no download.")
    out.line(f"Verified: {VERIFIED}, on transformers {TRANSFORMERS}.")


@functools.cache
def _rows() -> list[dict[str, Any]]:
    """One row per released shape; nothing of its weights is built."""
    import torch

    from headrace.backbones import adopt, plain
    from headrace.types import Frame, View

    found, wide = [], Frame(0, 0.0, torch.zeros(*WIDE, 3, dtype=torch.uint8))
    for shape, family in plain.shapes().items():
        config = plain.shape_config(shape)
        model = plain.build_large(config, dtype=torch.bfloat16, device=torch.device("meta"))
        backbone = adopt(model, plain.word_tokenizer([], family), name=shape)
        spec = replace(backbone.at(backbone.choose(View(), wide)).spec, around_rows=plain.of(family).AROUND)
        found.append(
            {
                "family": family,
                "shape": shape,
                "hub_name": plain.of(family).HUB[shape],
                "parameters": sum(weight.numel() for weight in model.parameters()),
                "tokens_per_step": spec.grid[0] * spec.grid[1],
                "frames_per_step": spec.frames_per_step,
                "hour_bytes": {preset: hour_bytes(preset, spec) for preset in PRESETS},
            }
        )
    return found


def hour_bytes(preset: str, spec: Any) -> int:
    """Bytes of a memory's past after an hour: its bound, or where it has none what every row of the hour takes."""
    from headrace.engine import Pipeline

    bound = Pipeline.parse(preset).memory.bound_bytes(spec)
    rows = spec.prefix_rows + HOUR_FRAMES // spec.frames_per_step * (spec.grid[0] * spec.grid[1] + spec.around_rows)
    every = rows * spec.row_bytes
    return int(every if bound is None else min(bound, every))
