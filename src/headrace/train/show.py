"""What a person sees of a run: a progress bar with the time left, and the curve as a picture."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bar:
    """A progress bar per phase on stderr; call it with (phase, share done 0..1, figures)."""

    def __init__(self, phases: list[str]) -> None:
        self._progress = Progress(
            TextColumn("{task.description:>7}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task(name, total=1.0, start=False, figures="") for name in phases
        }

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, phase: str, share: float, figures: dict[str, float]) -> None:
        """Move a phase's bar."""
        task = self._tasks[phase]
        self._progress.start_task(task)
        loss = f"loss {figures['loss']:.3f}" if "loss" in figures else ""
        self._progress.update(task, completed=share, figures=loss)


def draw_curve(folder: Path) -> Path | None:
    """Draw ``curve.png`` from a run's log: loss, and accuracy by kind, both smoothed; None without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        return None
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    if not rows:
        return None
    lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for at, row in enumerate(rows):
        for name, value in row.items():
            if isinstance(value, float) and name not in ("rate", "norm", "spent_s"):
                old = lines[name][-1][1] if lines[name] else value
                lines[name].append((at, 0.9 * old + 0.1 * value))
    figure, (top, below) = pyplot.subplots(2, 1, figsize=(9, 8), sharex=True)
    for name, points in sorted(lines.items()):
        (top if name in ("loss", "answers") else below).plot(*zip(*points, strict=True), label=name, linewidth=1)
    for at in range(1, len(rows)):
        if rows[at]["phase"] != rows[at - 1]["phase"]:
            for axes in (top, below):
                axes.axvline(at, color="grey", linewidth=0.5)
            top.text(at, top.get_ylim()[1], " " + rows[at]["phase"], va="top", fontsize=8)
    top.set_ylabel("loss")
    top.set_yscale("log")
    below.set_ylabel("share right in training")
    below.set_xlabel("log lines")
    top.legend(fontsize=7)
    below.legend(fontsize=7, ncols=4)
    figure.tight_layout()
    figure.savefig(folder / "curve.png", dpi=110)
    pyplot.close(figure)
    return folder / "curve.png"
