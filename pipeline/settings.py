"""Settings of torch that make a computation repeatable."""

import torch


def prepare_torch(threads: int) -> None:
    """Settings that make a training repeatable for the same seed, threads and versions, and fast."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
