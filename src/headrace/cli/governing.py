"""``--target-ms`` and ``--keep-up``: a governor in front of a command's stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from headrace.cli.output import Output

if TYPE_CHECKING:
    from headrace.engine import Choice, Governor, Stream
    from headrace.video import VideoSource


@dataclass(frozen=True)
class Governing:
    """What was asked for.

    Attributes:
        target_ms: Milliseconds per frame, or None.
        keep_up: Take the source's own frame interval as the target.

    Raises:
        ValueError: Both are given, or the target is no time.
    """

    target_ms: float | None = None
    keep_up: bool = False

    def __post_init__(self) -> None:
        if self.target_ms is not None and not 0 < self.target_ms < float("inf"):
            raise ValueError(f"--target-ms: must be above 0 milliseconds, not {self.target_ms:g}")
        if self.target_ms is not None and self.keep_up:
            raise ValueError("--keep-up: takes the target from the source; leave out --target-ms")

    @contextmanager
    def of(self, stream: Stream, source: VideoSource, out: Output) -> Iterator[Stream | Governor]:
        """Yield what frames are to be pushed to: the stream, or a governor in front of it, which tells at the end.

        Raises:
            ValueError: The source does not say how fast its frames come.
        """
        target_ms = self._target_ms(source)
        if target_ms is None:
            yield stream
            return
        from headrace.engine.choices import summary_line
        from headrace.engine.governor import Governor

        def note(choice: Choice) -> None:
            out.object("governor", **asdict(choice))
            if out.verbosity > 0:
                out.line(f"  {choice.time_s:7.2f} s  governor: {choice.setting} ({choice.why})", style="dim")

        with Governor(stream, target_ms=target_ms, noted=note) as governor:
            lacks = "no method of this pipeline can be turned down, so frames can only be skipped; what can is for"
            lacks += " example --pipeline stc_cacher:1.0+uniform:1.0"
            some = any(method.effort for method in stream.pipeline.methods().values())  # how far, frames may tell
            if not some:
                out.note(lacks)
            yield governor
            if some and not governor.can_turn:
                out.note(lacks)
        out.object("governed", **governor.summary())
        out.line(summary_line(governor.summary()), style="dim")

    def _target_ms(self, source: VideoSource) -> float | None:
        if not self.keep_up:
            return self.target_ms
        if source.fps is None:
            raise ValueError(f"--keep-up: {source.name} does not say how many frames a second has; give --fps")
        return 1000 / source.fps
