"""ADMM with an l0 constraint: so many survivors in each layer (Zhang et al., ECCV 2018)."""

from pipeline.pruning.admm import L0Admm
from pipeline.pruning.masks import count_nonzeros, largest
from pipeline.pruning.phase import AdmmPhase, AdmmSettings


class AdmmL0Phase(AdmmPhase):
    """Z = projection of W + U on the k_l largest of each layer.

    The k_l are those of another run, where its `layers` are given, else those of the k largest |W| of
    the dense network, all layers together.
    """

    def start(self, settings: AdmmSettings) -> L0Admm:
        layers = self.layers or {
            name: count_nonzeros({name: mask}) for name, mask in largest(self.weights, self.k).items()
        }
        return L0Admm(self.weights, settings.rho, layers)

    def update(self, number: int) -> dict[str, float]:
        self.admm.update_()
        return {}
