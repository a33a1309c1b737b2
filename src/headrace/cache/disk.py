"""A folder for blocks that do not fit in memory: one file each, gone with its last holder.

It is scratch: nothing in it outlives the process, and what a process that was killed left there is cleared by the next
one that opens the folder. What shall survive is saved with the stream.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import mmap
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger("headrace.cache")
LOCK = "lock"
RANDOM = getattr(mmap, "MADV_RANDOM", None)  # read what is touched, and no more
WANTED = getattr(mmap, "MADV_WILLNEED", None)  # begin to read
_tell = getattr(ctypes.CDLL(None), "madvise", None)


class File:
    """Tensors in one file; unlinked when the last block that holds it goes."""

    def __init__(self, disk: Disk, path: Path, tensors: Sequence[Tensor]) -> None:
        self.path = path
        self.num_bytes = sum(x.numel() * x.itemsize for x in tensors)
        self._shapes = [(x.dtype, x.numel()) for x in tensors]
        self._gone = weakref.finalize(self, disk.remove, path, self.num_bytes, os.getpid())

    def open(self) -> tuple[Tensor, ...]:
        """Map the file into memory: flat tensors whose pages are read when they are touched, and only those.

        A question wants a few layers of many files. What a system reads ahead by itself would be most of all files.

        Raises:
            ValueError: The file is no longer there, or shorter than it was.
        """
        try:
            whole = torch.from_file(str(self.path), shared=False, size=self.num_bytes, dtype=torch.uint8)
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise ValueError(f"{self.path}: a block of the stream's past cannot be read back ({why})") from None
        advise(whole, 0, self.num_bytes, RANDOM)
        parts, at = [], 0
        for dtype, num in self._shapes:
            part = whole[at : at + num * dtype.itemsize]
            parts.append(part.view(dtype))
            at += num * dtype.itemsize
        return tuple(parts)


def advise(mapped: Tensor, start: int, stop: int, advice: int | None) -> None:
    """Tell the system how bytes of a mapped file will be read, where it can be told; never waits.

    Python's own mapping could be told, too, but it holds a file descriptor per file, and a question opens a thousand.

    Args:
        mapped: A tensor that begins where the file does.
        start: First byte.
        stop: Byte behind the last.
        advice: ``RANDOM`` or ``WANTED``.
    """
    if _tell is not None and advice is not None and start < stop:
        page = start // mmap.PAGESIZE * mmap.PAGESIZE
        _tell(ctypes.c_void_p(mapped.data_ptr() + page), ctypes.c_size_t(stop - page), advice)


class Disk:
    """A stream's folder on disk. Forks share it; any thread may write.

    A process that is forked off may read what is there, and writes and removes files of its own; the folder stays the
    business of the process that made it.

    Args:
        folder: Where the stream's own folder is made; made if it is missing.
        limit_bytes: Most bytes a stream may have there, None for no limit; its ``Shelf`` keeps to it. Forks count
            apart, so that none decides what another forgets.

    Attributes:
        limit_bytes: As above.
        num_bytes: Bytes of all files.

    Raises:
        ValueError: The folder cannot be written to.
    """

    def __init__(self, folder: str | Path, *, limit_bytes: int | None = None) -> None:
        root = Path(folder)
        try:
            root.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(root)
            self.folder = Path(tempfile.mkdtemp(prefix="stream-", dir=root))
            self._lock_file = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR)
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"disk: {root} cannot be written to ({error.strerror})") from None
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()  # the collector may come inside, and find a file that goes
        self._count = 0
        self._warned = False
        self.num_bytes = 0
        self._pid = os.getpid()
        self._end = weakref.finalize(self, _close, self.folder, self._lock_file, self._pid)

    def write(self, tensors: Sequence[Tensor]) -> File | None:
        """Write tensors to a new file; None where that fails, which is said once."""
        num_bytes = sum(x.numel() * x.itemsize for x in tensors)
        maker = os.getpid()
        with self._lock:
            self._count += 1
            path = self.folder / (f"{self._count}.kv" if maker == self._pid else f"{maker}-{self._count}.kv")
            self.num_bytes += num_bytes
        try:
            with path.open("wb") as file:
                for x in tensors:
                    file.write(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        except OSError as error:
            self._say(error)
            self.remove(path, num_bytes, maker)
            return None
        return File(self, path, tensors)

    def remove(self, path: Path, num_bytes: int, maker: int) -> None:
        """Delete a file, in the process that made it: those that were forked off hold it, too."""
        if os.getpid() == maker:
            with suppress(OSError):
                path.unlink()
        with self._lock:
            self.num_bytes -= num_bytes

    def _say(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            told = "takes no more (%s); the stream goes on and forgets what does not fit"
            log.warning("disk: %s " + told, self.folder, error.strerror)


def _close(folder: Path, lock_file: int, maker: int) -> None:
    with suppress(OSError):
        os.close(lock_file)
    if os.getpid() == maker:
        shutil.rmtree(folder, ignore_errors=True)


def _clear_leftovers(root: Path) -> None:
    """Remove the folders of streams whose process is gone: nobody holds their lock any more."""
    for folder in root.glob("stream-*"):
        with suppress(OSError):
            lock_file = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock_file)
