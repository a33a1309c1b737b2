"""Qwen3-VL: a tower over pairs of frames whose early layers reach into the decoder, and timestamps written as text.

Model: arXiv 2511.21631. A pair of frames is one temporal step and stands between its own delimiters, behind a text that
says when it was seen. Every token has a position in time, row and column; time stands still within a step. Outputs of
some tower layers are merged like the last one's and added to the token's row behind the first decoder layers
(deepstack): a visual token is as many vectors more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from headrace.backbones.adapter import visual_rows
from headrace.backbones.looking import MOST_ASPECT
from headrace.backbones.pictures import Pictures
from headrace.backbones.qwen_tower import Plan, QwenBlock, learned_places, make_plan, open_blocks
from headrace.backbones.qwen_vl import QwenVL
from headrace.types import Cursor, Frame, Kind, Segment, View, VisualTokens, join

LONGEST = "<1000000.0 seconds>"  # of all timestamps of a stream that runs for eleven days

DEFAULTS: dict[str, Any] = {
    "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},  # of a whole video
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "rescale_factor": 1 / 255,
}


class Qwen3VL(QwenVL):
    """One set of Qwen3-VL weights; see ``QwenVL``.

    The chat template puts a pair of delimiters around a whole video. Its authors' code replaces them by those of the
    steps (``prompt="trained"``), transformers keeps both (``library``).
    """

    model_class: ClassVar[Any] = Qwen3VLForConditionalGeneration
    defaults: ClassVar[dict[str, Any]] = DEFAULTS
    edges_of_a_frame: ClassVar[bool] = False

    def __init__(self, model: Any, tokenizer: Any, pictures: Pictures, *, name: str) -> None:
        self._places = torch.empty(0, dtype=torch.float32)
        config = model.config
        self._start, self._end = (
            tokenizer.convert_ids_to_tokens(id) for id in (config.vision_start_token_id, config.vision_end_token_id)
        )
        self._indexes = list(config.vision_config.deepstack_visual_indexes)
        super().__init__(model, tokenizer, pictures, name=name, rope="interleaved", taps=tuple(sorted(self._indexes)))

    def _look(self, view: View) -> None:
        if not hasattr(self, "_written"):
            self._written = self._chat
        chat = self._written
        if view.prompt == "trained":
            prefix, reopen = (text.removesuffix(self._start) for text in (chat.prefix, chat.reopen))
            chat = replace(chat, prefix=prefix, reopen=reopen, before=chat.before.removeprefix(self._end))
        self._chat, self._prefix, self._reopen = chat, chat.prefix, chat.reopen
        around = self._around(LONGEST + self._start, self._end)
        self.spec = replace(self.spec, prefix_rows=len(self._ids(self._prefix)), around_rows=around)
        super()._look(view)

    def _fit(self, height: int, width: int, least: int, most: int) -> tuple[int, int]:
        """A side that is shorter than a token is brought to a token's first."""
        if min(height, width) < self._unit and max(height, width) <= MOST_ASPECT * min(height, width):
            grow = max(self._unit / height, self._unit / width)
            height, width = int(height * grow), int(width * grow)
        return super()._fit(height, width, least, most)

    def _plan_for(self, grid: tuple[int, int]) -> Plan:
        plan = make_plan(grid, self._tower.rotary_pos_emb.inv_freq, window=None)
        with torch.no_grad():
            self._places = learned_places(self._tower.pos_embed.weight, plan).to(self.spec.dtype)
        return plan

    def _open(self, plan: Plan) -> tuple[QwenBlock, ...]:
        return open_blocks(self._tower.blocks, plan)

    def patches(self, px: Tensor) -> Tensor:
        """Embed pairs of frames and their learned places; see ``QwenVL``."""
        return super().patches(px) + self._places

    def project(self, h: Tensor, frames: Sequence[Frame], taps: Sequence[Tensor] = ()) -> VisualTokens:
        """Merge four patches into one token, in the last layer's output and in those that are tapped."""
        mergers = self._tower.deepstack_merger_list
        deep = [mergers[self._indexes.index(at)](x) for at, x in zip(self.spec.taps, taps, strict=True)]
        return self._tokens(self._tower.merger(h), frames, deep=torch.stack(deep) if deep else None)

    def wrap(self, tokens: VisualTokens, cursor: Cursor) -> Segment:
        """Every step behind its time, between its delimiters."""
        parts = self.reopen(cursor)
        for step in tokens.split():
            shown, ends = (step.frames[0], step.times_s[0]), step.ends_s or step.times_s
            middle = (step.times_s[0] + ends[0]) / 2
            ids = torch.stack((torch.zeros_like(step.row), step.row, step.col))
            parts += [
                self._text(f"<{middle:.1f} seconds>{self._start}", Kind.MARKER, turn=cursor.turn, shown=shown),
                visual_rows(step, ids, advance=max(step.grid), turn=cursor.turn),
                self._text(self._end, Kind.MARKER, turn=cursor.turn, shown=shown),
            ]
        return join(parts)

    def close_clip(self, cursor: Cursor) -> Segment | None:
        """Nothing: every step is closed by itself."""
        return None
