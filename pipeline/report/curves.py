"""The curves of recorded runs: a file counts only if it is the one that the record's provenance names."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ArtifactError
from pipeline.files import digest_of_file
from pipeline.layout import curve_file, iterations_file, owner
from pipeline.report.ledger import Record

Columns = dict[str, list[float]]
PHASES = ("pretrain", "reference", "prune", "retrain")


@dataclass(frozen=True)
class Curves:
    """What a recorded run left, by column: a row an epoch in `phases`, a row an update in `iterations`.

    `left_out`: files that the record names and that are missing now, or that another run wrote.
    """

    record: Record
    phases: dict[str, Columns]
    iterations: Columns | None
    left_out: tuple[Path, ...]

    @property
    def complete(self) -> bool:
        """Whether no phase is left out, so that epochs can be counted through."""
        iterations = iterations_file(self.record.run)
        return "pretrain" in self.phases and not set(self.left_out) - {iterations}


def read_curves(root: Path, records: Sequence[Record]) -> list[Curves]:
    """The curves of each record.

    Raises:
        ArtifactError: a file has a cell that is not a number.
    """
    return [_of(root, record) for record in records]


def _of(root: Path, record: Record) -> Curves:
    run = record.run
    files = {stage: (stage, curve_file(owner(run, stage), stage)) for stage in PHASES}
    files["iterations"] = ("prune", iterations_file(run))
    found = {name: _recorded(root, record, stage, file) for name, (stage, file) in files.items()}
    left_out = tuple(
        file
        for name, (stage, file) in files.items()
        if found[name] is None and file.as_posix() in record.provenance[stage]["outputs"]
    )
    phases = {stage: found[stage] for stage in PHASES if found[stage] is not None}
    return Curves(record, phases, found["iterations"], left_out)


def _recorded(root: Path, record: Record, stage: str, file: Path) -> Columns | None:
    """The file's columns, or None if it is not what the recorded stage wrote."""
    outputs = record.provenance[stage]["outputs"]
    path = root / file
    if not path.is_file() or outputs.get(file.as_posix()) != digest_of_file(path):
        return None
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return {name: [float(row[name]) for row in rows] for name in (rows[0] if rows else {})}
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{file} has a cell that is not a number ({error}); restore it with git") from error
