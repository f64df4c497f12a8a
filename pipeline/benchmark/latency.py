"""Latency of networks, timed in interleaved rounds so that ratios hold on a noisy machine."""

import statistics
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn


@torch.inference_mode()
def latency(networks: Mapping[str, nn.Module], images: Tensor, warmup: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median and quartiles, in milliseconds for the whole batch, of each network's forward pass.

    Each round times every network once, in turn, after `warmup` rounds that do not count.
    """
    times: dict[str, list[float]] = {name: [] for name in networks}
    for network in networks.values():
        network.eval()
    for turn in range(warmup + rounds):
        for name, network in networks.items():
            start = time.perf_counter_ns()
            network(images)
            if turn >= warmup:
                times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: quartiles(values) for name, values in times.items()}


def quartiles(values: list[float]) -> dict[str, float]:
    """`median_ms`, `q1_ms` and `q3_ms` of times in milliseconds."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median_ms": round(median, 5), "q1_ms": round(q1, 5), "q3_ms": round(q3, 5)}
