"""``open``: from whatever the user calls a video to a ``VideoSource``."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from headrace.video.address import Address, camera, is_camera, local_path, network, scheme_of
from headrace.video.container import ContainerReader, Opening
from headrace.video.errors import UnreachableError, VideoError, cause
from headrace.video.patience import within
from headrace.video.pictures import PHOTO_SUFFIXES, ArrayReader, PhotoReader, open_folder, open_photo
from headrace.video.piped import Piped, can_seek
from headrace.video.reconnect import Reconnect, Unbroken, connected
from headrace.video.shots import Reader, Warn
from headrace.video.source import Notes, VideoSource, Wanted
from headrace.video.spool import fetched, read_head, spooled

#: Who is told what the user should know, and what says that the source was closed.
_Told = tuple[Warn, threading.Event]

#: Longest silence of a web address in seconds at least: an HLS playlist names a new piece every 10 s or so.
_PATIENCE_S = 60.0

#: What can be watched: text or a path, a binary file object, an array, or an iterable of arrays.
Source = str | os.PathLike[str] | BinaryIO | Iterable[Any]


def open(
    source: Source,
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    after: float | None = None,
    begins: float | None = None,
    behind: str | None = None,
    realtime: bool = False,
    live: bool | None = None,
    options: Mapping[str, str] | None = None,
    open_timeout_s: float = 10.0,
    read_timeout_s: float = 10.0,
    queue_frames: int = 16,
    reconnect: Reconnect | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] | None = None,
) -> VideoSource:
    """Open anything that shows pictures over time.

    Args:
        source: A video file; a folder of images (natural order); a photo, or an animated GIF, PNG or WebP file; an
            ``http(s)``, HLS or ``rtsp`` address; ``camera:0`` or ``/dev/video0``; ``-`` for a container piped into
            standard input, or a binary file object; ``world:SEED[,key=value]``; a uint8 array (T,H,W,3), or an
            iterable of uint8 arrays (H,W,3).
        fps: Frames per second wanted, > 0. Sources with times are sampled (see ``sampling.sample``: at each instant
            the frame on the screen, none twice); folders and arrays have no times and get theirs from it (default 1).
        start: First time wanted, in seconds. Files are decoded from the last keyframe before it.
        end: First time no longer wanted, in seconds.
        after: Time of the last frame that was seen earlier, in seconds: where no ``start`` is given, a source that has
            a beginning starts there. A live one does not, because its time begins anew whenever it is opened.
        begins: With ``after``, the time of the very first frame that was seen, from which sampling goes on counting;
            default: where the source begins.
        behind: With ``after``, of a folder: the name of the image that was seen last (``VideoSource.pictures``). What
            sorts behind it is new, whatever was removed before it.
        realtime: Hold frames back until their presentation time, and treat the source as live.
        live: For addresses: True when frames do not wait for us. Default: always so for RTSP, RTMP, UDP and the
            like; for a web address unless its length is known, in seconds or bytes (a file, a closed HLS playlist).
        options: More FFmpeg options for the demuxer and protocol, such as ``{"rtsp_transport": "udp"}``.
        open_timeout_s: Longest wait for an address to answer with a picture format, in seconds.
        read_timeout_s: Longest silence of an address, in seconds. Where data come in pieces (HLS) it bounds each
            answer of the server; between pieces a minute may pass.
        queue_frames: Frames that may wait while the consumer of a live source is busy; then the oldest is dropped.
        reconnect: How hard to try when a live source is lost; default ``Reconnect()``. Cameras and addresses only.
        clock: Time in seconds, any origin; for tests.
        sleep: Waits for seconds; for tests. The default wakes up when the source is closed.

    Returns:
        The opened source; iterate over it and close it.

    Raises:
        VideoError: It cannot be opened or an argument is out of range; one line that names it.
    """
    for name, value in (("open_timeout_s", open_timeout_s), ("read_timeout_s", read_timeout_s)):
        if not value > 0:
            raise VideoError(f"{name} must be above 0 seconds, not {value}")
    wanted = Wanted(fps=fps, start_s=start, end_s=end, realtime=realtime, queue_frames=queue_frames)
    stop = threading.Event()
    notes = Notes(stop)
    wait, policy = partial(_wait, stop, sleep), reconnect or Reconnect()
    where = _where(source, read_timeout_s)
    reader: Reader
    if isinstance(where, Address):
        opening = _opening(where, dict(options or {}), (open_timeout_s, read_timeout_s), live)
        file = fetched(str(where.target), where.name, open_timeout_s, notes) if live is not True else None
        if file is not None:
            opening = Opening(file, where.name, options=dict(options or {}), live=False)
            reader = ContainerReader(opening, notes)
        else:
            reader = connected(partial(_connect, opening, notes, clock), policy, wait, notes)
        if reader.facts.live:
            again = partial(ContainerReader, opening, notes, clock)
            reader = Unbroken(reader, again, policy, clock, wait, notes)
    elif isinstance(where, Path):
        seen = None if behind is None or after is None or start is not None else (behind, after)
        reader = _open_path(where, fps or 1.0, dict(options or {}), (notes, stop), seen)
    elif isinstance(where, World):
        reader = _open_world(where.text)
    elif hasattr(where, "read"):
        reader = _open_stream(where, dict(options or {}), (notes, stop))
    else:
        reader = ArrayReader(where, fps or 1.0)
    if isinstance(reader, PhotoReader | ArrayReader):  # their times came from fps already
        wanted = replace(wanted, fps=None)
    if start is None and after is not None and not reader.facts.live:
        wanted = replace(wanted, start_s=after, begins_s=reader.facts.begins_s if begins is None else begins)
    try:
        _check_start(reader, wanted)
        return VideoSource(reader, wanted, notes, stop, clock, wait)
    except ValueError:
        reader.close()
        raise


@dataclass(frozen=True, slots=True)
class World:
    """The text after ``world:``."""

    text: str


def _where(source: Any, read_timeout_s: float) -> Any:
    """Turn text and paths into a ``Path``, ``Address``, ``World`` or the standard input; leave the rest."""
    if isinstance(source, os.PathLike):
        return Path(source)
    if not isinstance(source, str):
        if isinstance(source, Iterable) or hasattr(source, "read"):
            return source
        kind = type(source).__name__
        raise VideoError(f"cannot open a {kind}: a path, an address, a file object or arrays are expected")
    if source == "-":
        if getattr(sys.stdin, "buffer", None) is None:
            raise VideoError("cannot open standard input: there is none")
        return sys.stdin.buffer
    if source.startswith("world:"):
        return World(source.removeprefix("world:"))
    if is_camera(source, sys.platform):
        return camera(source, sys.platform)
    scheme = scheme_of(source)
    if scheme == "file":
        return local_path(source)
    if scheme is not None:
        return network(source, read_timeout_s)
    if not source.strip():
        raise VideoError("the source is empty: a path, an address, camera:0, world:SEED or - is expected")
    return Path(source)


def _opening(where: Address, options: dict[str, str], timeouts: tuple[float, float], live: bool | None) -> Opening:
    if where.patient:
        timeouts = (timeouts[0], max(timeouts[1], _PATIENCE_S))
    return Opening(
        where.target,
        where.name,
        format=where.format,
        options={**where.options, **options},
        timeouts=timeouts,
        live=where.live if live is None else live,
    )


def _connect(opening: Opening, warn: Warn, clock: Callable[[], float]) -> ContainerReader:
    assert opening.timeouts is not None
    patience = opening.timeouts[0]
    try:
        return within(patience, partial(ContainerReader, opening, warn, clock), ContainerReader.close)
    except TimeoutError:
        raise UnreachableError(f"cannot open {opening.name}: no answer within {patience:g} s") from None


def _open_path(
    path: Path, fps: float, options: dict[str, str], told: _Told, behind: tuple[str, float] | None
) -> Reader:
    warn = told[0]
    try:
        if path.is_dir():
            return open_folder(path, fps, warn, behind)
        size = path.stat().st_size
    except FileNotFoundError:
        raise VideoError(f"no such file or folder: {path}") from None
    except OSError as problem:
        raise VideoError(f"cannot open {path}: {cause(problem)}") from problem
    if path.is_file() and size == 0:
        raise VideoError(f"cannot open {path}: the file is empty")
    if path.suffix.lower() in PHOTO_SUFFIXES:
        return open_photo(path, fps, warn)
    if not path.is_file():  # a named pipe: reads of our own end at Ctrl-C
        return _open_pipe(path, options, told)
    # FFmpeg would take what stands before a colon in a bare name for a protocol
    opening = Opening(os.path.abspath(path), os.fspath(path), options=options, live=False)
    return ContainerReader(opening, warn)


def _open_pipe(path: Path, options: dict[str, str], told: _Told) -> Reader:
    try:
        pipe = path.open("rb", buffering=0)
    except OSError as problem:
        raise VideoError(f"cannot open {path}: {cause(problem)}") from problem
    try:
        return _open_stream(cast(BinaryIO, pipe), options, told, name=os.fspath(path), closes=pipe)
    except BaseException:
        pipe.close()
        raise


def _open_stream(
    stream: BinaryIO, options: dict[str, str], told: _Told, *, name: str = "the file object", closes: Any = None
) -> Reader:
    if stream is getattr(sys.stdin, "buffer", None):
        name = "standard input"
    isatty = getattr(stream, "isatty", None)
    if isatty is not None and isatty():
        raise VideoError(f"cannot open {name}: nothing is piped into it")
    again, target = can_seek(stream), stream
    if not again:
        piped = Piped(stream, name, told[1])
        head, index_last = read_head(piped.read)
        if index_last:
            again, target = True, spooled(head, piped.read)
        else:
            piped.put_back(head)
            target = cast(BinaryIO, piped)
    return ContainerReader(Opening(target, name, options=options, live=False, again=again, closes=closes), told[0])


def _open_world(text: str) -> Reader:
    from headrace.video.synthetic import WorldReader  # here, so that video files need no world

    try:
        return WorldReader(text)
    except ValueError as problem:
        raise VideoError(str(problem)) from problem


def _check_start(reader: Reader, wanted: Wanted) -> None:
    facts = reader.facts
    if isinstance(reader, ContainerReader):  # a header may promise less than there is
        return
    if facts.duration_s is None or facts.live or wanted.start_s is None:
        return
    end = facts.begins_s + facts.duration_s
    if wanted.start_s >= end:
        raise VideoError(f"start={wanted.start_s:g} s is past the end of {facts.name}, which lasts {end:.2f} s")


def _wait(stop: threading.Event, sleep: Callable[[float], object] | None, seconds: float) -> bool:
    """Wait for seconds; True when the source was closed meanwhile."""
    if sleep is None:
        return stop.wait(seconds)
    sleep(seconds)
    return stop.is_set()
