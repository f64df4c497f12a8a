"""Timing in interleaved rounds, so that ratios hold on a noisy machine."""

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def interleaved(calls: Mapping[Name, Callable[[], object]], warmup: int, rounds: int) -> dict[Name, dict[str, float]]:
    """Median and quartiles of each call in milliseconds.

    Each round runs every call in turn, twice, and times the second: the first one finds what others left
    in the caches. `warmup` rounds before them do not count.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(warmup + rounds):
        for name, call in calls.items():
            call()
            start = time.perf_counter_ns()
            call()
            if turn >= warmup:
                times[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: quartiles(values) for name, values in times.items()}


def quartiles(values: list[float]) -> dict[str, float]:
    """`median_ms`, `q1_ms` and `q3_ms` of times in milliseconds."""
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return {"median_ms": round(median, 5), "q1_ms": round(q1, 5), "q3_ms": round(q3, 5)}
