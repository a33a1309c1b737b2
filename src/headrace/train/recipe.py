"""The recipe of nano: which phase, how long, how fast."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.train.loop import Phase


@dataclass(frozen=True, slots=True)
class Recipe:
    """Sizes of a run.

    Attributes:
        shares: Share of the time, or of the steps, that each phase takes; they sum to 1.
        rates: Highest learning rate of each phase.
        frames: Pictures per step of phase 1.
        clips: Clips per step of each later phase (for ``watch``: of 8 dense frames).
        fresh: New scenes per step of each later phase.
        capacity: Scenes held in the pool.
        drop: Who drops tokens, one of ``drop.MIXES``.
    """

    shares: dict[str, float]
    rates: dict[str, float]
    frames: int
    clips: dict[str, int]
    fresh: int
    capacity: int
    drop: str = "mixed"

    def phases(self, minutes: float | None, steps: int | None, *, first: str = "see") -> list[Phase]:
        """Cut a budget into phases, from the phase ``first`` on; what comes before it takes no share.

        Whoever begins with the last phase has been taught before: there it is as it is at its end.
        """
        names = list(self.shares)[list(self.shares).index(first) :]
        whole = sum(self.shares[name] for name in names)
        ripe = len(names) == 1
        return [self.phase(name, self.shares[name] / whole, minutes, steps, ripe=ripe) for name in names]

    def phase(
        self,
        name: str,
        share: float,
        minutes: float | None,
        steps: int | None,
        *,
        number: int = 1,
        ripe: bool = False,
    ) -> Phase:
        """Return a phase that takes a share of a budget; ``number`` tells a phase from its earlier rounds."""
        ripe = ripe or number > 1
        return Phase(
            name if number == 1 else f"{name} {number}",
            self.rates[name] * (AGAIN if ripe else 1),
            steps=None if steps is None else max(1, round(share * steps)),
            seconds=share * (minutes or 0.0) * 60,
            ripe=ripe,
        )


AGAIN = 0.6  # of the rate, for a phase whose lessons are not new
NANO = Recipe(
    shares={"see": 0.14, "bind": 0.08, "follow": 0.13, "watch": 0.65},
    rates={"see": 1.5e-3, "bind": 1e-3, "follow": 8e-4, "watch": 8e-4},
    frames=32,
    clips={"bind": 40, "follow": 20, "watch": 12},
    fresh=1,
    capacity=256,
)
SMOKE = Recipe(
    shares=NANO.shares,
    rates=NANO.rates,
    frames=4,
    clips={"bind": 2, "follow": 2, "watch": 1},
    fresh=0,
    capacity=8,
)
