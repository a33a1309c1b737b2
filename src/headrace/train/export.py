"""From a run to a checkpoint folder: bf16 safetensors in transformers' layout, and a card that says what it can do."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headrace.backbones import plain
from headrace.train.evaluate import Measured


@dataclass(frozen=True, slots=True)
class Trained:
    """Where a checkpoint comes from.

    Attributes:
        seed: Seed of the run.
        steps: Steps of each phase.
        seconds: Seconds of each phase.
        threads: Threads it computed with.
    """

    seed: int
    steps: dict[str, int]
    seconds: dict[str, float]
    threads: int


def export(model: Any, tokenizer: Any, folder: Path, trained: Trained, measured: list[Measured]) -> Path:
    """Write the checkpoint folder with its card; returns the folder."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.config.headrace = {**half.config.headrace, "steps": sum(trained.steps.values()), "seed": trained.seed}
    plain.save(half, tokenizer, folder)
    (folder / "model.safetensors").chmod(0o644)
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "README.md").write_text(card(trained, measured, digest))
    return folder


def card(trained: Trained, measured: list[Measured], digest: str) -> str:
    """Return the model card in Markdown."""
    phases = ", ".join(
        f"{name} {trained.steps[name]} steps ({trained.seconds[name] / 60:.0f} min)" for name in trained.steps
    )
    return f"""# nano

The embedded model of headrace: a LLaVA-OneVision of 4 million parameters (SigLIP tower of 4 layers, 128 px, patch 8;
8x8 visual tokens and a newline row per frame; Qwen2 decoder of 4 layers, width 256; a vocabulary of whole words),
trained from nothing on headrace's own synthetic world. It loads with plain transformers.

- **Knows**: the world's eleven kinds of question (below), in the world's own words. Nothing else: it has never seen a
  photograph, a person or a sentence beyond those questions.
- **Data**: `headrace.video.world`, standard level and a crowded variant, endless; training worlds have seeds from 2^40
  up, held-out worlds 2^30 up to 2^30 + 2^20; neither meets the small seeds people type.
- **Recipe**: `headrace train nano`, seed {trained.seed}, {trained.threads} thread(s): {phases}.
- **Positions**: tokens that a compressor drops leave a gap (`positions: original` in config.json). Training dropped
  tokens by a mixture of neutral selectors (uniform, frame difference, noisy and exact foreground), none of which
  scores tokens as a published method does.
- **Not trained**: standing instructions (speak or stay silent), several turns, clips of more than 16 frames.
- **File**: model.safetensors, bf16, sha256 `{digest}`.

## Held-out accuracy

{_table(measured)}

A question counts as right when greedy decoding gives exactly the answer and stops. Kinds with fewer questions than
200 carry a standard error of more than 3 points.
"""


def _table(measured: list[Measured]) -> str:
    kinds = list(dict.fromkeys(kind for part in measured for kind in part.model.by_kind))
    head = "| kind | " + " | ".join(f"{part.title} | majority | n" for part in measured) + " |"
    lines = [head, "|---" * (1 + 3 * len(measured)) + "|"]
    for kind in kinds:
        cells = []
        for part in measured:
            guess = part.majority.by_kind.get(kind)
            cells += [
                f"{part.model.by_kind[kind]:.2f}" if kind in part.model.by_kind else "-",
                "-" if guess is None else f"{guess:.2f}",
                str(part.model.counts.get(kind, 0)),
            ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    macro = (f"**{p.model.macro:.3f}** | {p.majority.macro:.3f} | {sum(p.majority.counts.values())}" for p in measured)
    lines.append("| **macro** | " + " | ".join(macro) + " |")
    crowd = (f"{part.crowd[0]:.2f} | - | {part.crowd[1]}" for part in measured)
    lines.append("| colour, 4 things or more | " + " | ".join(crowd) + " |")
    return "\n".join(lines)
