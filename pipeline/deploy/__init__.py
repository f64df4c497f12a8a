"""Pruned networks made ready to run: smaller, exported, and compiled."""
