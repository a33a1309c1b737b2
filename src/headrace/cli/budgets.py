"""``headrace bench budgets``: what selectors of tokens are worth at several budgets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli import options
from headrace.cli.failing import clean, fail
from headrace.cli.filling import fill, open_ledger, told_model, told_setting
from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace.bench.grid import Grid


def drawable(path: Path | None) -> Path | None:
    """Refuse a picture that cannot be drawn before anything is measured."""
    if path is not None:
        from headrace.bench.picture import check

        try:
            check(path)
        except ValueError as error:
            fail(error)
    return path


@clean
def budgets(
    context: typer.Context,
    *,
    shares: Annotated[
        str, typer.Option("--budgets", help="Shares of the tokens to keep, with commas; all of them always runs too.")
    ] = "0.1,0.2,0.3,0.5",
    selectors: Annotated[
        str,
        typer.Option(
            help="What chooses tokens: compressors without their value, which is the budget, alone or as in"
            " stc_cacher+uniform, with commas."
        ),
    ] = "random,uniform,oracle,stc_pruner,stc",
    positions: Annotated[
        str, typer.Option(help="repack: kept tokens close ranks, as published; original: they keep their places; both.")
    ] = "both",
    memory: Annotated[str, typer.Option(help="What every pipeline remembers with.")] = "recent:16",
    level: Annotated[str, typer.Option(help="Level of the world.")] = "standard",
    seeds: Annotated[int, typer.Option(min=1, help="Streams; more of them make narrower intervals.")] = 5,
    seconds: Annotated[float, typer.Option(help="Length of a stream.")] = 60.0,
    every: Annotated[float, typer.Option(help="Seconds between moments of asking.")] = 4.0,
    exact: Annotated[bool, typer.Option("--exact", help="Watch exact pixels instead of an H.264 file.")] = False,
    model: options.Model = "nano",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    save: Annotated[Path | None, typer.Option(help="JSON-lines file to keep rows in; a re-run goes on.")] = None,
    readme: Annotated[Path | None, typer.Option(help="Rebuild the table in this Markdown file.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw accuracy against tokens into this PNG, SVG or PDF file.", callback=drawable),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare what chooses tokens (compressors) at several budgets, by the questions that can still be answered.

    Example: headrace bench budgets --budgets 0.1,0.3 --selectors uniform,stc_pruner --seeds 2 --save rows.jsonl
    """
    from headrace.bench import grid as grids
    from headrace.bench.accuracy import Setting
    from headrace.bench.ledger import summarise
    from headrace.bench.table import check_places
    from headrace.engine import load

    check_places(save, readme, "bench:budgets")
    policies = tuple(grids.POLICIES) if positions == "both" else (positions,)
    chosen = tuple(part.strip() for part in selectors.split(",") if part.strip())
    grid = grids.Grid(memory, _shares(shares), policies, chosen)
    out = Output(as_json=as_json, verbosity=context.obj.verbosity)
    setting = Setting(level=level, seconds=seconds, every_s=every, h264=not exact, watches=0)
    engine = load(model, dtype=dtype, device=device)
    ledger = open_ledger(save, engine, setting)
    fill(out, ledger, engine, grid.names, seeds=seeds)
    found = summarise(ledger.rows, grid.names, seeds, against=memory)
    told = told_model(model, "full", engine.backbone.spec.dtype)
    what = (
        f"{told}, `{memory}`, {level} level, {seeds} streams of {seconds:g} s{told_setting(setting)},"
        f" {found[0]['questions']} questions"
    )
    _tell(out, grid, grid.rows(found), what, readme=readme, picture=picture)


def _tell(
    out: Output, grid: Grid, cells: list[dict[str, Any]], what: str, *, readme: Path | None, picture: Path | None
) -> None:
    """Print the cells and their table, and put them where they are wanted."""
    from headrace.bench.grid import draw
    from headrace.bench.machine import hardware, machine
    from headrace.bench.table import replace_between

    at = machine()
    for cell in cells:
        out.object("cell", **cell)
    text = (
        f"{grid.table(cells)}\n\n{grid.costs(cells)}\n\n`headrace bench budgets`: {what}, mean over kinds, % ± 95 %"
        " over the streams; in brackets the share of what the dense tower answers with all tokens; costs are means over"
        f" positions; {hardware(at)}, torch {at['torch']}, {at['date']}."
    )
    out.line(text)
    if readme is not None:
        replace_between(readme, "bench:budgets", text)
    if picture is not None:
        draw(grid, cells, picture, title=what.replace("`", ""))


def _shares(text: str) -> tuple[float, ...]:
    """Parse shares with commas between them; all tokens run anyway."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"--budgets: shares with commas between them, such as 0.1,0.3, not {text!r}") from None
    return tuple(share for share in found if share != 1)
