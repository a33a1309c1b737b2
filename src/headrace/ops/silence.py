"""Whether a reply begins, or its end-of-text token comes first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def breaks_silence(logits: Tensor, stop_ids: Sequence[int], threshold: float) -> tuple[Tensor, Tensor]:
    """Tell whether silence is less likely than a threshold, or than the likeliest word.

    Args:
        logits: (..., V) scores of a reply's first token.
        stop_ids: Vocabulary ids that end a reply; they count as one.
        threshold: A probability, 0 < threshold <= 1.

    Returns:
        (...) bool, and the (...) fp32 probability of silence.

    Source: VideoLLM-online (arXiv 2406.11816).
    """
    odds = torch.softmax(logits.float(), dim=-1)
    stop = torch.tensor(stop_ids, dtype=torch.int64, device=odds.device)
    silence, word = odds[..., stop].sum(dim=-1), odds.index_fill(-1, stop, 0.0).amax(dim=-1)
    return (silence < threshold) | (silence < word), silence
