"""Selectors of tokens side by side at several budgets, with positions as published and as kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from headrace import registry
from headrace.bench.picture import COLOURS, INK, MARKS, check
from headrace.bench.table import table

SELECTORS = ("random", "uniform", "oracle", "stc_pruner", "stc")  # unless told otherwise
ORACLE = "oracle"  # no method: only a bench knows the truth
POLICIES = {"repack": "as published", "original": "kept"}
BESIDE = 0.5  # tokens per frame from one selector's marks to the next one's
MEASURED = ("accuracy", "ci95", "tokens_per_frame", "ms_per_frame", "ms_per_question")


@dataclass(frozen=True, slots=True)
class Grid:
    """Which pipelines to compare.

    Attributes:
        memory: What every pipeline remembers with; by itself it is the yardstick, with the dense tower and all tokens.
        budgets: Shares of the tokens, each between 0 and 1; all tokens are always among what is measured.
        policies: Positions of kept tokens, see ``POLICIES``.
        selectors: What stands behind the memory: a compressor without its value, which is the budget, alone or with an
            encoder; a preset of these; or ``oracle``.

    Raises:
        ValueError: A budget is no share or given twice, a policy is unknown, or a selector is none, takes no such
            budget or is given twice.
    """

    memory: str = "recent:16"
    budgets: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    policies: tuple[str, ...] = tuple(POLICIES)
    selectors: tuple[str, ...] = SELECTORS

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not 0 < budget < 1 or self.budgets.count(budget) > 1:
                raise ValueError(f"budgets: shares between 0 and 1, each once, such as 0.1,0.3, not {budget:g}")
        if not self.budgets:
            raise ValueError("budgets: at least one share is needed, such as 0.1,0.3")
        if unknown := [name for name in self.policies if name not in POLICIES]:
            raise ValueError(f"positions: {unknown[0]!r} is unknown; known: both, {', '.join(POLICIES)}")
        self._check_selectors()

    def _check_selectors(self) -> None:
        """Refuse what could not run before anything runs."""
        if not self.selectors:
            raise ValueError("selectors: at least one is needed, such as uniform,stc")
        for selector in self.selectors:
            if self.selectors.count(selector) > 1:
                raise ValueError(f"selectors: {selector} is given twice")
            chosen, _ = _parts(selector)
            if ORACLE in chosen:
                continue
            for budget in self.budgets:
                try:
                    registry.parse(chosen.replace("{}", f"{budget:g}", 1))
                except ValueError as error:
                    raise ValueError(f"selectors: {selector} at {budget:g}: {error}") from None

    def name(self, selector: str, budget: float, policy: str) -> str:
        """The pipeline of a cell; with all tokens there is nothing to select, and no gap to keep."""
        chosen, rest = _parts(selector)
        if budget == 1:
            return self.memory + rest
        chosen = chosen.replace("{}", f"{budget:g}", 1)
        return f"{self.memory}+{chosen}@memory.positions={policy}"

    @property
    def names(self) -> list[str]:
        """Every pipeline once, the yardstick first."""
        cells = ((s, b, p) for p in self.policies for s in self.selectors for b in (1.0, *self.budgets))
        return list(dict.fromkeys(self.name(*cell) for cell in cells))

    def rows(self, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Results by policy, selector and budget.

        Args:
            found: As ``ledger.summarise`` gives it for ``names``, against ``memory``.

        Returns:
            One object per cell: ``policy``, ``selector``, ``budget``, ``accuracy``, ``ci95``, ``retention`` of the
            yardstick's accuracy and half of its 95 % interval question by question ``retention_ci95`` (None for the
            yardstick), ``tokens_per_frame``, ``ms_per_frame``, ``ms_per_question``.
        """
        by_name = {str(row["pipeline"]): row for row in found}
        whole = float(by_name[self.memory]["accuracy"])
        cells = []
        for policy in self.policies:
            for selector in self.selectors:
                for budget in (*sorted(self.budgets), 1.0):
                    row = by_name[self.name(selector, budget, policy)]
                    gap = row["difference_ci95"]
                    cells.append(
                        {
                            "policy": policy,
                            "selector": selector,
                            "budget": budget,
                            **{key: row[key] for key in MEASURED},
                            "retention": row["accuracy"] / whole if whole else None,
                            "retention_ci95": gap / whole if whole and gap is not None else None,
                        }
                    )
        return cells

    def table(self, cells: Sequence[Mapping[str, Any]]) -> str:
        """Write cells as a Markdown table: a line per selector and policy, a column per budget."""
        header = ["positions", "selector", *(f"{100 * budget:g} %" for budget in (*sorted(self.budgets), 1.0))]
        lines = []
        for policy in self.policies:
            for selector in self.selectors:
                own = [cell for cell in cells if (cell["policy"], cell["selector"]) == (policy, selector)]
                label = f"`{policy}` ({POLICIES[policy]})"
                lines.append([label, f"`{selector}`", *(_cell(cell) for cell in own)])
        return table(header, lines)

    def costs(self, cells: Sequence[Mapping[str, Any]]) -> str:
        """Write what budgets cost as a Markdown table: tokens per frame, then ms per frame and per question.

        Means over the policies: where tokens are said to stand changes neither.
        """
        budgets = (*sorted(self.budgets), 1.0)

        def mean(key: str, budget: float, names: Sequence[str]) -> float:
            found = [float(x[key]) for x in cells if x["budget"] == budget and x["selector"] in names]
            return sum(found) / len(found)

        lines = [["tokens per frame", *(f"{mean('tokens_per_frame', x, self.selectors):.0f}" for x in budgets)]]
        for name in self.selectors:
            times = ([f"{mean(key, x, [name]):.0f}" for key in MEASURED[-2:]] for x in budgets)
            lines.append([f"`{name}`, ms per frame + per question", *(" + ".join(pair) for pair in times)])
        return table(["cost", *(f"{100 * budget:g} %" for budget in budgets)], lines)


def _parts(selector: str) -> tuple[str, str]:
    """Read a selector: its text with {} for the budget, and what of it is left where all tokens are kept.

    Raises:
        ValueError: It is no compressor, with or without an encoder, or has a value of its own.
    """
    text = registry.presets().get(selector, selector)
    chosen, rest, num = [], "", 0
    for part in text.split("+"):
        head, at, settings = part.strip().partition("@")
        name, colon, _ = head.partition(":")
        role = "compressor" if name == ORACLE else registry.lookup(name).role
        if role not in ("compressor", "encoder"):
            raise ValueError(
                f"selectors: {selector!r} names the {role} {name}; a selector has a compressor, maybe an encoder"
            )
        if role == "compressor" and colon:
            raise ValueError(
                f"selectors: {selector!r} has a value of its own; write {name}, its values are the budgets"
            )
        num += role == "compressor"
        chosen.append(f"{head}:{{}}{at}{settings}" if role == "compressor" else part.strip())
        rest += f"+{part.strip()}" * (role == "encoder")
    if num != 1:
        raise ValueError(f"selectors: {selector!r} must name one compressor, not {num}")
    return "+".join(chosen), rest


def _cell(cell: Mapping[str, Any]) -> str:
    """Accuracy with its interval, and the share of the yardstick's with its own."""
    text = f"{100 * cell['accuracy']:.1f} ± {100 * cell['ci95']:.1f}"
    if cell["retention_ci95"] is None:
        return text
    return f"{text} ({cell['retention']:.3f} ± {cell['retention_ci95']:.3f})"


def points(
    own: Sequence[Mapping[str, Any]], number: int, num: int
) -> tuple[list[float], list[float], list[list[float]]]:
    """Where a selector's cells are drawn.

    Args:
        own: Its cells, as ``Grid.rows`` gives them.
        number: Its place among the selectors; by it cells of one budget stand side by side, and no bar hides another.
        num: How many selectors there are.

    Returns:
        Tokens per frame, % right, and the lengths of the bars below and above, which end at 0 and 100 %.
    """
    shift = BESIDE * (number - (num - 1) / 2)
    below = [100 * min(cell["ci95"], cell["accuracy"]) for cell in own]
    above = [100 * min(cell["ci95"], 1 - cell["accuracy"]) for cell in own]
    tokens = [cell["tokens_per_frame"] + shift for cell in own]
    return tokens, [100 * cell["accuracy"] for cell in own], [below, above]


def draw(grid: Grid, cells: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw accuracy against tokens per frame: a panel per policy, a line per selector.

    Args:
        grid: What was compared.
        cells: As ``Grid.rows`` gives them.
        path: PNG, SVG or PDF file to write; folders are made.
        title: What was measured.

    Raises:
        ValueError: As ``picture.check``.
    """
    figure = check(path)(figsize=(5.2 * len(grid.policies), 4.4), dpi=120)
    panels = figure.subplots(1, len(grid.policies), sharey=True, squeeze=False)[0]
    figure.suptitle(title, fontsize=11, color=INK)
    for axes, policy in zip(panels, grid.policies, strict=True):
        looks = zip(grid.selectors, cycle(COLOURS), cycle(MARKS), strict=False)
        for number, (selector, colour, mark) in enumerate(looks):
            own = [cell for cell in cells if (cell["policy"], cell["selector"]) == (policy, selector)]
            tokens, right, bars = points(own, number, len(grid.selectors))
            axes.errorbar(
                tokens,
                right,
                yerr=bars,
                fmt=f"-{mark}",
                color=colour,
                markersize=4.5,
                linewidth=1.2,
                elinewidth=0.9,
                capsize=2,
                label=selector,
            )
        axes.set_title(f"positions {POLICIES[policy]} ({policy})", fontsize=9, color=INK)
        axes.set_xlabel("visual tokens per frame (each budget side by side)", color=INK)
        axes.grid(color="#E6E6E6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("questions answered right, % (95 % interval)", color=INK)
    panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
