"""What the yardsticks of Qwen2.5-VL and Qwen3-VL share: control tokens, patches, whole conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headrace.backbones.plain.words import PAD, UNKNOWN
from headrace.backbones.plain.yardstick import Clip, text_of

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
START, END = "<|vision_start|>", "<|vision_end|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, "<|im_start|>", "<|im_end|>", START, END, IMAGE, VIDEO)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}{% endif %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def special_ids() -> dict[str, int]:
    """Fields of a configuration that name control tokens, for a word tokenizer."""
    names = {"image": IMAGE, "video": VIDEO, "vision_start": START, "vision_end": END}
    return {f"{name}_token_id": SPECIAL_TOKENS.index(token) for name, token in names.items()}


def patch_rows(pixels: Tensor, patch: int) -> tuple[Tensor, list[int]]:
    """Cut a clip as transformers' video processors do; an odd frame is repeated.

    Args:
        pixels: (F, C, height, width).
        patch: Pixels along one side of a patch.

    Returns:
        (t*h*w, C*2*patch*patch) and [t, h, w] in patches.
    """
    px = torch.cat((pixels, pixels[-1:])) if len(pixels) % 2 else pixels
    h, w = px.shape[2] // patch, px.shape[3] // patch
    rows = [
        px[2 * t : 2 * t + 2, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].transpose(0, 1).flatten()
        for t in range(len(px) // 2)
        for block_row in range(0, h, 2)
        for block_col in range(0, w, 2)
        for r in (block_row, block_row + 1)
        for c in (block_col, block_col + 1)
    ]
    return torch.stack(rows), [len(px) // 2, h, w]


def conversation(
    model: Any, tokenizer: Any, messages: list[dict[str, Any]], clips: Sequence[Clip], videos: Sequence[str]
) -> dict[str, Any]:
    """Arguments of ``forward`` and ``generate`` for a conversation.

    Args:
        model: A plain model.
        tokenizer: Its tokenizer.
        messages: The conversation in the chat template's form.
        clips: Its videos.
        videos: What stands for each in the text, with one placeholder per temporal step.
    """
    cut = [patch_rows(clip.pixels, model.config.vision_config.patch_size) for clip in clips]
    grids, pieces = iter([grid for _, grid in cut for _ in range(grid[0])]), iter(videos)
    whole = [text + next(pieces, "") for text in text_of(tokenizer, messages).split(VIDEO)]
    video, ids = model.config.video_token_id, list[int]()
    for token in tokenizer("".join(whole), add_special_tokens=False).input_ids:
        times = 1
        if token == video:
            _, h, w = next(grids)
            times = h * w // 4
        ids.extend([token] * times)
    found = torch.tensor([ids])
    return {
        "ids": found,
        "pixels": torch.cat([rows for rows, _ in cut]),
        "video_grid_thw": torch.tensor([grid for _, grid in cut]),
        "mm_token_type_ids": 2 * (found == video).int(),
    }


def refill_tower(model: Any) -> None:
    """Fill what a tower that was built without values lacks: rotary frequencies, and a norm that is named otherwise."""
    tower = model.model.visual
    rotary = tower.rotary_pos_emb
    fresh = type(rotary)(model.config.vision_config)
    rotary.inv_freq = fresh.inv_freq.float().to(rotary.inv_freq.device)
    rotary.original_inv_freq = rotary.inv_freq.clone()
    if hasattr(tower.merger, "ln_q"):
        tower.merger.ln_q.weight.data.fill_(1.0)
