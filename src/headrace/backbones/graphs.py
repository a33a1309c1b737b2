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
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from headrace.protocols import Work

log = logging.getLogger(__name__)

MOST = 4  # works whose recordings are held
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
        if recorder is None or inputs[0].numel() > LARGE or _is_watched():
            return work(*inputs)
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


def _is_watched() -> bool:
    """True where a replay would show less than the work: to gradients, and to whoever counts operations.

    Tensors of inference mode cannot be written to outside it, so what is recorded there could not be replayed.
    """
    return torch.is_grad_enabled() or torch.is_inference_mode_enabled() or is_in_torch_dispatch_mode()


class Rooms:
    """Memory for tensors that nobody needs at the same time, shared by all of one shape; it goes with its last user."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[Hashable, Tensor] = WeakValueDictionary()

    def like(self, use: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Rooms for these tensors, all different, and the same ones for whoever asks for the same use and shapes."""
        found = []
        for slot, x in enumerate(tensors):
            key = (use, slot, tuple(x.shape), x.stride(), x.dtype)
            if (room := self._known.get(key)) is None:
                room = self._known[key] = torch.empty_like(x)
            found.append(room)
        return found


class _Device:
    """What all recordings on one CUDA device share: memory, and the stream they are captured on.

    Inputs and results of all recordings lie in the same rooms, and their kernels' memory in the same pool. So only one
    may be replayed at a time: its results are copied before the next one begins.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = torch.cuda.Event()
        self.rooms = Rooms()
        self._spoilt: list[torch.cuda.MemPool] = []
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.stream, self.pool = torch.cuda.Stream(), torch.cuda.MemPool()

    def capture(self, work: Work, inputs: Sequence[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        """Record work from its inputs to results that lie in rooms.

        Other threads may go on computing meanwhile, but in older versions of torch draw no random numbers here.
        """
        self.stream.wait_stream(torch.cuda.current_stream())
        self.stream.wait_event(self.done)
        with torch.cuda.stream(self.stream):
            found = list(work(*inputs))  # libraries choose their kernels on the first call
        torch.cuda.current_stream().wait_stream(self.stream)
        results, graph = self.rooms.like("result", found), torch.cuda.CUDAGraph()
        del found
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                graph.capture_begin(pool=self.pool.id, capture_error_mode="thread_local")  # type: ignore[arg-type]
                try:
                    torch._foreach_copy_(results, list(work(*inputs)))
                finally:
                    graph.capture_end()
        except BaseException:  # the pool may count as being recorded to for ever
            self._spoilt.append(self.pool)
            self._begin_anew()
            raise
        torch.cuda.current_stream().wait_stream(self.stream)
        self.done.record()
        return graph, results


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    """A graph and what it needs: its work, because it reads the work's tables, and the pool it lies in."""

    work: Work
    device: _Device
    pool: torch.cuda.MemPool
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    results: list[Tensor]

    def __call__(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        with torch.cuda.device(inputs[0].device), self.device.lock:
            torch.cuda.current_stream().wait_event(self.device.done)  # until whoever was here last has copied
            torch._foreach_copy_(self.inputs, list(inputs))
            self.graph.replay()
            found = [torch.empty_like(x) for x in self.results]
            torch._foreach_copy_(found, self.results)
            self.device.done.record()
        return found


@cache
def _device(index: int) -> _Device:
    with torch.cuda.device(index):
        return _Device()


def _record(work: Work, inputs: Sequence[Tensor]) -> Replay:
    """Capture a CUDA graph; any thread may replay it."""
    at = inputs[0].device
    device = _device(torch.cuda.current_device() if at.index is None else at.index)
    with torch.cuda.device(at), device.lock:
        held = device.rooms.like("input", inputs)
        torch.cuda.current_stream().wait_event(device.done)
        torch._foreach_copy_(held, list(inputs))
        graph, results = device.capture(work, held)
        return _Recording(work, device, device.pool, graph, held, results)
