"""Selectors of tokens side by side at several budgets, with positions as published and as kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.bench.picture import COLOURS, INK, MARKS, check
from headrace.bench.table import table

SELECTORS = {  # what stands behind the memory; {} is the budget
    "random": "random:{}",
    "uniform": "uniform:{}",
    "oracle": "oracle:{}",
    "stc_pruner": "stc_pruner:{}",
    "stc": "stc_cacher+stc_pruner:{}",
}
POLICIES = {"repack": "as published", "original": "kept"}
MEASURED = ("accuracy", "ci95", "tokens_per_frame", "ms_per_frame", "ms_per_question")
ENCODERS = {"stc": "+stc_cacher"}  # what of a selector is left where all tokens are kept


@dataclass(frozen=True, slots=True)
class Grid:
    """Which pipelines to compare.

    Attributes:
        memory: What every pipeline remembers with; by itself it is the yardstick, with the dense tower and all tokens.
        budgets: Shares of the tokens, each between 0 and 1; all tokens are always among what is measured.
        policies: Positions of kept tokens, see ``POLICIES``.

    Raises:
        ValueError: A budget is no share or given twice, or a policy is unknown.
    """

    memory: str = "recent:16"
    budgets: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    policies: tuple[str, ...] = tuple(POLICIES)

    def __post_init__(self) -> None:
        for budget in self.budgets:
            if not 0 < budget < 1 or self.budgets.count(budget) > 1:
                raise ValueError(f"budgets: shares between 0 and 1, each once, such as 0.1,0.3, not {budget:g}")
        if not self.budgets:
            raise ValueError("budgets: at least one share is needed, such as 0.1,0.3")
        if unknown := [name for name in self.policies if name not in POLICIES]:
            raise ValueError(f"positions: {unknown[0]!r} is unknown; known: both, {', '.join(POLICIES)}")

    def name(self, selector: str, budget: float, policy: str) -> str:
        """The pipeline of a cell; with all tokens there is nothing to select, and no gap to keep."""
        if budget == 1:
            return self.memory + ENCODERS.get(selector, "")
        return f"{self.memory}+{SELECTORS[selector].format(f'{budget:g}')}@memory.positions={policy}"

    @property
    def names(self) -> list[str]:
        """Every pipeline once, the yardstick first."""
        cells = ((s, b, p) for p in self.policies for s in SELECTORS for b in (1.0, *self.budgets))
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
            for selector in SELECTORS:
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
            for selector in SELECTORS:
                own = [cell for cell in cells if (cell["policy"], cell["selector"]) == (policy, selector)]
                label = f"`{policy}` ({POLICIES[policy]})"
                lines.append([label, f"`{selector}`", *(_cell(cell) for cell in own)])
        return table(header, lines)

    def costs(self, cells: Sequence[Mapping[str, Any]]) -> str:
        """Write what budgets cost as a Markdown table: tokens per frame, then ms per frame and per question.

        Means over the policies: where tokens are said to stand changes neither.
        """
        budgets = (*sorted(self.budgets), 1.0)

        def mean(key: str, budget: float, selectors: Sequence[str]) -> float:
            found = [float(x[key]) for x in cells if x["budget"] == budget and x["selector"] in selectors]
            return sum(found) / len(found)

        lines = [["tokens per frame", *(f"{mean('tokens_per_frame', x, list(SELECTORS)):.0f}" for x in budgets)]]
        for name in SELECTORS:
            times = ([f"{mean(key, x, [name]):.0f}" for key in MEASURED[-2:]] for x in budgets)
            lines.append([f"`{name}`, ms per frame + per question", *(" + ".join(pair) for pair in times)])
        return table(["cost", *(f"{100 * budget:g} %" for budget in budgets)], lines)


def _cell(cell: Mapping[str, Any]) -> str:
    """Accuracy with its interval, and the share of the yardstick's with its own."""
    text = f"{100 * cell['accuracy']:.1f} ± {100 * cell['ci95']:.1f}"
    if cell["retention_ci95"] is None:
        return text
    return f"{text} ({cell['retention']:.3f} ± {cell['retention_ci95']:.3f})"


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
        for selector, colour, mark in zip(SELECTORS, COLOURS, MARKS, strict=False):
            own = [cell for cell in cells if (cell["policy"], cell["selector"]) == (policy, selector)]
            axes.errorbar(
                [cell["tokens_per_frame"] for cell in own],
                [100 * cell["accuracy"] for cell in own],
                yerr=[100 * cell["ci95"] for cell in own],
                fmt=f"-{mark}",
                color=colour,
                linewidth=1.2,
                elinewidth=0.8,
                capsize=2,
                label=selector,
            )
        axes.set_title(f"positions {POLICIES[policy]} ({policy})", fontsize=9, color=INK)
        axes.set_xlabel("visual tokens per frame", color=INK)
        axes.grid(color="#E6E6E6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("questions answered right, % (95 % interval)", color=INK)
    panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
