"""The sections of the page in their order; one whose data is not there says so in a line."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.layout import record_file
from pipeline.report.accuracy_plots import accuracy_plot
from pipeline.report.blocks import Drawing, Rows, Section, Words
from pipeline.report.curves import Curves
from pipeline.report.deployment_tables import (
    STORAGE_NOTE,
    compaction_table,
    proof_table,
    read_proofs,
    storage_table,
)
from pipeline.report.document import SECONDS_NOTE, SEEDS_NOTE
from pipeline.report.extras import (
    SENSITIVITY_FILES,
    read_sensitivity,
    runtime_rows,
    runtimes_plot,
    runtimes_table,
    sensitivity_plot,
    sensitivity_table,
)
from pipeline.report.footnotes import numbers_of, record_files
from pipeline.report.ledger import Record
from pipeline.report.network_plot import drawn_record, network_plot
from pipeline.report.published import Published, comparisons, published_table, with_deltas
from pipeline.report.statistics import Group
from pipeline.report.tables import handover_table, seeds_table, with_seconds
from pipeline.report.training_plots import iterations_plot, training_plot
from pipeline.report.verdicts import AUDIT_FILE, Audit, comparison_table, cost_table, protocol_table, verdict_table
from pipeline.report.weight_plots import histogram_plot, kept_table, layers_plot, settings

DRAWN_RATIO = 355.9  # where no published number says which network to draw
COMPARED_NOTE = (
    "Published numbers beside the nearest setting of ours that converged, on the data set that the works name. "
    "*Delta of compression*: ours divided by the published one, minus one. *Paired difference*: our pruned network "
    "minus our better dense network; a dash in *accuracy (published)* means that the source, as "
    "far as it was at hand, gives none."
)


def verdicts_section(audit: Audit | None, groups: Sequence[Group]) -> Section:
    title = "Verdicts on the paper's claims"
    if audit is None:
        return Section("verdicts", title, (Words(f"No verdict yet: `make audit` writes `{AUDIT_FILE}`.", absent=True),))
    notes = tuple(numbers_of(one.evidence, groups) for one in audit.verdicts)
    behind = tuple(numbers_of(files, groups) for one in audit.verdicts for files in one.rests_on)
    costs = [
        Rows(cost_table(one.costs), f"{one.id}: what each method cost ({', '.join(one.evidence)})", folded=True)
        for one in audit.verdicts
        if one.costs
    ]
    protocols = protocol_table(audit.verdicts)
    return Section("verdicts", title, (
        Rows(verdict_table(audit.verdicts), notes=notes, verdicts=audit.verdicts),
        Rows(comparison_table(audit.verdicts), "Every comparison behind the verdicts", behind, folded=True),
        *([Rows(protocols, "The protocols behind the verdicts", folded=True)] if protocols.rows else []),
        *costs,
    ))  # fmt: skip


def choices_section(audit: Audit) -> Section:
    return Section("choices", "What the paper leaves open, and what was chosen", tuple(map(Words, audit.choices)))


def tables_section(published: Sequence[Published], groups: Sequence[Group]) -> Section:
    found = comparisons(published, groups)
    compared = with_deltas(published_table(published, groups), found)
    measured = with_seconds(seeds_table(groups), groups)
    notes = tuple(numbers_of(record_files(nearest), groups) if nearest else () for _, nearest in found)
    return Section("tables", "Published and measured", (
        Words(COMPARED_NOTE),
        Rows(compared, "Published beside ours", notes),
        Rows(measured, "All measured settings", tuple((number,) for number in range(1, len(groups) + 1))),
        Words(f"{SEEDS_NOTE} {SECONDS_NOTE}"),
    ))  # fmt: skip


def accuracy_section(groups: Sequence[Group]) -> Section:
    return Section("accuracy", "Accuracy against compression", (Drawing(accuracy_plot(groups)),))


def layers_section(groups: Sequence[Group]) -> Section:
    tables = []
    for (experiment, method), members in settings(groups).items():
        notes = ", ".join(str(groups.index(item) + 1) for item in members)
        caption = f"Weights kept of each layer: {experiment}, {method} (columns: {_plural(members)} {notes})"
        tables.append(Rows(kept_table(members), caption, folded=True))
    return Section("layers", "What is kept of each layer", (Drawing(layers_plot(groups)), *tables))


def residuals_section(records: Sequence[Record], groups: Sequence[Group], curves: Sequence[Curves]) -> Section:
    caption, notes = "At the hand-over from pruning to retraining", _notes_of(records, groups)
    handover = Rows(handover_table(records), caption, notes, folded=True)
    if not any(curve.iterations for curve in curves):
        return Section("residuals", "Residuals and nonzeros", (_no_curves(curves), handover))
    return Section("residuals", "Residuals and nonzeros", (Drawing(iterations_plot(curves)), handover))


def training_section(curves: Sequence[Curves]) -> Section:
    blocks = [Drawing(training_plot(curves))] if any(curve.complete for curve in curves) else []
    if any(curve.left_out for curve in curves):
        blocks.append(_no_curves(curves))
    return Section("training", "Training curves", tuple(blocks))


def histograms_section(root: Path, groups: Sequence[Group]) -> Section:
    plot = histogram_plot(root, groups)
    block = Drawing(plot) if plot.panels else Words("No record has its network or a histogram beside it.", absent=True)
    return Section("histograms", "Weights before and after", (block,))


def network_section(root: Path, records: Sequence[Record], published: Sequence[Published]) -> Section:
    ratio = next((entry.compression for entry in published if entry.claim == "C1"), DRAWN_RATIO)
    record = drawn_record(records, ratio)
    title = "What is left of LeNet-5"
    if record is None:
        return Section("network", title, (Words("No converged LeNet-5 is recorded with its network.", absent=True),))
    return Section("network", title, (Drawing(network_plot(root, record)),))


def sensitivity_section(root: Path) -> Section:
    title = "Sensitivity to the parameters"
    study = read_sensitivity(root)
    if study is None or not study[1]:
        absent = Words(f"Left out: no study is recorded in `{SENSITIVITY_FILES}`.", absent=True)
        return Section("sensitivity", title, (absent,))
    experiment, rows, making = study
    table = Rows(sensitivity_table(rows), "The same numbers", folded=True)
    return Section("sensitivity", title, (Drawing(sensitivity_plot(experiment, rows)), table, Words(making)))


def runtimes_section(root: Path, records: Sequence[Record], groups: Sequence[Group]) -> Section:
    title = "Accuracy against latency and bytes"
    if not runtime_rows(records):
        absent = Words("Left out: no record has timings of several runtimes (`benchmark.runtimes`).", absent=True)
        return Section("runtimes", title, (absent,))
    notes = _notes_of([record for record, _ in runtime_rows(records)], groups)
    tables = [Rows(runtimes_table(records), "The same numbers", notes, folded=True)]
    for caption, table in (
        ("Bytes of the files", storage_table(records)),
        ("What compaction removes", compaction_table(records)),
        ("Differences from the recorded network on the whole test set", proof_table(records, read_proofs(root))),
    ):
        named = {row[0] for row in table.rows}
        of_rows = _notes_of([one for one in records if one.run.name in named], groups)
        tables.append(Rows(table, caption, of_rows, folded=True))
    return Section("runtimes", title, (Drawing(runtimes_plot(records)), *tables, Words(STORAGE_NOTE)))


def _notes_of(records: Sequence[Record], groups: Sequence[Group]) -> tuple[tuple[int, ...], ...]:
    """The footnote of each record."""
    return tuple(numbers_of([record_file(record.run).as_posix()], groups) for record in records)


def _plural(members: Sequence[Group]) -> str:
    return "note" if len(members) == 1 else "notes"


def _no_curves(curves: Sequence[Curves]) -> Words:
    """Which curve files are missing, or are of another run than the recorded one."""
    files = sorted({file.as_posix() for curve in curves for file in curve.left_out})
    shown = ", ".join(f"`{file}`" for file in files[:6]) + (f" and {len(files) - 6} more" if len(files) > 6 else "")
    return Words(f"Left out, since not there or not as the recorded run wrote them: {shown}.", absent=True)
