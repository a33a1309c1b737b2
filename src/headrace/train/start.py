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
from headrace.train.see import TokenHead, normal
from headrace.video.world.script import COLOURS, SHAPES

SCALE = 0.3  # root mean square of word and visual rows
GAIN, AWAY = 1.1, 2.5  # how sharply the comparing head matches, and how strongly it turns away from words


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
    text = _text_direction(torch.cat([torch.stack(list(named.values())), normal(tokens)[:512].to(table)]))
    table.copy_(F.rms_norm(table, (table.shape[1],)))
    for word, direction in named.items():
        table[tokenizer.convert_tokens_to_ids(word)] = direction * table.shape[1] ** 0.5
    table.sub_(torch.outer(table @ text, text))
    table.add_(text * (0.6 * table.shape[1] ** 0.5))
    table.copy_(F.rms_norm(table, (table.shape[1],)) * SCALE)
    core.image_newline.copy_(F.rms_norm(core.image_newline, core.image_newline.shape) * SCALE)
    core.language_model.norm.weight.fill_(0.2)
    directions = torch.stack([named[word] for word in (*SHAPES, *COLOURS)])
    _compare(core.language_model.layers[0].self_attn, directions, text)


def _text_direction(rows: Tensor) -> Tensor:
    """Return the (D,) direction of length 1 along which ``rows`` (N, D) differ least from 0: free to mark words."""
    values, vectors = torch.linalg.eigh(rows.T.float() @ rows.float())
    direction: Tensor = vectors[:, int(values.argmin())].to(rows.dtype)
    return direction


def _compare(attention: Any, directions: Tensor, text: Tensor) -> None:
    """Make the first head attend from a word to the visual tokens along its direction, and not to words.

    The comparison lives in the slowest rotary pairs, so that distance hardly matters. Its last pair keeps away from
    words, which would else match themselves best.
    """
    width = attention.head_dim
    basis = torch.linalg.qr(directions.T.float()).Q.T
    slow = [base + half for base in range(width // 2 - 1, -1, -1) for half in (0, width // 2)][: len(basis) + 1]
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[:width] = 0
        projection.weight[slow[1:]] = basis.to(projection.weight.dtype) * GAIN
    attention.k_proj.weight[slow[0]] = text * -AWAY
    attention.q_proj.weight[slow[0]] = text * AWAY
