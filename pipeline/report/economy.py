"""What a method costs a person: values to choose, and time until a trial is good (claim C5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Economy:
    """A method's trials in the order in which they ran.

    values_chosen: how many values its trials vary; seconds: wall time up to and with the first good
    trial (None: none was good); best: highest validation accuracy (fraction).
    """

    values_chosen: int
    trials: int
    seconds: float | None
    seconds_all: float
    best: float

    def faster_than(self, other: "Economy") -> bool:
        """Whether this one came to a good result in less time; never is later than any time."""
        return self.seconds is not None and (other.seconds is None or self.seconds < other.seconds)

    @property
    def described(self) -> dict[str, Any]:
        return vars(self)


def economy(rows: Sequence[Mapping[str, Any]], within: float) -> dict[str, Economy]:
    """Each method's economy; a trial is good if it converged and is at most `within` below the best of all."""
    usable = [row["validation_accuracy"] for row in rows if row["converged"] is not False]
    methods = dict.fromkeys(row["trial"]["method"] for row in rows)
    return {method: _of([r for r in rows if r["trial"]["method"] == method], max(usable, default=1.0) - within)
            for method in methods}  # fmt: skip


def _of(rows: Sequence[Mapping[str, Any]], good: float) -> Economy:
    spent, first = 0.0, None
    for row in rows:
        spent += row["seconds"]
        if first is None and row["converged"] is not False and row["validation_accuracy"] >= good:
            first = spent
    return Economy(
        values_chosen=len({key for row in rows for key in row["trial"]["values"]}),
        trials=len(rows),
        seconds=first,
        seconds_all=spent,
        best=max(row["validation_accuracy"] for row in rows),
    )
