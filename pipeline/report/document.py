"""Generated texts: the report of an experiment, and the README's tables with their notes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.layout import DENSE_STAGES
from pipeline.method_params import OUR_METHOD
from pipeline.report.deployment_tables import STORAGE_NOTE, compaction_table, storage_table
from pipeline.report.ledger import Record, Result, read_ledger
from pipeline.report.render import Table, markdown, whole
from pipeline.report.statistics import FEWEST_FOR_INTERVAL, group
from pipeline.report.tables import (
    fastest_table,
    handover_table,
    layer_table,
    methods_table,
    result_table,
    seeds_table,
    short_table,
)
from pipeline.report.verdicts import CODE_STATES, read_audit, verdict_table

NO_RECORD = "No run is recorded yet.\n"
VERDICTS_NOTE = (
    "*Scale*: full is the claim's own data set; reduced is other data, or part of the claim not run. C1 and C2 compare "
    "with the better dense network: the mean difference of the seeds must reach the target. C3, C4 and C6 compare with "
    "other methods, paired by seed: the 95 % t-interval of at least 3 seeds must lie above the target (in favour) or "
    "below (against), else the comparison is open. Intervals cover the seeds alone, not the choice of test pictures. "
    "C5: every method has one value to choose, by a rule of ours, so that half of the claim cannot be reproduced here."
)
NO_AUDIT = "No verdict yet: `make audit` writes them.\n"
NOT_COMPARED = "No two methods are recorded at one ratio yet.\n"
RUNTIMES_NOTE = (
    "Median time of one picture on one thread, each in the fastest runtime. *Speed-up over dense*: of the compacted "
    "network or the sparse engine, whichever is faster. Sizes are those that the run's own code wrote."
)
NOT_TIMED = "No record has timings of several runtimes yet.\n"
SEEDS_NOTE = (
    "Mean ± sample standard deviation over all seeds, accuracy on the test set. *Dense best*: the better "
    "of the dense network and the dense network trained on for the same extra epochs. *Paired "
    f"difference*: pruned minus dense best, with its 95 % t-interval from {FEWEST_FOR_INTERVAL} seeds on."
)
METHODS_NOTE = (
    "Pruned accuracy on the test set (%): mean ± sample standard deviation over seeds, their number in brackets; "
    "*: not every seed converged, so it supports no claim; –: not run."
)
SECONDS_NOTE = (
    "*Training*: wall time of pretraining, pruning and retraining together, least to most; on a shared "
    "machine it depends on what else ran."
)
HOW_TO_READ = (
    "*Dense* is the network before pruning; *reference* is the same network trained on, without pruning, "
    "for as many epochs as pruning and retraining take. *Difference* is pruned minus the better of the "
    "two, in percentage points (pp); above zero the pruned network is better. *Compression, weights* is "
    "all prunable weights divided by the surviving ones, counted from the stored weights; the ratio over "
    "all parameters also counts what is never pruned. *Latency* is a median of timed forward passes: "
    "fewer weights do not by themselves make a network faster. At the *hand-over* the sparse copy Z "
    "becomes the network: when the nonzeros of Z are near the k asked for and the residual ||W - Z|| / "
    "||W|| is small, the method itself found the sparse network; otherwise it was cut, the run says *not "
    "converged*, and it supports no claim. Accuracies in the first tables are of the test set, which no stage "
    "but evaluate reads, after the last epoch."
)


def report(experiment: str, results: Sequence[Result]) -> str:
    """The markdown report of an experiment; equal results give an equal text."""
    sections = {
        "Results": result_table(results),
        "Seeds together": seeds_table(group(results)),
        "Hand-over from pruning to retraining": handover_table(results),
        "Survivors per layer": layer_table(results),
        "Fastest runtimes": fastest_table(results),
        "Bytes": storage_table(results),
        "Compaction": compaction_table(results),
        "Parameters": _params_table(results),
    }
    notes = {"Results": f"\n{HOW_TO_READ}\n", "Seeds together": f"\n{SEEDS_NOTE}\n", "Bytes": f"\n{STORAGE_NOTE}\n"}
    data = "".join(f"- {note}\n" for note in [*dataset_notes(results), *start_notes(results)])
    parts = [f"# Report of {experiment}\n", "Generated from the metrics of its runs; do not edit.\n"]
    for title, table in sections.items():
        if not table.rows:
            continue
        parts.append(f"## {title}\n\n{markdown(table)}{notes.get(title, '')}")
    parts.append(f"## Data\n\n{data}")
    return "\n".join(parts)


def readme_tables(root: Path) -> dict[str, str]:
    """The markdown of each generated table by its name, from the ledger and the published numbers only."""
    records = read_ledger(root)
    timed = fastest_table(records)
    return {
        "results": results_section(records),
        "methods": methods_section(records),
        "verdicts": verdicts_text(root, records),
        "runtimes": f"{markdown(timed)}\n{RUNTIMES_NOTE}\n" if timed.rows else NOT_TIMED,
    }


def verdicts_text(root: Path, records: Sequence[Record]) -> str:
    """The verdicts, and how much of what they rest on is recorded."""
    audit = read_audit(root)
    if audit is None:
        return NO_AUDIT
    complete = sum(len(record.networks) == 1 + len(DENSE_STAGES) for record in records)
    states = Counter(audit.code_since.values())
    notes = [f"Of {len(records)} records {complete} have all three networks (dense, reference, pruned) beside them."]
    notes += [f"{count} records: {CODE_STATES[state]}." for state, count in sorted(states.items())]
    return f"{markdown(verdict_table(audit.verdicts))}\n{VERDICTS_NOTE}\n\n{' '.join(notes)}\n"


def results_section(records: Sequence[Record]) -> str:
    """What the paper's method reached in short, with the notes that make its numbers mean something."""
    ours = [record for record in records if record.run.method == OUR_METHOD]
    if not ours:
        return NO_RECORD
    notes = "".join(f"- {note}\n" for note in [*dataset_notes(ours), *start_notes(ours)])
    return f"{markdown(short_table(seeds_table(group(ours))))}\n{SEEDS_NOTE}\n\n{notes}"


def methods_section(records: Sequence[Record]) -> str:
    """The methods side by side, where several were run at one ratio."""
    table = methods_table(group(records))
    return f"{markdown(table)}\n{METHODS_NOTE}\n" if table.rows else NOT_COMPARED


def _params_table(results: Sequence[Result]) -> Table:
    """A row a parameter; a method's own parameters carry its name."""
    rows: dict[str, str] = {}
    for result in results:
        params = {**result.params, "prune": {result.run.method: result.params["prune"]}}
        rows.update(_flat("", params))
    return Table(("parameter", "value"), list(rows.items()))


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {prefix: str(value)}
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat.update(_flat(f"{prefix}.{key}" if prefix else key, inner))
    return flat


def dataset_notes(results: Sequence[Result]) -> list[str]:
    """A note a data set: its digest, and how many pictures the test set has."""
    found: dict[tuple[str, str, int], set[str]] = {}
    for result in results:
        data = result.dataset
        key = data["name"], data["digest"], data["test_images"]
        found.setdefault(key, set()).add(result.run.experiment)
    return [
        f"{_joined(experiments)}: data set {name} (digest {digest[:12]}), {whole(images)} test pictures."
        for (name, digest, images), experiments in sorted(found.items())
    ]


def start_notes(results: Sequence[Result]) -> list[str]:
    """What is known of the published weights that trainings started from."""
    found: dict[str, set[str]] = {}
    for result in results:
        start = result.params["pretrain"].get("start")
        if start:
            source = f"{start['file']} (SHA-256 {start['sha256'][:12]})" if "file" in start else start["torchvision"]
            text = ": ".join(filter(None, [f"pretraining starts from {source}", start.get("note", "")]))
            found.setdefault(text, set()).add(result.run.experiment)
    return [f"{_joined(experiments)}: {text}." for text, experiments in sorted(found.items())]


def machine_notes(records: Sequence[Record]) -> list[str]:
    """A note a machine and set of versions, with every state of the code that ran on it."""
    experiments: dict[str, set[str]] = {}
    codes: dict[str, set[str]] = {}
    for record in records:
        for stage in record.provenance.values():
            experiments.setdefault(_machine(stage), set()).add(record.run.experiment)
            codes.setdefault(_machine(stage), set()).add(_code(stage))
    return [
        f"{_joined(found)}: {machine}; code {_joined(codes[machine])}."
        for machine, found in sorted(experiments.items())
    ]


def _machine(stage: Mapping[str, Any]) -> str:
    machine, versions = stage["machine"], stage["versions"]
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB, "
        f"{machine['system']}, threads: {stage['threads']}; Python {versions['python']}, "
        f"PyTorch {versions['torch']}"
    )


def _code(stage: Mapping[str, Any]) -> str:
    return (stage["commit"] or "unknown")[:12] + (" with uncommitted changes" if stage["dirty"] else "")


def _joined(experiments: set[str]) -> str:
    return ", ".join(sorted(experiments))
