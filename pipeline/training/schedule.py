"""The learning rate over a phase."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up to `peak`, then constant, then a cosine down to `final` times `peak`.

    `warmup` and `hold` are the parts of the phase after which warm-up and the constant part end.
    """

    peak: float
    warmup: float
    hold: float
    final: float

    def at(self, progress: float) -> float:
        """Learning rate at a progress in [0, 1)."""
        if progress < self.warmup:
            return self.peak * progress / self.warmup
        if progress < self.hold:
            return self.peak
        falling = (progress - self.hold) / (1 - self.hold)
        return self.peak * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * falling)))
