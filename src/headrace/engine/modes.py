"""What a host has set for its own thread of torch does not reach into a stream.

Inference mode would leave tensors in a state that nobody else may write to, autocast would mix number types, a default
device would take the host's tables away from it. The default number type is one for all threads and cannot be kept
out: here every tensor of floats is made with a type that is written down (tests/house).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")


@contextmanager
def own_modes(device: torch.device) -> Iterator[None]:
    """Run a block of code as in a fresh thread, without gradients; costs a few microseconds.

    Args:
        device: Where the model is.
    """
    with torch.inference_mode(False), torch.no_grad(), ExitStack() as more:
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                more.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            more.enter_context(torch.device("cpu"))  # not always: every call of torch takes longer in it
        yield


def each_in_own_modes(parts: Iterable[T], device: torch.device) -> Iterator[T]:
    """Make every part as above, and hand it out in the caller's modes: what it does with it is its own business."""
    left = iter(parts)
    while True:
        with own_modes(device):
            try:
                part = next(left)
            except StopIteration:
                return
        yield part
