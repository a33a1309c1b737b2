"""``headrace methods``: what can stand in a pipeline."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer
from rich.table import Table

from headrace.cli import options
from headrace.cli.failing import clean
from headrace.cli.output import Output


@clean
def methods(
    context: typer.Context,
    *,
    name: Annotated[str | None, typer.Argument(help="Show one method in full.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the methods and presets a pipeline may name.

    Example: headrace methods streamingllm
    """
    from headrace import registry

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    chosen = [registry.lookup(name)] if name else list(registry.entries().values())
    rows = [_describe(entry) for entry in chosen]
    for row in rows:
        out.object("method", **row)
    for preset, text in registry.presets().items():
        out.object("preset", name=preset, pipeline=text)
    if as_json:
        return
    if name:
        for key, value in rows[0].items():
            out.line(f"{key:>10}  {value}")
        return
    table = Table("role", "name", "parameters", "what", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        values = ", ".join(f"{key}={value!r}" for key, value in row["parameters"].items())
        table.add_row(row["role"], row["name"], values, row["title"])
    out.console.print(table)
    for preset, text in registry.presets().items():
        out.line(f"preset {preset} = {text}")


def _describe(entry: Any) -> dict[str, Any]:
    """What is known of a method."""
    card = entry.method.card
    return {
        "role": entry.role,
        "name": entry.name,
        "title": card.title,
        "does": (entry.method.__doc__ or "").strip().splitlines()[0],
        "parameters": {field.name: field.default for field in dataclasses.fields(entry.method)},
        "shorthand": entry.method.shorthand,
        "tunable": sorted(entry.method.tunable),
        "causal": entry.method.causal,
        "paper": card.paper,
        "licence": card.licence,
        "differs": card.differs,
    }
