"""The methods, behind one explicit table; what all share is in `phase` and `masks`. Pure tensor maths."""

from pipeline.pruning.admm_l0 import AdmmL0Phase
from pipeline.pruning.admm_l1 import AdmmL1Phase
from pipeline.pruning.gmp import GmpPhase
from pipeline.pruning.magnitude import MagnitudePhase
from pipeline.pruning.reweighted_admm import ReweightedAdmmPhase

METHODS = {
    "reweighted-admm": ReweightedAdmmPhase,
    "admm-l1": AdmmL1Phase,
    "admm-l0": AdmmL0Phase,  # survivors of each layer by magnitude
    "admm-l0-copied": AdmmL0Phase,  # survivors of each layer copied from the reweighted run
    "gmp": GmpPhase,
    "magnitude": MagnitudePhase,
}
