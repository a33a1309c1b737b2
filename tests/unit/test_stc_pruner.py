"""``stc_pruner``: which channels it looks at, and that its history is exact."""

from __future__ import annotations

import torch

from headrace.methods.compressors.stc_pruner import StcPruner, quiet_channels
from headrace.types import VisualTokens


def test_of_an_odd_number_of_channels_the_smaller_half_is_quiet() -> None:
    x = torch.tensor([[1.0], [-1.0]]) * torch.tensor([9.0, 2.0, 8.0, 1.0, 7.0, 5.0, 6.0])
    assert quiet_channels(x).tolist() == [3, 1, 5]


def test_the_history_is_a_sum_in_double_precision() -> None:
    draw, place = torch.Generator().manual_seed(0), torch.arange(6)
    method = StcPruner(keep=3, channels="fixed")
    state, total = method.init(None), torch.zeros(4, dtype=torch.float64)  # type: ignore[arg-type]
    for step in range(300):
        x = torch.randn(6, 8, generator=draw) + 3
        tokens = VisualTokens(x, place * 0, place * 0, place, (1, 6), (step,), (float(step),))
        state, _ = method.step(state, tokens)
        assert state.channels is not None
        total += x[:, state.channels].mean(0).double()
    assert state.total is not None
    assert torch.equal(state.total, total)
