"""One abrupt cut of the dense network by magnitude (Han et al. 2015): every epoch goes to retraining."""

from pipeline.pruning.phase import PruningPhase


class MagnitudePhase(PruningPhase):
    """The k largest |W| of the dense network, all layers together."""
