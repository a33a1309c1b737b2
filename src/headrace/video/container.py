"""Containers and streams through PyAV: packets become shots with exact times."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av

from headrace.video.errors import OPEN_ERRORS, READ_ERRORS, UnreachableError, VideoError, cause, may_come
from headrace.video.rgb import to_rgb
from headrace.video.shots import Facts, Shot, Warn
from headrace.video.timeline import Timeline

_TEXT_CODECS = frozenset({"ansi", "bintext", "xbin", "idf"})  # FFmpeg draws text files as pictures
_MAX_FPS = 480
_STILL_FORMATS = ("image2", "_pipe")
_NO_SEEKING = frozenset({"mpeg"})  # a program stream: FFmpeg searches it, and lands behind the place or on wrong stamps
_FROM_ZERO = frozenset({"asf", "nut"})  # their headers say when the last picture ends, not how long it is until then
_MICRO = Fraction(1, 1_000_000)  # seconds; in these, frames that carry no times of their own are stamped


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything needed to open a container, and to open it again.

    Attributes:
        target: A path, an address, or a binary file object.
        name: What messages call it.
        format: Demuxer to force, or None to look at the data.
        options: Demuxer and protocol options.
        timeouts: (open, read) time-outs in seconds, or None for sources that do not hang.
        live: True or False where known beforehand; None lets the length decide.
        again: Whether the target can be opened a second time and seeked in (not a pipe).
        closes: What is closed with the container, beside the target.
    """

    target: Any
    name: str
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    timeouts: tuple[float, float] | None = None
    live: bool | None = None
    again: bool = True
    closes: Any = None


class ContainerReader:
    """One opened container; reads its best video stream once."""

    def __init__(self, opening: Opening, warn: Warn, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the container and look at its header.

        Args:
            opening: What to open, and how.
            warn: Told what the user should know.
            clock: Time in seconds, any origin; what the stamps of a live source are held against.

        Raises:
            VideoError: It cannot be opened, or has no video stream.
        """
        self._opening, self._warn, self._clock = opening, warn, clock
        self._container = _open_container(opening)
        try:
            self._stream = _video_stream(self._container, opening.name)
            self.facts = _facts(self._container, self._stream, opening)
        except VideoError:
            self._container.close()
            raise
        # a camera's MJPEG or raw H.264: FFmpeg would count its frames at a rate that it makes up
        self._by_arrival = self.facts.live and _is_unstamped(self._container)
        self._packets = self._decoded = self._damaged = 0
        self._broken: str | None = None
        self._until_s = 0.0

    def shots(self, start_s: float) -> Iterator[Shot]:
        """Yield the decoded pictures in presentation order; what cannot be decoded is left out with a warning.

        Args:
            start_s: Seconds; where the container can seek, reading begins at the last keyframe before it.

        Raises:
            VideoError: A live source broke off; says why. A finite one only warns and ends.
        """
        timeline = Timeline(self._stream.time_base, self._stream.start_time, self.facts.fps)
        if self._by_arrival:
            timeline = Timeline(_MICRO, None, self.facts.fps)
        shots = self._shots(timeline)
        if start_s > 0 and self._seek(start_s):
            first = next(shots, None)
            if first is not None and first.time_s <= start_s:
                shots = chain([first], shots)
            else:  # the index pointed past the place: read everything instead
                self._reopen()
                timeline.restart()
                shots = self._shots(timeline)
        yield from shots
        self._report(timeline, whole=start_s <= 0)

    def close(self) -> None:
        """Close the container, and what goes with it."""
        self._container.close()
        if self._opening.closes is not None:
            self._opening.closes.close()

    def _shots(self, timeline: Timeline) -> Iterator[Shot]:
        gap, before_s = False, self._clock()
        for picture, stamp in self._stamped(timeline):
            if picture is None:
                gap = self._decoded > 0
                continue
            self._decoded += 1
            self._damaged += bool(picture.is_corrupt)
            now_s = self._clock()
            time_s, jumped = timeline.place(stamp, now_s - before_s if self.facts.live else None)
            before_s = now_s
            self._until_s = time_s + float((picture.duration or 0) * (picture.time_base or 0))
            yield Shot(time_s, partial(to_rgb, picture), gap or jumped, self._sent_s(picture))
            gap = False

    def _stamped(self, timeline: Timeline) -> Iterator[tuple[av.VideoFrame | None, int | None]]:
        """Yield what ``_pictures`` does with its stamp, and without where only this one is far from those around it.

        A live source is not asked for the picture after, for which it would have to wait.
        """
        far: av.VideoFrame | None = None
        for picture in self._pictures():
            stamp = None if picture is None else self._stamp(picture)
            if far is not None:
                yield far, None if timeline.goes_on(stamp) else self._stamp(far)
                far = None
            if not self.facts.live and timeline.is_far(stamp):
                far = picture
            else:
                yield picture, stamp
        if far is not None:
            yield far, self._stamp(far)

    def _stamp(self, picture: av.VideoFrame) -> int | None:
        """A picture's place in ticks of the timeline.

        AVI knows no times but those of decoding, which FFmpeg reports as those of presentation, too.
        """
        if self._by_arrival:
            return round(self._clock() / _MICRO)
        stamp: int | None = picture.dts if self._container.format.name == "avi" else picture.pts
        return stamp

    def _sent_s(self, picture: av.VideoFrame) -> float | None:
        """When a picture was sent by the clock of whoever writes a playlist; other senders may begin anew each time."""
        if not self.facts.live or "hls" not in self._container.format.name or picture.pts is None:
            return None
        return float(picture.pts * self._stream.time_base)

    def _pictures(self) -> Iterator[av.VideoFrame | None]:
        """Yield decoded frames, and None where one could not be decoded."""
        packets = self._container.demux(self._stream)
        while True:
            asked = time.monotonic()
            try:
                packet = next(packets, None)
            except READ_ERRORS as problem:
                self._broken = cause(problem)
                if self.facts.live:
                    raise VideoError(self._broken) from problem
                packet = None
            if self.facts.live and not (packet and packet.size) and self._is_late(asked):
                raise VideoError(f"nothing arrived for {time.monotonic() - asked:.0f} s")
            if packet is None:
                return
            self._packets += packet.size > 0
            self._damaged += packet.is_corrupt
            try:
                yield from packet.decode()
            except READ_ERRORS:
                self._damaged += self._decoded > 0 or not self.facts.live
                yield None

    def _is_late(self, asked: float) -> bool:
        """Tell whether a read that began then was cut off by the time-out; some demuxers call that the end."""
        limits = self._opening.timeouts
        return limits is not None and time.monotonic() - asked >= 0.9 * limits[1]

    def _seek(self, start_s: float) -> bool:
        stream, opening = self._stream, self._opening
        if self.facts.live or not opening.again or self._container.format.name in _NO_SEEKING:
            return False
        if stream.start_time is None or stream.time_base is None:
            return False
        try:
            ticks = int(Fraction(start_s).limit_denominator(1_000_000) / stream.time_base)
            self._container.seek(stream.start_time + ticks, stream=stream, backward=True)
        except READ_ERRORS:
            self._reopen()
            return False
        return True

    def _reopen(self) -> None:
        self._container.close()
        if hasattr(self._opening.target, "seek"):
            self._opening.target.seek(0)
        self._container = _open_container(self._opening)
        self._stream = _video_stream(self._container, self._opening.name)
        self._packets = self._decoded = self._damaged = 0
        self._broken, self._until_s = None, 0.0

    def _report(self, timeline: Timeline, whole: bool) -> None:
        """Warn when the container held less than its header promised, or could not all be decoded."""
        name, until = self.facts.name, timeline.last_s
        until = until if until is None else max(until, self._until_s)
        if not timeline.stamped and self._decoded > 1:
            self._warn(f"{name} carries no times; they were counted at {timeline.rate:g} frames per second")
        if self.facts.live:
            return
        length = self.facts.duration_s
        missing = whole and "mov" in self._container.format.name and self._packets < self._stream.frames
        if length is not None and until is not None:
            slack = 2.0 + 0.2 * length if _may_be_audio(self._container, self._stream) else 0.5
            # an edit list hides packets that the header counts: then the pictures last as long as they should
            missing = length - until > (0.5 / timeline.rate if missing else max(slack, 3 / timeline.rate))
        if not (missing or self._damaged or self._broken):
            return
        why = f" ({self._broken})" if self._broken else ""
        if not self._decoded:
            mp4 = "mov" in self._container.format.name and not _is_file(self._opening.target)
            hint = "; a pipe, or a server without ranges, needs an MP4 with its index first (faststart)" if mp4 else ""
            self._warn(f"nothing in {name} decodes{why}{hint}")
            return
        reach = "" if until is None or length is None else f", up to {until:.2f} s of {length:.2f} s"
        what = "is cut short or damaged" if missing or self._broken else "is damaged in places"
        self._warn(f"{name} {what}{why}: the {self._decoded} frames that decode were used{reach}")


def _open_container(opening: Opening) -> Any:
    began = time.monotonic()
    try:
        return av.open(
            opening.target,
            "r",
            format=opening.format,
            options=dict(opening.options),
            timeout=opening.timeouts,
            metadata_errors="replace",
        )
    except OPEN_ERRORS as problem:
        if _unfinished(opening.target):
            why = "its index is missing: the recording was cut off before it was finished, or is damaged"
            raise VideoError(f"cannot open {opening.name}: {why}") from problem
        late = opening.timeouts is not None and time.monotonic() - began >= 0.9 * opening.timeouts[0]
        why = "nothing arrived before the time-out" if late else cause(problem)
        kind = UnreachableError if late or may_come(problem) else VideoError
        raise kind(f"cannot open {opening.name}: {why}") from problem


def _is_file(target: Any) -> bool:
    return isinstance(target, str) and Path(target).is_file()


def _unfinished(target: Any) -> bool:
    """Tell whether this is the beginning of an MP4 or MOV file, which cannot be read without its index."""
    if not _is_file(target):
        return False
    with open(target, "rb") as file:
        return file.read(8)[4:] == b"ftyp"


def _video_stream(container: Any, name: str) -> Any:
    pictures = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not pictures:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(f"cannot open {name}: it has no video stream, only {kinds}")
    best = container.streams.best("video")
    stream = best if best in pictures else pictures[0]
    if stream.codec_context is None:
        raise VideoError(f"cannot open {name}: its video codec is not supported")
    if stream.codec_context.name in _TEXT_CODECS:
        raise VideoError(f"cannot open {name}: it is a text file, not a video")
    return stream


def _facts(container: Any, stream: Any, opening: Opening) -> Facts:
    rates = (stream.average_rate, stream.guessed_rate)  # FFmpeg's guess may be no more than the clock's tick
    fps = next((float(r) for r in rates if r and 0 < r <= _MAX_FPS), None)
    duration = _duration(container, stream)
    live = opening.live
    if live is None:
        sized = "hls" not in container.format.name and container.size > 0
        still = container.format.name.endswith(_STILL_FORMATS)
        live = duration is None and not sized and not still
    if live:
        return Facts(opening.name, fps=None if _is_unstamped(container) else fps, live=True)
    count = round(duration * fps) if duration and fps else None
    if stream.frames:  # in MP4 and MOV, the ones that an edit list hides are counted, too
        count = min(stream.frames, count or stream.frames) if "mov" in container.format.name else stream.frames
    return Facts(opening.name, fps=fps, duration_s=duration, num_frames=count)


def _is_unstamped(container: Any) -> bool:
    """Tell whether a container has no room for times."""
    return bool(container.format.flags & av.format.Flags.no_timestamps.value)


def _duration(container: Any, stream: Any) -> float | None:
    """Return the seconds from the first picture to the end of the last one, as the header has them, or None."""
    tag, from_zero = _tagged_duration(stream), container.format.name in _FROM_ZERO
    if stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
    elif tag is not None:
        length, from_zero = tag, True
    elif container.duration and container.duration > 0:
        length = container.duration / 1e6
    else:
        return None
    begins = float((stream.start_time or 0) * (stream.time_base or 0)) if from_zero else 0.0
    return length - begins if begins < length else length  # else the header does not count from 0 after all


def _tagged_duration(stream: Any) -> float | None:
    """Read what Matroska writers note per stream, as 00:00:05.280000000."""
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    return float(found[1]) * 3600 + float(found[2]) * 60 + float(found[3]) if found else None


def _may_be_audio(container: Any, stream: Any) -> bool:
    """Tell whether the length could be that of another, longer stream."""
    return stream.duration is None and _tagged_duration(stream) is None and len(container.streams) > 1
