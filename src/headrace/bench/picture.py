"""A picture of an accuracy bench: accuracy against milliseconds per frame, one mark per pipeline.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; every family of pipelines has a
mark of its own shape, too. Names and figures stand on the right, each tied to its mark where there are not too many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from headrace import registry

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = "os^DvPX<"  # one more than there are colours, so that the same pair comes late
ENDINGS = (".png", ".svg", ".pdf")
INK, PALE = "#333333", "#BBBBBB"
LABEL_INCHES = 0.23  # height of a line of labels
MOST_TIED = 14  # marks that are tied to their labels; more lines than that only confuse
TICKS = tuple(n * 10**e for e in range(-2, 6) for n in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))


def family(pipeline: str) -> str:
    """A pipeline's text without its numbers: ``recent:16+uniform:0.3`` is of the family ``recent+uniform``."""
    return "+".join(part.partition(":")[0] for part in registry.apart(pipeline)[0].split("+"))


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Move ascending places apart, as little as possible, until neighbours are ``gap`` apart.

    Args:
        wanted: Ascending.
        gap: Least distance.

    Returns:
        Ascending places; groups that had to be moved keep their centre.
    """
    groups: list[list[float]] = []  # what each member would like its group's first place to be
    starts: list[float] = []
    for place in wanted:
        groups.append([place])
        starts.append(place)
        while len(groups) > 1 and starts[-2] + gap * len(groups[-2]) > starts[-1]:
            shift = gap * len(groups[-2])
            last = groups.pop()
            groups[-1] += [start - shift for start in last]
            starts.pop()
            starts[-1] = sum(groups[-1]) / len(groups[-1])
    return [start + gap * i for start, group in zip(starts, groups, strict=True) for i in range(len(group))]


def check(path: Path) -> Any:
    """Make sure that a picture can be drawn; worth doing before a long bench.

    Returns:
        matplotlib's ``Figure`` class.

    Raises:
        ValueError: matplotlib is not installed, or the file's ending is none of its.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the picture needs matplotlib: pip install 'headrace[bench]'") from None
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path}: a picture ends in {', '.join(ENDINGS)}")
    return Figure


def draw(results: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw a picture of results as ``ledger.summarise`` gives them.

    Args:
        results: ``pipeline``, ``accuracy`` and ``ci95`` (shares), ``ms_per_frame``; a pipeline that takes no time
            per frame is named in the list only.
        path: PNG, SVG or PDF file to write; folders are made.
        title: What was measured.

    Raises:
        ValueError: As ``check``, or no pipeline took time.
    """
    points = sorted((row for row in results if row["ms_per_frame"] > 0), key=lambda row: float(row["accuracy"]))
    if not points:
        raise ValueError("nothing to draw: no pipeline took any time per frame")
    height = max(4.6, 1.4 + LABEL_INCHES * len(results))
    figure = check(path)(figsize=(10.5, height), dpi=120)
    axes = figure.add_axes((0.07, 0.62 / height, 0.47, 1 - 1.12 / height))
    figure.text(0.07, 1 - 0.28 / height, title, fontsize=11, color=INK, va="center")
    _points(axes, points)
    _axes(axes, points)
    others = [row for row in results if row["ms_per_frame"] <= 0]
    _labels(axes, points, others, LABEL_INCHES / (height - 1.12))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _looks(points: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Colour and mark of every family, in the order of their names."""
    names = sorted({family(row["pipeline"]) for row in points})
    return dict(zip(names, zip(cycle(COLOURS), cycle(MARKS), strict=False), strict=False))


def _points(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """Marks with error bars; members of a family are joined."""
    for name, (colour, mark) in _looks(points).items():
        own = sorted((row for row in points if family(row["pipeline"]) == name), key=lambda row: row["ms_per_frame"])
        at = [row["ms_per_frame"] for row in own], [100 * row["accuracy"] for row in own]
        axes.plot(*at, color=colour, linewidth=1, alpha=0.5, zorder=2)
        axes.errorbar(
            *at,
            yerr=[100 * row["ci95"] for row in own],
            fmt=mark,
            color=colour,
            markersize=8,
            markeredgecolor="white",
            markeredgewidth=0.4,
            elinewidth=1,
            capsize=2.5,
            alpha=0.9,
            zorder=3,
        )


def _axes(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    """Scales, names and grid."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    costs = [row["ms_per_frame"] for row in points]
    axes.set_xscale("log")
    axes.set_xlim(0.9 * min(costs), 1.1 * max(costs))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.margins(y=0.08)
    axes.set_xlabel("milliseconds per frame (logarithmic)", color=INK)
    axes.set_ylabel("questions answered right, % (95 % interval)", color=INK)
    axes.grid(color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)


def _labels(axes: Any, points: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], gap: float) -> None:
    """Names and figures on the right, each tied to its mark; ``gap`` is a line's height as a share of the axes."""
    low, high = axes.get_ylim()
    wanted = [(100 * row["accuracy"] - low) / (high - low) for row in points]
    looks, places = _looks(points), spread(wanted, gap)
    last = gap * len(others)  # the list stays beside the axes, with room for the others below
    shift = max(0.0, places[-1] - 1) + min(0.0, places[0] - last - max(0.0, places[-1] - 1))
    for row, place in zip(points, places, strict=True):
        colour, mark = looks[family(row["pipeline"])]
        at = place - shift
        if len(points) <= MOST_TIED:
            axes.annotate(
                "",
                (row["ms_per_frame"], 100 * row["accuracy"]),
                xytext=(1.03, at),
                textcoords="axes fraction",
                arrowprops={"arrowstyle": "-", "color": PALE, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4},
                zorder=1,
            )
        axes.plot([1.05], [at], mark, color=colour, markersize=7, transform=axes.transAxes, clip_on=False)
        text = f"{_figures(row)}   {row['ms_per_frame']:.1f} ms"
        axes.text(1.075, at, text, transform=axes.transAxes, va="center", fontsize=8.5, color=INK)
    for number, row in enumerate(others):
        text, at = f"{_figures(row)}   no frame is run", places[0] - shift - gap * (number + 1)
        axes.text(1.075, at, text, transform=axes.transAxes, va="center", fontsize=8.5, color=INK)


def _figures(row: Mapping[str, Any]) -> str:
    return f"{row['pipeline']}   {100 * row['accuracy']:.1f} ± {100 * row['ci95']:.1f} %"
