"""The controller of lambda: brings nnz(Z) down to about k, and no further, without a hand-set lambda."""

import math
from dataclasses import dataclass

# A little above k, so that the k largest are chosen among survivors that the method itself has left.
HEADROOM = 1.02
# Hand-over conditions (README, section on the method).
MOST_NONZEROS = 1.05
LARGEST_PRIMAL_RESIDUAL = 0.1


@dataclass
class LambdaController:
    """Follows a falling number of nonzeros with a lambda that moves by a bounded factor an update.

    The asked number falls from all N to 1.02 k over the first `ramp` of the updates, log-wise with
    exponent 1.5 (fast where weights are plenty, slow near the end), then stays. `rate` bounds the
    relative change of lambda between two updates, so that no update is an abrupt cut.
    """

    weights: int
    k: int
    updates: int
    ramp: float
    rate: float
    lambda_: float = 0.0

    def nonzeros_asked(self, update: int) -> int:
        """The number of nonzeros asked for after so many updates (1 is the first)."""
        final = min(self.weights, math.floor(HEADROOM * self.k))
        remaining = max(0.0, 1 - update / (self.ramp * self.updates))
        return math.floor(final * (self.weights / final) ** (remaining**1.5))

    def step(self, wanted: float) -> float:
        """Move lambda towards the wanted one and return it."""
        if self.lambda_ <= 0:
            self.lambda_ = wanted
        else:
            lowest, highest = self.lambda_ / (1 + self.rate), self.lambda_ * (1 + self.rate)
            self.lambda_ = min(max(wanted, lowest), highest)
        return self.lambda_


def converged(nonzeros: int, k: int, primal_residual: float) -> bool:
    """Whether Z may be handed over to retraining: k <= nnz(Z) <= 1.05 k and primal residual < 0.1."""
    return k <= nonzeros <= MOST_NONZEROS * k and primal_residual < LARGEST_PRIMAL_RESIDUAL
