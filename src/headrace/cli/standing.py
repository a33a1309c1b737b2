"""``--watch``: standing instructions on the command line, and how the demo marks what is said to them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from headrace.cli.output import Output, seconds

if TYPE_CHECKING:
    from headrace.engine import Stream
    from headrace.types import Event, Report
    from headrace.video.world import Watch
    from headrace.video.world.marking import Tally


@dataclass(frozen=True)
class Instructions:
    """What was asked for.

    Attributes:
        texts: The instructions.
        max_tokens: Longest reply.
    """

    texts: tuple[str, ...] = ()
    max_tokens: int = 128

    def pipeline(self, text: str) -> str:
        """A pipeline's text, with a speaker that takes instructions where there are some and it names none.

        Raises:
            ValueError: The text is no pipeline.
        """
        from headrace import registry

        named = registry.parse(registry.apart(text)[0])
        return f"{text}+eos_threshold" if self.texts and "speaker" not in named else text

    def give(self, stream: Stream) -> None:
        """Give them to a stream; a resumed one may hold some already.

        Raises:
            ValueError: One cannot be watched.
        """
        for text in dict.fromkeys(self.texts):
            if text not in stream.watching.values():
                stream.watch(text, max_tokens=self.max_tokens)


class Judge:
    """Marks what a stream says to one standing instruction whose events are known.

    Args:
        out: Where to write.
        watch: The instruction and its events, or None for nothing to mark.
    """

    def __init__(self, out: Output, watch: Watch | None) -> None:
        from headrace.video.world.marking import Marker

        self._out = out
        self._watch = watch
        self._marker = Marker(watch.events_s if watch else ())
        self._num_missed = 0
        self._last_s = -1.0

    @property
    def instructions(self) -> Instructions:
        """What to give the stream."""
        return Instructions((self._watch.text,) if self._watch else (), max_tokens=8)

    def heard(self, event: Event) -> None:
        """Mark something it said."""
        right = self._marker.said(event.time_s)
        self._out.event(event, right=right, note=self._figure())

    def passed(self, report: Report) -> None:
        """Name events that it can no longer speak up about in time."""
        self._last_s = report.time_s
        for time_s in self._marker.overdue(report.time_s):
            self._num_missed += 1
            self._out.object("missed", time_s=time_s, instruction=self._watch.text if self._watch else "")
            self._out.line(
                f"  {report.time_s:7.2f} s  ! (silence)   (it came true at {seconds(time_s)}) ✗", style="red"
            )

    def _figure(self) -> str:
        hits, alarms = self._marker.hits, self._marker.alarms
        return f"{hits} of {hits + self._num_missed} in time, {alarms} without reason"

    def tally(self) -> Tally:
        """What it came to, over the events the stream has lived to see."""
        from headrace.video.world.marking import Tally

        still = sum(time_s <= self._last_s for time_s in self._marker.open_s)
        return Tally(self._marker.hits, self._marker.alarms, self._num_missed + still)

    def summary(self) -> dict[str, Any]:
        """The result for a program, empty where nothing was marked."""
        return {"spoke": asdict(self.tally())} if self._watch else {}

    def line(self) -> str:
        """The result for people, empty where nothing was marked."""
        found = self.tally()
        return (
            f"It spoke up at {found.hits} of {found.hits + found.missed} events within one frame, and {found.alarms}"
            " times without reason."
            if self._watch
            else ""
        )
