"""How the decoder starts: words at the directions the tower already uses for them, one head that compares content.

From random words the decoder finds out late which token a word is about. Started so, "circle" looks at tokens that
show a circle from the first step, and training only has to sharpen it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.train.clips import PLACES
from headrace.train.see import TokenHead
from headrace.video.world.script import COLOURS, SHAPES

SCALE = 0.3  # root mean square of word and visual rows


@torch.no_grad()
def start_decoder(model: Any, tokenizer: Any, head: TokenHead, tokens: Tensor) -> None:
    """Set words, newline, projector scale and one comparing head.

    Args:
        model: The LLaVA-OneVision model, its tower trained.
        tokenizer: Its tokenizer.
        head: The head of phase 1.
        tokens: (N, D) some visual tokens, to measure their scale.
    """
    core = model.model
    scale = SCALE / tokens.float().pow(2).mean().sqrt()
    core.multi_modal_projector.linear_2.weight.mul_(scale)
    core.multi_modal_projector.linear_2.bias.mul_(scale)
    table = core.language_model.embed_tokens.weight
    named = {word: head.direction("shape", i) for i, word in enumerate(SHAPES)}
    named |= {word: head.direction("colour", i) for i, word in enumerate(COLOURS)}
    named |= {str(i): head.direction("digit", i) for i in range(10)}
    for word in ("top", "bottom", "left", "right", "centre"):
        parts = [head.direction("place", i) for i, name in enumerate(PLACES) if word in name.split()]
        named[word] = F.normalize(torch.stack(parts).sum(dim=0), dim=0)
    table.copy_(F.rms_norm(table, (table.shape[1],)) * SCALE)
    for word, direction in named.items():
        table[tokenizer.convert_tokens_to_ids(word)] = direction * table.shape[1] ** 0.5 * SCALE
    core.image_newline.copy_(F.rms_norm(core.image_newline, core.image_newline.shape) * SCALE)
    core.language_model.norm.weight.fill_(0.2)
    _compare(core.language_model.layers[0].self_attn, torch.stack([named[w] for w in (*SHAPES, *COLOURS)]))


def _compare(attention: Any, directions: Tensor) -> None:
    """Make the first head attend from a word to the tokens along its direction.

    The comparison lives in the slowest rotary pairs, so that distance hardly matters.
    """
    width = attention.head_dim
    basis = torch.linalg.qr(directions.T.float()).Q.T
    slow = [base + half for base in range(width // 2 - 1, -1, -1) for half in (0, width // 2)][: len(basis)]
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[:width] = 0
        projection.weight[slow] = basis.to(projection.weight.dtype)
