"""What a method costs a person: values to choose, and time until a trial is good (claim C5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import read_json
from pipeline.method_params import chosen_values


def read_trials(file: Path) -> list[dict[str, Any]]:
    """The trials that a study has so far.

    Raises:
        ArtifactError: the file is not a study's.
    """
    content = read_json(file) if file.is_file() else {"trials": []}
    trials = content.get("trials") if isinstance(content, dict) else None
    if not isinstance(trials, list):
        raise ArtifactError(f"{file} is no study: it has no list of trials; move it elsewhere")
    return trials


@dataclass(frozen=True)
class Economy:
    """A method's trials in the order in which they ran.

    values_chosen: how many values a person must choose for it; seconds: wall time up to and with the first good
    trial (None: none was good); seconds_all: of all trials; best: highest validation accuracy (fraction) of those
    that converged, or could not fail to (None: there is none).
    """

    values_chosen: int
    trials: int
    seconds: float | None
    seconds_all: float
    best: float | None

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
    good = max(usable, default=1.0) - within
    return {method: _of(method, [row for row in rows if row["trial"]["method"] == method], good) for method in methods}


def _of(method: str, rows: Sequence[Mapping[str, Any]], good: float) -> Economy:
    spent, first = 0.0, None
    for row in rows:
        spent += row["seconds"]
        if first is None and row["converged"] is not False and row["validation_accuracy"] >= good:
            first = spent
    return Economy(
        values_chosen=len(chosen_values(method)),
        trials=len(rows),
        seconds=first,
        seconds_all=spent,
        best=max((row["validation_accuracy"] for row in rows if row["converged"] is not False), default=None),
    )
