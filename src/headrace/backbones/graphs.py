"""Work that is the same every time but for the numbers, recorded once and replayed, where a device can do that.

A selective pass of a tower launches some six hundred small kernels; on a fast GPU launching takes longer than running.
A CUDA graph launches them all at once. It always reads and writes the same memory, so inputs are copied in and results
copied out, and nothing of a call is left for the next one to see.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from headrace.protocols import Work

log = logging.getLogger(__name__)

MOST = 4  # recordings that are held; each keeps its inputs and everything it computes
WARM_UP = 2  # calls before a recording, in which libraries choose their kernels


Replay = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Recorder = Callable[[Work, Sequence[Tensor]], Replay]


class Graphs:
    """Recordings of one model, the least recently used of which leave; any thread may call.

    Args:
        recorder: Makes of work and inputs what replays it on other inputs; None: CUDA graphs where the inputs lie on
            such a device, and plain calls elsewhere.
    """

    def __init__(self, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Replay | None] = OrderedDict()  # None: met once
        self._refused: set[Hashable] = set()

    def run(self, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do ``work(*inputs)``, the first time as it stands, then from a recording.

        Args:
            key: Tells works apart; what is done may depend on it, and on the shapes and types of the inputs, alone.
            work: From tensors to tensors; changes none of them, reads no number back, calls no other recorded work.
            inputs: On one device.

        Returns:
            What ``work`` returns, bit for bit, in memory of its own.
        """
        recorder = self._recorder or (_record if inputs[0].device.type == "cuda" else None)
        if recorder is None or is_in_torch_dispatch_mode():  # somebody counts operations, and a replay shows none
            return work(*inputs)
        whole = (key, *((tuple(x.shape), x.dtype, x.device) for x in inputs))
        with self._lock:
            replay = self._find(whole, recorder, work, inputs)
            if replay is not None:
                return replay(inputs)
        return work(*inputs)

    def _find(self, key: Hashable, recorder: Recorder, work: Work, inputs: Sequence[Tensor]) -> Replay | None:
        """The recording of a key, made when the key is met again; None where there is none."""
        if key in self._refused:
            return None
        if key not in self._held:
            self._held[key] = None
        elif self._held[key] is None:
            try:
                self._held[key] = recorder(work, inputs)
            except RuntimeError as error:
                log.warning("this work cannot be recorded and runs as it stands: %s", str(error).splitlines()[0])
                self._refused.add(key)
                del self._held[key]
                return None
        self._held.move_to_end(key)
        while len(self._held) > MOST:
            self._held.popitem(last=False)
        return self._held[key]


def _record(work: Work, inputs: Sequence[Tensor]) -> Replay:
    """Capture a CUDA graph; other threads may go on computing meanwhile, and may replay it on streams of their own."""
    with torch.cuda.device(inputs[0].device):
        held = [x.clone() for x in inputs]
        side, done = torch.cuda.Stream(), torch.cuda.Event()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = work(*held)

    def replay(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.cuda.device(inputs[0].device):
            torch.cuda.current_stream().wait_event(done)  # until whoever was here last has copied its results
            torch._foreach_copy_(held, list(inputs))
            graph.replay()
            found = [x.clone() for x in outputs]
            done.record()
        return found

    return replay
