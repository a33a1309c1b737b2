"""``headrace methods``: what can stand in a pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
    name: Annotated[str | None, typer.Argument(help="Show one method or preset in full.")] = None,
    as_json: options.Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/methods.md.")] = False,
) -> None:
    """List the methods and presets a pipeline may name.

    Example: headrace methods streamingllm
    """
    from headrace import registry

    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    if markdown and as_json:
        raise ValueError("--markdown: is a page; leave out --json")
    if preset := registry.presets().get(name or ""):
        out.object("preset", name=name, pipeline=preset)
        out.line(f"preset {name} = {preset}")
        return
    chosen = [registry.lookup(name)] if name else list(registry.entries().values())
    rows = [_describe(entry) for entry in chosen]
    if markdown:
        typer.echo(page(rows, registry.presets()), nl=False)
        return
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


def page(rows: list[dict[str, Any]], presets: Mapping[str, str]) -> str:
    """Write the methods as a Markdown page."""
    lines = ["# Methods", "", "Written by `headrace methods --markdown`; do not edit.", ""]
    for role in dict.fromkeys(row["role"] for row in rows):
        lines += [f"## {role.capitalize()}", ""]
        for row in (row for row in rows if row["role"] == role):
            source = f" ({row['paper']}, {row['licence'] or 'no licence'})" if row["paper"] else ""
            lines.append(f"### `{row['name']}`: {row['title']}{source}")
            lines += ["", row["does"]]
            if row["differs"]:
                lines.append(f"Ours differs: {row['differs']}.")
            values = "; ".join(f"`{key}={value!r}`" for key, value in row["parameters"].items())
            lines += ["", f"Parameters: {values}." if values else "No parameters."]
            if row["shorthand"]:
                lines.append(f"`{row['name']}:VALUE` sets `{row['shorthand']}`.")
            if row["tunable"]:
                lines.append(f"May change while a stream runs: {', '.join(f'`{name}`' for name in row['tunable'])}.")
            lines.append("")
    if presets:
        lines += ["## Presets", ""] + [f"- `{name}` = `{text}`" for name, text in presets.items()] + [""]
    return "\n".join(lines)
