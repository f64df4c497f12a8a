"""Reweighted ADMM: the threshold of each weight follows its importance (the reproduced paper)."""

from pipeline.pruning.admm import ReweightedAdmm
from pipeline.pruning.phase import ShrinkingPhase, ShrinkingSettings


class Settings(ShrinkingSettings):
    """eps, and whether it is relative to a layer's RMS."""

    eps: float
    relative: bool


class ReweightedAdmmPhase(ShrinkingPhase):
    """Z = S(W + U, lambda R / rho), R = 1 / (|Z| + eps)."""

    def start(self, settings: Settings) -> ReweightedAdmm:
        return ReweightedAdmm(self.weights, settings.rho, settings.eps, settings.relative)
