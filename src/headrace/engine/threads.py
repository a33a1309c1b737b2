"""Under load, try with one torch thread fewer: a step waits for its slowest thread, and one may share its core."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

TRIAL = 6  # steps for which a number of threads is looked at
REST = 64  # steps until the next try after one that did not help
GAIN = 0.95  # a try has helped when steps take less than this share of before


class Threads:
    """Chooses the process's number of torch threads, between one and what it was.

    Args:
        get: Reads the number.
        put: Sets it.
    """

    def __init__(
        self, get: Callable[[], int] = torch.get_num_threads, put: Callable[[int], None] = torch.set_num_threads
    ) -> None:
        self._get, self._put = get, put
        self._most = get()
        self._seen: list[float] = []
        self._before: float | None = None  # the load with one thread more, while a try is running
        self._wait = 0

    def look(self, pressed: bool, load: float) -> None:
        """Take in one step.

        Args:
            pressed: The governor runs below full quality.
            load: How many times slower than nominal steps are now.
        """
        if not pressed:
            self.restore()
            return
        self._wait = max(0, self._wait - 1)
        self._seen.append(load)
        if len(self._seen) < TRIAL or self._wait:
            return
        now, self._seen = median(self._seen[-TRIAL:]), []
        if self._before is not None and now > GAIN * self._before:
            self._put(self._get() + 1)
            self._before, self._wait = None, REST
        elif self._get() > 1:
            self._before = now
            self._put(self._get() - 1)
        else:
            self._before = None

    def restore(self) -> None:
        """Go back to the number of threads there was at first."""
        self._seen, self._before, self._wait = [], None, 0
        if self._get() != self._most:
            self._put(self._most)
