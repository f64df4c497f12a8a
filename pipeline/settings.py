"""Settings of torch that make a computation repeatable."""

import torch


def prepare_torch(threads: int) -> None:
    """Settings that make a training repeatable for the same seed, threads and versions, and fast."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    # Filling every fresh tensor finds reads of unwritten memory, and costs up to a fifth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False
