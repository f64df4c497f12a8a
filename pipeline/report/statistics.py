"""Several seeds of one setting as one summary: means, spreads and the paired difference."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from pipeline.report.ledger import Result

CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 3


@dataclass(frozen=True)
class Spread:
    """Mean of `n` values; `std` of the sample is None for one value.

    `margin`: half the width of the 95 % t-interval of the mean, None for fewer than 3 values.
    """

    n: int
    mean: float
    std: float | None
    margin: float | None


@dataclass(frozen=True)
class Group:
    """The seeds of one experiment, method, asked ratio, data set and parameters; failures included."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def converged(self) -> int:
        """How many seeds converged, of a method that can."""
        return sum(result.converged is True for result in self.results)

    @property
    def supports_claims(self) -> bool:
        """Whether every seed does."""
        return all(result.supports_claims for result in self.results)

    @property
    def dense_best(self) -> Spread:
        return spread([result.metrics["evaluate"]["dense_best_accuracy"] for result in self.results])

    @property
    def pruned(self) -> Spread:
        return spread([result.metrics["evaluate"]["pruned_accuracy"] for result in self.results])

    @property
    def difference(self) -> Spread:
        """Pruned minus dense, paired by seed."""
        return spread([result.difference for result in self.results])

    def counts(self, key: str) -> list[float]:
        """A number of `benchmark.counts`, a seed each."""
        return [result.metrics["benchmark"]["counts"][key] for result in self.results]


def spread(values: Sequence[float]) -> Spread:
    """Mean, sample standard deviation and 95 % t-interval of at least one value."""
    n = len(values)
    std = statistics.stdev(values) if n > 1 else None
    margin = None
    if std is not None and n >= FEWEST_FOR_INTERVAL:
        margin = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
    return Spread(n, statistics.fmean(values), std, margin)


def group(results: Sequence[Result]) -> list[Group]:
    """Put together the runs that differ only in their seed, in the order of their first one."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(_key(result), []).append(result)
    return [Group(tuple(members)) for members in groups.values()]


def _key(result: Result) -> tuple[str, ...]:
    run = result.run
    params = json.dumps(result.params, sort_keys=True)
    return run.experiment, run.method, str(run.ratio), result.dataset["digest"], params
