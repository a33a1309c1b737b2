"""Weight-only int8: a decoder's matrices as whole numbers with one scale per output, everything else as it was.

A row of a matrix is divided by its largest absolute value over 127 and rounded. Multiplying stays in the model's type:
on a CPU in bf16 a few rows go through torch's own op, which reads the int8 weights and never widens them in memory;
more rows, other types and other devices widen one matrix at a time (decision 0013).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NARROW_ROWS = 16  # up to here torch's op is faster than widening; measured on a CPU with AVX-512 bf16

OP_WIDTH = 16  # the op reads so many columns at once and checks nothing: other widths give wrong sums, or a crash


class Int8Linear(nn.Module):
    """A linear layer with int8 weights.

    Args:
        linear: The layer to replace.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        codes = (weight / scale[:, None]).round_().to(torch.int8)
        # parameters, so that a fingerprint of the weights sees them
        self.codes = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale.to(linear.weight.dtype), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (..., D) rows; the scale is applied to the product."""
        rows = x.reshape(-1, x.shape[-1])
        few = x.dtype == torch.bfloat16 and rows.shape[0] <= NARROW_ROWS and rows.shape[1] % OP_WIDTH == 0
        if few and x.device.type == "cpu":
            out = torch._weight_int8pack_mm(rows, self.codes, self.scale).view(*x.shape[:-1], self.codes.shape[0])
        else:
            out = nn.functional.linear(x, self.codes.to(x.dtype)) * self.scale
        return out if self.bias is None else out + self.bias


def quantise(model: Any) -> None:
    """Replace the matrices of a freshly loaded decoder, one at a time, so that never two copies are held.

    Tower, connector, norms, embeddings and the output layer stay as they are.
    """
    for layer in model.get_decoder().layers:
        for part in layer.modules():
            for name, child in list(part.named_children()):
                if isinstance(child, nn.Linear):
                    part.register_module(name, Int8Linear(child))
