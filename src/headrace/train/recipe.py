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
    """

    shares: dict[str, float]
    rates: dict[str, float]
    frames: int
    clips: dict[str, int]
    fresh: int
    capacity: int

    def phases(self, minutes: float | None, steps: int | None) -> list[Phase]:
        """Cut a budget into phases."""
        return [
            Phase(
                name,
                self.rates[name],
                steps=None if steps is None else max(1, round(share * steps)),
                seconds=share * (minutes or 0.0) * 60,
            )
            for name, share in self.shares.items()
        ]


NANO = Recipe(
    shares={"see": 0.28, "bind": 0.13, "follow": 0.21, "watch": 0.38},
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
