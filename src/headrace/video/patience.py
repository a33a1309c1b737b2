"""A bound on calls that cannot be interrupted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, make: Callable[[], T], discard: Callable[[T], None]) -> T:
    """Run ``make`` in a thread of its own and wait for it only so long.

    Looking up a host name, for one, ignores PyAV's time-outs.

    Args:
        seconds: Longest wait.
        make: The call.
        discard: Given the result when it comes too late.

    Returns:
        What ``make`` returned.

    Raises:
        TimeoutError: The time is over. Anything ``make`` raises is raised here.
    """
    lock = threading.Lock()
    done = threading.Event()
    results: list[T] = []
    problems: list[BaseException] = []
    late = False

    def run() -> None:
        try:
            result = make()
        except BaseException as raised:  # raised again where it is waited for
            problems.append(raised)
        else:
            with lock:
                if late:
                    discard(result)
                else:
                    results.append(result)
        done.set()

    threading.Thread(target=run, name="headrace-open", daemon=True).start()
    done.wait(seconds)
    with lock:
        if results:
            return results[0]
        late = True
    if problems:
        raise problems[0]
    raise TimeoutError
