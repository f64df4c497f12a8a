"""Reproduce, check and extend reweighted ADMM pruning of neural networks."""
