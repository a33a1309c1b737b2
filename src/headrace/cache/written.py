"""Rows that will never be written again, on their way to a file and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(slots=True, eq=False)
class Written:
    """Tensors of rows that no longer change; whoever saves a state need not copy them.

    What packs into one unpacks from one, with its tensors on the CPU.

    Attributes:
        tensors: By name; views of what the owner holds.
        first: Which row of the owner they begin with.
        owner: What holds them, where from ``first`` to its end it will never change again: its rows have to be written
            to a folder once, as long as it lives. None where rows will still be added.
        read: Gets the tensors when they are needed, in place of ``tensors``: of an owner that lies on a disk. It may be
            called from another thread than the one that packs.
    """

    tensors: dict[str, Tensor]
    first: int = 0
    owner: Any = None
    read: Callable[[], dict[str, Tensor]] | None = None

    def held(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return self.tensors if self.read is None else self.read()

    def num_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(tensor.numel() * tensor.itemsize for tensor in self.held().values())

    def taken_by(self, owner: Any) -> None:
        """Say after unpacking who holds a copy of the rows now: a resumed stream does not write them again."""
        self.owner, self.tensors = owner, {}
