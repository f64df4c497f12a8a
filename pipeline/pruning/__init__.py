"""The methods, behind one explicit table; what all share is in `masks`. Pure tensor maths."""

from pipeline.pruning.reweighted_admm import ReweightedAdmmPhase

METHODS = {"reweighted-admm": ReweightedAdmmPhase}
