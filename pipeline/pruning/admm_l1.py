"""ADMM with the plain l1 norm: reweighted ADMM with R = 1 for ever."""

from pipeline.pruning.admm import L1Admm
from pipeline.pruning.phase import ShrinkingPhase, ShrinkingSettings


class AdmmL1Phase(ShrinkingPhase):
    """Z = S(W + U, lambda / rho)."""

    def start(self, settings: ShrinkingSettings) -> L1Admm:
        return L1Admm(self.weights, settings.rho)
