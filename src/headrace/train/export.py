"""From a run to a checkpoint folder: bf16 safetensors in transformers' layout, and a card that says what it can do."""

from __future__ import annotations

import copy
import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.backbones import plain
from headrace.train.measure import Findings
from headrace.train.watch import LONG, MOST_DENSE


@dataclass(frozen=True, slots=True)
class Trained:
    """Where a checkpoint comes from.

    Attributes:
        seed: Seed of the run.
        steps: Steps of each phase.
        seconds: Seconds of each phase.
        threads: Threads it computed with.
        start: What it started from, with its hash; empty when from nothing.
        drop: Who dropped tokens in training.
    """

    seed: int
    steps: dict[str, int]
    seconds: dict[str, float]
    threads: int
    start: str = ""
    drop: str = "mixed"


def export(model: Any, tokenizer: Any, folder: Path, trained: Trained, found: Findings) -> Path:
    """Write the checkpoint folder with its card; returns the folder."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.config.headrace = {**half.config.headrace, "steps": sum(trained.steps.values()), "seed": trained.seed}
    half.config.headrace["drop"] = trained.drop
    plain.save(half, tokenizer, folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "README.md").write_text(card(trained, found, digest(folder)))
    return folder


def digest(folder: Path) -> str:
    """Return the sha256 of a checkpoint's weights."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


DROPPED = {
    "mixed": "Training dropped tokens by a mixture of selectors (uniform, difference of pixels, noisy and exact\n"
    "  foreground); none of them looks at features, as STC does.",
    "uniform": "Training dropped tokens uniformly (a control).",
    "none": "Training dropped none (a control).",
}


def card(trained: Trained, found: Findings, sha256: str) -> str:
    """Return the model card in Markdown; ``sha256`` is that of the weights."""
    phases = ", ".join(
        f"{name} {trained.steps[name]} steps ({trained.seconds[name] / 60:.0f} min)" for name in trained.steps
    )
    origin = f"started from a checkpoint ({trained.start})" if trained.start else "from nothing"
    before = " What it started from may have been trained otherwise." if trained.start else ""
    longest = MOST_DENSE if trained.drop == "none" else LONG[-1]
    main, spoken = found.main, found.spoken.whole
    apart = ", ".join(f"{name} {tally.f1:.2f}" for name, tally in found.spoken.tallies.items())
    told = (
        "**Standing instructions**: asked after a frame, it stops at once unless the instruction came true on it."
        f" On held-out clips of 16 frames, {found.spoken.events} events of all instructions, threshold"
        f" {found.spoken.threshold}: F1 **{spoken.f1:.3f}** within one frame (precision {spoken.precision:.3f}, recall"
        f" {spoken.recall:.3f}); {apart}."
    )
    times = len(main.results) * len(found.others) / sum(len(part.results) for part in found.others)
    weak = [f"{kind} ({share:.2f})" for kind, share in main.model.by_kind.items() if share < 0.75]
    kinds, macros = len(main.model.by_kind), ", ".join(f"{part.model.macro:.3f}" for part in found.seeds)
    return f"""# nano

The embedded model of headrace: a LLaVA-OneVision of 6 million parameters (SigLIP tower of 4 layers, 128 px, patch 8;
8x8 visual tokens and a newline row per frame; Qwen2 decoder of 6 layers, width 256; a vocabulary of whole words),
trained on headrace's own synthetic world. It loads with plain transformers.

- **Knows**: the world's {kinds} kinds of question (below) and its standing instructions, in the world's own words.
  Nothing else: it has never seen a photograph, a person or a sentence beyond those.
- **Data**: `headrace.video.world`, standard level and a crowded variant, endless; training worlds have seeds from 2^40
  up, held-out worlds 2^30 up to 2^30 + 2^20; neither meets the small seeds people type.
{_point(f"**Recipe**: `headrace train nano`, seed {trained.seed}, {origin}, {trained.threads} thread(s): {phases}.")}
- **Positions**: tokens that a compressor drops leave a gap (`positions: original` in config.json).
  {DROPPED[trained.drop]}{before}
{_point(told)}
- **Weak** (below .75 at 16 frames): {", ".join(weak) or "no kind"}.
- **Not trained**: several turns, more than {longest} frames at once, the levels easy and hard (pictures of
  the latter are resized to 128 px).
- **File**: model.safetensors, bf16, sha256 `{sha256}`.

## Held-out accuracy

`headrace train measure`: {len(found.seeds)} seeds of held-out worlds, clips of the last 16 ticks of a stream with its
cuts; macro by seed {macros}. The column of 30 % keeps tokens by a selector that knows the foreground
and mistakes a fifth of it: it shows what gaps cost, not what a compressor of headrace would reach.

{table(found)}

A question counts as right when greedy decoding gives exactly the answer and stops. Common answers are asked less
often, so that guessing does not pay. A kind with n questions carries a standard error of at most 50 / sqrt(n) points;
the columns beside 16 frames rest on {1 / times:.0%} of the questions, so their error is {times**0.5:.1f} times as
large.
"""


def _point(text: str) -> str:
    """Write a point of a list in lines of at most 118 letters."""
    return textwrap.fill(f"- {text}", 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def table(found: Findings) -> str:
    """Return held-out accuracy by kind in Markdown."""
    main, rest = found.main, found.others
    lines = ["| kind | 16 frames | majority | n | " + " | ".join(part.title for part in rest) + " |"]
    lines.append("|---" * (4 + len(rest)) + "|")
    scores = [part.model for part in rest]
    guess = main.majority
    for kind, share in main.model.by_kind.items():
        cells = (f"{one.by_kind[kind]:.2f}" if kind in one.by_kind else "-" for one in scores)
        head = f"| {kind} | {share:.2f} | {guess.by_kind[kind]:.2f} | {main.model.counts[kind]} | "
        lines.append(head + " | ".join(cells) + " |")
    cells = (f"{one.macro:.3f}" for one in scores)
    head = f"| **macro** | **{main.model.macro:.3f}** | {guess.macro:.3f} | {len(main.results)} | "
    lines.append(head + " | ".join(cells) + " |")
    crowd = (_share(part.crowd) for part in rest)
    head = f"| colour, 4 things or more | {_share(main.crowd)} | - | {len(main.crowd)} | "
    lines.append(head + " | ".join(crowd) + " |")
    return "\n".join(lines)


def _share(hits: tuple[bool, ...]) -> str:
    return f"{sum(hits) / len(hits):.2f}" if hits else "-"
