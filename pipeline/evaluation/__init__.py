"""Accuracy and counts of a network."""
