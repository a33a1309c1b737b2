"""A folder that a stream is saved to: which files it holds, and how they are written so that none is ever half there.

``rows-*.safetensors`` holds rows that never change again, written once. ``state-*.safetensors`` holds everything else,
written anew by every save. ``stream.json``, the manifest, names all files with their checksums and is renamed into
place last: a folder holds the old stream or the new one, never half of each. Files of earlier saves are removed after
that, and nothing else. Whoever writes has the folder locked, also against other processes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, finalize

from safetensors.torch import save as save_tensors
from torch import Tensor

from headrace.cache import Written

FORMAT = 4
MANIFEST = "stream.json"
PROBE = "probe.part"
WAIT_S = 5.0  # for a save by somebody else to end
NAMES = re.compile(r"(rows|state)-[0-9a-f]{16}\.safetensors(\.part)?")  # of files that saves leave behind
MOST_BYTES = 1 << 28  # of one file of rows
LEAST_USED = 0.5  # a file of rows of which a smaller share is still held is written anew, without the rest


class SavedStreamError(ValueError):
    """A saved stream that cannot be used or written; one line that names the file and says what is wrong."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stream at one moment, on its way to a folder; nothing that the stream does later changes it.

    Attributes:
        stream: Model, pipeline and the tree of the state, as JSON.
        tensors: What the tree names, but for written rows.
        written: Rows that never change again; the tree names them by their place here.
    """

    stream: dict[str, Any]
    tensors: dict[str, Tensor]
    written: Sequence[Written]


@dataclass(frozen=True, slots=True)
class Place:
    """Where rows stand.

    Attributes:
        file: The file's name.
        key: What their tensors' names begin with.
        first: Which row of their owner comes first there.
        num_bytes: Bytes of their tensors.
    """

    file: str
    key: str
    first: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of tensors.

    Attributes:
        checksum: SHA-256 of all of it.
        num_bytes: Its size.
        payload: Bytes of its tensors.
    """

    checksum: str
    num_bytes: int
    payload: int


class Folder:
    """One folder, and what it holds of the streams that were saved to it.

    Args:
        path: Made when it is first written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._guard: finalize[..., Folder] | None = None  # closes what holds the lock, at the latest with this
        self._holders = 0
        self._places: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()
        self._files: dict[str, File] = {}

    def knows(self, owner: Any, place: Place) -> None:
        """Take note of rows that stand in a file of this folder."""
        self._places[owner] = place

    def has(self, name: str, file: File) -> None:
        """Take note of a file of this folder."""
        self._files[name] = file

    def check(self) -> None:
        """Make the folder, and write a byte to it.

        Raises:
            SavedStreamError: That cannot be done.
        """
        try:
            self._make()
            _put(self.path / PROBE, b" ")
            os.unlink(self.path / PROBE)
        except OSError as error:
            raise self._unwritable(error) from None

    def hold(self) -> None:
        """Keep everybody else from writing to the folder, until ``let_go`` was called as often.

        Raises:
            SavedStreamError: Somebody writes to it, or it cannot be written to.
        """
        with self._lock:
            self._guard = self._guard or self._locked()
            self._holders += 1

    def let_go(self) -> None:
        """Let others write to it again."""
        with self._lock:
            self._holders -= 1
            self._unlock()

    def _locked(self) -> finalize[..., Folder]:
        """Lock the folder; wait for that, not for long: a checkpointer holds it for as long as its stream runs."""
        try:
            self._make()
            held = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise self._unwritable(error) from None
        guard, until = finalize(self, _release, held, os.getpid()), time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.05)
                    continue
                guard()
                raise SavedStreamError(f"{self.path}: another stream is saved there; give another folder") from None
            except OSError:  # some network file systems lock no folders
                pass
            return guard

    def _unlock(self) -> None:
        if self._holders == 0 and self._guard is not None:
            self._guard()
            self._guard = None

    def write(self, shot: Snapshot) -> None:
        """Write what the folder does not hold yet, then the manifest; the old stream is there until that is done.

        Raises:
            SavedStreamError: It cannot be written; the folder is as it was.
        """
        with self._lock:
            fresh: list[Path] = []
            self._guard = self._guard or self._locked()
            try:
                self._write(shot, fresh)
            except (OSError, ValueError) as error:
                for path in fresh:  # a full disk is not made any fuller
                    _try_unlink(path)
                if isinstance(error, OSError):
                    raise self._unwritable(error) from None
                raise SavedStreamError(f"{self.path}: the stream cannot be saved ({error})") from None
            finally:
                self._unlock()

    def _write(self, shot: Snapshot, fresh: list[Path]) -> None:
        files, places = self._held(shot.written)
        for group in _groups([rows for rows in shot.written if rows.owner not in places]):
            parts = {f"{key}.{n}": tensor for key, rows in enumerate(group) for n, tensor in rows.held().items()}
            name = self._add("rows", parts, files, fresh)
            for key, rows in enumerate(group):
                places[rows.owner] = Place(name, str(key), rows.first, rows.num_bytes())
        state = self._add("state", shot.tensors, files, fresh)
        found = [places[rows.owner] for rows in shot.written]
        stream = {
            **shot.stream,
            "files": {name: file.checksum for name, file in files.items()},
            "tensors": state,
            "written": [[place.file, place.key, place.first] for place in found],
        }
        _sync(self.path)
        text = json.dumps({"format": FORMAT, "sha256": checksum_of(stream), "stream": stream})
        _replace(self.path / MANIFEST, text.encode())
        fresh.clear()  # named from here on
        _sync(self.path)
        self._files = files
        self._places = WeakKeyDictionary({rows.owner: place for rows, place in zip(shot.written, found, strict=True)})
        self._clear()

    def _held(self, written: Sequence[Written]) -> tuple[dict[str, File], dict[Any, Place]]:
        """Files that go on being used, and the place in them of every owner that has one."""
        places = {}
        for rows in written:
            place = self._places.get(rows.owner)
            if place is not None and place.first <= rows.first and self._is_there(place.file):
                places[rows.owner] = place
        used: dict[str, int] = {}
        for place in places.values():
            used[place.file] = used.get(place.file, 0) + place.num_bytes
        full = {name for name, num_bytes in used.items() if num_bytes >= LEAST_USED * self._files[name].payload}
        return {name: self._files[name] for name in full}, {o: p for o, p in places.items() if p.file in full}

    def _is_there(self, file: str) -> bool:
        """True while a file has the size it was written with: another stream may have been saved here since."""
        try:
            return file in self._files and (self.path / file).stat().st_size == self._files[file].num_bytes
        except OSError:
            return False

    def _add(self, kind: str, tensors: dict[str, Tensor], files: dict[str, File], fresh: list[Path]) -> str:
        """Write a file of tensors that is called after what it holds; returns its name."""
        data = save_tensors(_apart(tensors))
        checksum = hashlib.sha256(data).hexdigest()
        name = f"{kind}-{checksum[:16]}.safetensors"
        path = self.path / name
        if not path.exists():
            fresh.append(path)
        _replace(path, data)
        files[name] = File(checksum, len(data), sum(x.numel() * x.itemsize for x in tensors.values()))
        return name

    def _make(self) -> None:
        if not self.path.is_dir():
            self.path.mkdir(parents=True, exist_ok=True)
            _sync(self.path.parent)

    def _clear(self) -> None:
        """Remove files of earlier saves; what cannot be removed stays for the next time."""
        for path in self.path.iterdir():
            if NAMES.fullmatch(path.name) and path.name not in self._files:
                _try_unlink(path)

    def _unwritable(self, error: OSError) -> SavedStreamError:
        return SavedStreamError(f"{self.path}: cannot be written to ({error.strerror or error})")


def checksum_of(stream: dict[str, Any]) -> str:
    """Checksum of a manifest's content."""
    return hashlib.sha256(json.dumps(stream).encode()).hexdigest()


def _release(held: int, pid: int) -> None:
    """Close what holds a lock; a process that was forked off shares it, and neither keeps nor takes it."""
    if os.getpid() == pid:
        fcntl.flock(held, fcntl.LOCK_UN)
    os.close(held)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each with memory of its own; safetensors writes nothing that shares any."""
    found, used = {}, set()
    for name, tensor in tensors.items():
        held = tensor.cpu().contiguous()
        memory = held.untyped_storage()
        if memory.nbytes() != held.nbytes or memory.data_ptr() in used:
            held = held.clone()
            memory = held.untyped_storage()
        used.add(memory.data_ptr())
        found[name] = held
    return found


def _groups(written: Sequence[Written]) -> Iterator[list[Written]]:
    """Cut rows into files of a size that a machine can hold twice; nobody's rows come twice."""
    group: list[Written] = []
    size = 0
    for rows in {id(rows.owner): rows for rows in written}.values():
        num_bytes = rows.num_bytes()
        if group and size + num_bytes > MOST_BYTES:
            yield group
            group, size = [], 0
        group.append(rows)
        size += num_bytes
    if group:
        yield group


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all, even after a power cut."""
    part = path.with_name(path.name + ".part")
    try:
        _put(part, data)
        os.replace(part, path)
    except OSError:
        _try_unlink(part)
        raise


def _put(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _try_unlink(path: Path) -> None:
    try:
        os.unlink(path)
    except OSError:
        return
