"""Qwen2.5-VL: a tower with window attention over pairs of frames, and a Qwen2 decoder with positions in real time.

Model: arXiv 2502.13923. A pair of frames is one temporal step. Most layers of the tower attend within windows, a few
over the whole step; four patches become one token. A clip's tokens follow each other without separators; every token
has a position in time, row and column, and time counts seconds from the clip's start. Text ends a clip; frames that
come after it begin another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from headrace.backbones.adapter import visual_rows
from headrace.backbones.pictures import Pictures
from headrace.backbones.qwen_tower import MERGE, Plan, QwenBlock, make_plan, open_blocks, sort_groups, sort_rows
from headrace.backbones.qwen_vl import QwenVL
from headrace.types import Clip, Cursor, Frame, Segment, VisualTokens, join

EVEN = 1e-3  # a step that stands this near to a whole number of intervals stands there

DEFAULTS: dict[str, Any] = {
    "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


class Qwen25VL(QwenVL):
    """One set of Qwen2.5-VL weights; see ``QwenVL``."""

    model_class: ClassVar[Any] = Qwen2_5_VLForConditionalGeneration
    defaults: ClassVar[dict[str, Any]] = DEFAULTS
    edges_of_a_frame: ClassVar[bool] = True

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures, *, name: str) -> None:
        super().__init__(model, tokenizer, pictures, name=name, rope="chunked")
        window = model.config.vision_config.window_size
        if window < self._unit:
            raise ValueError(f"window_size: {window} pixels are less than one visual token, {self._unit}")

    def _plan_for(self, grid: tuple[int, int]) -> Plan:
        window = self._model.config.vision_config.window_size // MERGE // self._patch
        return make_plan(grid, self._tower.rotary_pos_emb.inv_freq, window=window)

    def _open(self, plan: Plan) -> tuple[QwenBlock, ...]:
        return open_blocks(self._tower.blocks, plan, self._model.config.vision_config.fullatt_block_indexes)

    def patches(self, px: Tensor) -> Tensor:
        """Embed pairs of frames, sorted by window; see ``QwenVL``."""
        return sort_rows(super().patches(px), self.plan)

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """Merge four patches into one token, and undo the sorting."""
        merged = self._tower.merger(h).view(h.shape[0], -1, self.spec.dim)
        return self._tokens(sort_groups(merged, self.plan).flatten(0, 1), frames)

    def wrap(self, tokens: VisualTokens, cursor: Cursor) -> Segment:
        """Visual rows at their seconds, rows and columns, counted from where their clip starts."""
        before, times = cursor.clip, tokens.times_s
        start = times[0] if before is None else before.start_s
        step_s = 0.0 if before is None else before.step_s
        if not step_s:  # the clip's second step tells how far apart they are
            step_s = next((time - start for time in times if time > start), 0.0)
        second = [self._second(time, start, step_s) for time in times]
        reach = max(tokens.grid) if self.view.prompt == "library" else max(*second, *(n - 1 for n in tokens.grid)) + 1
        ids = torch.stack((torch.tensor(second, dtype=torch.int64)[tokens.frame], tokens.row, tokens.col))
        seg = visual_rows(tokens, ids, advance=0, turn=cursor.turn)
        return join([*self.reopen(cursor), replace(seg, clip=Clip(start, step_s, reach))])

    def _second(self, time_s: float, start_s: float, step_s: float) -> int:
        """Position of a time on its axis.

        Steps that come evenly are counted and multiplied in fp32, as transformers does, which is not always what the
        seconds themselves round down to.
        """
        rate = int(self._model.config.vision_config.tokens_per_second)
        passed = max(0.0, time_s - start_s)
        steps = passed / step_s if step_s else 0.0
        if abs(steps - round(steps)) < EVEN:
            interval = rate * torch.tensor(step_s, dtype=torch.float32)
            return int(torch.tensor(round(steps), dtype=torch.float32) * interval)
        return math.floor(rate * passed)

    def close_clip(self, cursor: Cursor) -> Segment | None:
        """Nothing: the template writes the end of the video before the question."""
        return None

    def place(self, cursor: Cursor, segment: Segment) -> tuple[Segment, Cursor]:
        """Frames stand where their clip started; the first row of anything else ends it and stands behind it."""
        start = cursor.next
        if segment.clip is None and cursor.clip is not None:
            start += cursor.clip.reach
        placed = replace(segment, ids=segment.ids + start)
        return placed, replace(cursor, next=start + segment.advance, clip=segment.clip, said=cursor.hears(segment))
