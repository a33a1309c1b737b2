"""Files that outlive a stopped run: written in one piece, or grown line by line."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any


def check_save(path: Path | None) -> None:
    """Refuse, before anything is measured, a file that could not be written.

    Args:
        path: The file; None is no file. Folders that are missing are made when it is written.

    Raises:
        ValueError: It is a folder, lies in something that is no folder, or cannot be written.
    """
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name a file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with path.open("ab") if path.exists() else tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from None


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one piece: after a crash or on a full disk there is the old text or the new, never half.

    Args:
        path: The file; folders are made. A link stays a link, and the file keeps its permissions.
        text: What it shall hold, line ends as they are.

    Raises:
        OSError: It cannot be written; the old file is still there.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():  # a device or a pipe
        path.write_text(text, encoding="utf-8", newline="")
        return
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8", newline="")
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_lines(path: Path | None) -> Iterator[tuple[int, Any]]:
    """Yield number and value of every line of a JSON-lines file; none where there is no file.

    A last line without its line end that cannot be read was torn by a kill or a full disk: it is passed over here, and
    removed by the next ``append_line``.

    Raises:
        ValueError: Another line is damaged.
    """
    if path is None or not path.is_file():
        return
    *whole, last = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, start=1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise damaged(path, number, error) from None
        yield number, value
    if _reads(last):
        yield len(whole) + 1, json.loads(last)


def damaged(path: Path, number: int, error: Exception) -> ValueError:
    """What to raise for a line that does not hold what it should."""
    return ValueError(f"{path}: line {number} is damaged ({error}); remove it")


def append_line(path: Path, value: Any) -> None:
    """Add a line to a JSON-lines file; folders and the file are made, a torn last line is removed.

    Args:
        path: The file.
        value: What JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        _lock(file)
        file.seek(0)
        data = file.read()
        whole = data.rfind(b"\n") + 1
        ends = b""
        if _reads(data[whole:]):
            ends = b"\n"
        else:
            file.truncate(whole)
        file.write(ends + json.dumps(value).encode() + b"\n")


def _reads(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _lock(file: IO[bytes]) -> None:
    """Wait until no other process appends; closing the file lets go."""
    with contextlib.suppress(OSError):  # some network file systems lock nothing
        fcntl.flock(file, fcntl.LOCK_EX)
