"""Where each row of a table comes from: a numbered footnote a setting."""

from collections.abc import Mapping, Sequence

from pipeline.layout import record_file
from pipeline.report.document import dataset_notes, machine_notes, start_notes
from pipeline.report.statistics import Group
from pipeline.report.verdicts import CODE_STATES


def footnote(item: Group, code_since: Mapping[str, str]) -> str:
    """Seeds, data set, start, machines, versions and code of a setting, and what became of the code since."""
    run, records = item.first.run, item.results
    seeds = ", ".join(str(record.run.seed) for record in records)
    name = f"{run.experiment}, {run.method}, {run.ratio:g}x, {'seed' if len(records) == 1 else 'seeds'} {seeds}."
    notes = [*dataset_notes(records), *start_notes(records), *machine_notes(records)]
    states = dict.fromkeys(code_since[file] for file in record_files(item) if file in code_since)
    marks = [f"Not by the present code: {CODE_STATES[state]}." for state in states]
    return " ".join([name, *(_sentence(note, run.experiment) for note in notes), *marks])


def record_files(item: Group) -> list[str]:
    """The records of a setting, below the top folder."""
    return [record_file(record.run).as_posix() for record in item.results]


def numbers_of(files: Sequence[str], groups: Sequence[Group]) -> tuple[int, ...]:
    """The footnotes, from 1 on, of the settings that have one of the records."""
    return tuple(number for number, item in enumerate(groups, 1) if set(files) & set(record_files(item)))


def _sentence(note: str, experiment: str) -> str:
    """A note without the experiment before it, which the footnote names already."""
    text = note.removeprefix(f"{experiment}: ")
    return text[0].upper() + text[1:]
