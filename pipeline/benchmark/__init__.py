"""Timing and storage of networks."""
