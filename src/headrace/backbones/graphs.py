"""Work that is the same every time but for the numbers, recorded once and replayed, where a device can do that.

A frame's way through tower and decoder launches some three thousand small kernels; on a fast GPU launching takes longer
than running. A CUDA graph launches many at once. It always reads and writes the same memory, so inputs are copied in
and results copied out, and nothing of a call is left for the next one to see.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from headrace.protocols import Work

log = logging.getLogger(__name__)

MOST = 4  # works whose recordings are held; each keeps its inputs
LARGE = 1 << 23  # numbers in the first input from which on kernels outlast their launches


Replay = Callable[[Sequence[Tensor]], Sequence[Tensor]]
Recorder = Callable[[Work, Sequence[Tensor]], Replay]


class Graphs:
    """Recordings of one model, the least recently used of which leave; any thread may call.

    Args:
        recorder: Makes of work and inputs what replays it on other inputs; None: CUDA graphs where the inputs lie on
            such a device, and plain calls elsewhere.
        most: Works that are held.
    """

    def __init__(self, recorder: Recorder | None = None, *, most: int = MOST) -> None:
        self._recorder, self._most = recorder, most
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, dict[Hashable, Replay | None]] = OrderedDict()  # None: met once
        self._refused: set[Hashable] = set()

    def run(
        self, key: Hashable, work: Work, inputs: Sequence[Tensor], *, part: Hashable | None = None
    ) -> Sequence[Tensor]:
        """Do ``work(*inputs)``, the first time as it stands, then from a recording.

        Args:
            key: Tells works apart; what is done may depend on it, and on the shapes and types of the inputs, alone.
            work: From tensors to tensors; changes none of them, reads no number back, calls no other recorded work.
            inputs: On one device.
            part: Which part this is of a work that is done in several; they are held together and leave together.

        Returns:
            What ``work`` returns, bit for bit, in memory of its own.
        """
        recorder = self._recorder or (_record if inputs[0].device.type == "cuda" else None)
        if recorder is None or inputs[0].numel() > LARGE or is_in_torch_dispatch_mode():
            return work(*inputs)  # in a dispatch mode somebody counts operations, and a replay shows none
        sizes = tuple((tuple(x.shape), x.dtype, x.device) for x in inputs)
        with self._lock:
            replay = self._find((key, sizes) if part is None else key, (part, sizes), recorder, work, inputs)
            if replay is not None:
                return replay(inputs)
        return work(*inputs)

    def _find(
        self, key: Hashable, part: Hashable, recorder: Recorder, work: Work, inputs: Sequence[Tensor]
    ) -> Replay | None:
        """The recording of a part, made when the part is met again; None where there is none."""
        if (key, part) in self._refused:
            return None
        held = self._held.setdefault(key, {})
        self._held.move_to_end(key)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        if part not in held:
            held[part] = None
        elif held[part] is None:
            try:
                held[part] = recorder(work, inputs)
            except RuntimeError as error:
                log.warning("this work cannot be recorded and runs as it stands: %s", str(error).splitlines()[0])
                self._refused.add((key, part))
        return held[part]


class _Device:
    """What all recordings on one CUDA device share: the stream they are captured on, and memory between their kernels.

    So only one may be replayed at a time: its results are copied before the next one begins.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.stream, self.done, self.pool = torch.cuda.Stream(), torch.cuda.Event(), torch.cuda.MemPool()

    def capture(self, work: Work, held: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        """Record work on inputs that stay where they are; other threads may go on computing meanwhile."""
        self.stream.wait_stream(torch.cuda.current_stream())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            work(*held)  # libraries choose their kernels on the first call
            graph.capture_begin(pool=self.pool.id, capture_error_mode="thread_local")  # type: ignore[arg-type]
            try:
                outputs = work(*held)
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(self.stream)
        return graph, list(outputs)

    def wait(self) -> None:
        """Until whoever was here last has copied its results."""
        torch.cuda.current_stream().wait_event(self.done)


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    """A graph and the memory it works on; the work is kept because the graph reads its weights and tables."""

    work: Work
    device: _Device
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: list[Tensor]

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.cuda.device(self.inputs[0].device), self.device.lock:
            self.device.wait()
            torch._foreach_copy_(self.inputs, list(inputs))
            self.graph.replay()
            found = [torch.empty_like(x) for x in self.outputs]
            torch._foreach_copy_(found, self.outputs)
            self.device.done.record()
        return found


@cache
def _device(index: int) -> _Device:
    with torch.cuda.device(index):
        return _Device()


def _record(work: Work, inputs: Sequence[Tensor]) -> Replay:
    """Capture a CUDA graph; any thread may replay it, on a stream of its own."""
    at = inputs[0].device
    device = _device(torch.cuda.current_device() if at.index is None else at.index)
    with torch.cuda.device(at), device.lock:
        held = [x.clone() for x in inputs]
        graph, outputs = device.capture(work, held)
    return _Recording(work, device, graph, held, outputs)
