"""``headrace methods``: what can stand in a pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
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
    for preset, text in {} if name else registry.presets().items():
        out.object("preset", name=preset, pipeline=text)
    if as_json:
        return
    if name:
        _show(out, rows[0])
        return
    table = Table("role", "name", "parameters", "what", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        values = ", ".join(f"{key}={value!r}" for key, value in row["parameters"].items())
        table.add_row(row["role"], row["name"], values, row["title"])
    out.console.print(table)
    for preset, text in registry.presets().items():
        out.line(f"preset {preset} = {text}")


def _show(out: Output, row: dict[str, Any]) -> None:
    """Print a method in full."""
    out.line(f"{row['role']} {row['name']}: {row['title']}")
    out.line(row["does"])
    for paragraph in row["how"]:
        out.line("")
        out.line(paragraph)
    out.line("")
    if not row["parameters"]:
        out.line("No parameters.")
        return
    table = Table("parameter", "default", "what it is", box=None, header_style="bold", pad_edge=False)
    for key, value in row["parameters"].items():
        table.add_row(f"{row['role']}.{key}", escape(str(value)), escape(row["meanings"].get(key, "")))
    out.console.print(table)
    out.line(f"Set with {row['name']}@NAME=VALUE in a pipeline, or --set {row['role']}.NAME=VALUE.")
    for remark in _remarks(row):
        out.line(remark.replace("`", ""))


def _describe(entry: Any) -> dict[str, Any]:
    """What is known of a method."""
    from headrace import registry

    card = entry.method.card
    return {
        "role": entry.role,
        "name": entry.name,
        "title": card.title,
        "does": (entry.method.__doc__ or "").strip().splitlines()[0],
        "parameters": {field.name: field.default for field in dataclasses.fields(entry.method)},
        "how": registry.account(entry.method),
        "meanings": registry.meanings(entry.method),
        "shorthand": entry.method.shorthand,
        "tunable": sorted(entry.method.tunable),
        "causal": entry.method.causal,
        "paper": card.paper,
        "licence": card.licence,
        "differs": card.differs,
    }


def _remarks(row: dict[str, Any]) -> list[str]:
    """What else is to be known of its parameters."""
    found = []
    if row["shorthand"]:
        found.append(f"`{row['name']}:VALUE` sets `{row['shorthand']}`.")
    if row["tunable"]:
        found.append(f"May change while a stream runs: {', '.join(f'`{name}`' for name in row['tunable'])}.")
    return found


def page(rows: list[dict[str, Any]], presets: Mapping[str, str]) -> str:
    """Write the methods as a Markdown page."""
    lines = ["# Methods", "", "Written by `headrace methods --markdown`; do not edit.", ""]
    for role in dict.fromkeys(row["role"] for row in rows):
        lines += [f"## {role.capitalize()}", ""]
        for row in (row for row in rows if row["role"] == role):
            lines += [f"### `{row['name']}`: {row['title']}", "", row["does"], ""]
            lines += [line for paragraph in row["how"] for line in (paragraph.replace("``", "`"), "")]
            if row["parameters"]:
                meanings = ((name, value, row["meanings"].get(name, "")) for name, value in row["parameters"].items())
                lines += [*(f"- `{name}={value!r}`: {meaning}" for name, value, meaning in meanings), ""]
            else:
                lines += ["No parameters.", ""]
            if remarks := _remarks(row):
                lines += [" ".join(remarks), ""]
    if presets:
        lines += ["## Presets", ""] + [f"- `{name}` = `{text}`" for name, text in presets.items()] + [""]
    return "\n".join(lines)
