"""Random numbers by counting: every number is a pure function of its keys, in integers only.

The world must look the same on every machine, so no generator of a library is used (their streams change between
versions) and no floating point decides anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


def mix(value: int) -> int:
    """Scramble a 64-bit integer: the finaliser of SplitMix64, a bijection on 0..2^64-1."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def fold(keys: Sequence[int]) -> int:
    """Turn a sequence of integers into one 64-bit key that depends on all of them and on their order."""
    state = 0
    for key in keys:
        state = mix((state + STEP + (key & MASK)) & MASK)
    return state


def words(keys: Sequence[int], count: int) -> NDArray[np.uint64]:
    """Return (count,) integers of 64 bits from the same scramble as ``mix``."""
    value = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(STEP) + np.uint64(fold(keys))
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def noise(keys: Sequence[int], height: int, width: int) -> NDArray[np.int64]:
    """Return (height, width) integers in 0..255, one per lattice point."""
    return (words(keys, height * width) >> np.uint64(56)).astype(np.int64).reshape(height, width)


def grain(keys: Sequence[int], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return integers in 0..255 of any shape, eight from each word, lowest byte first."""
    count = math.prod(shape)
    return words(keys, -(-count // 8)).astype("<u8").view(np.uint8)[:count].reshape(shape)


class Draw:
    """A sequence of draws under one key; two with the same keys give the same numbers.

    Args:
        *keys: Integers that name the sequence, such as (seed, purpose, scene).
    """

    def __init__(self, *keys: int) -> None:
        self._key = fold(keys)
        self._count = 0

    def below(self, bound: int) -> int:
        """Return an integer in 0..bound-1; the bias is below bound / 2^64."""
        self._count += 1
        return mix((self._key + self._count * STEP) & MASK) * bound >> 64

    def between(self, low: int, high: int) -> int:
        """Return an integer in low..high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """Return True in ``percent`` of 100 cases."""
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return the items in a drawn order."""
        rest, out = list(items), []
        while rest:
            out.append(rest.pop(self.below(len(rest))))
        return out
