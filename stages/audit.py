"""Judge the paper's claims by the ledger, and check every record against the network beside it.

    python -m stages.audit [--no-data]

Writes results/audit.json. Exits with 1 if a record is wrong or could not be verified, or if the
verdicts differ from those that were there. `--no-data`: verdicts only, no network is evaluated.
"""

from argparse import ArgumentParser
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline import entry
from pipeline.config import Config
from pipeline.errors import ArtifactError
from pipeline.files import digest_of_file, read_json, write_json
from pipeline.layout import record_file
from pipeline.provenance import UNKNOWN, changed_since
from pipeline.report.claims import CLAIMS_FILE, Claims, read_claims
from pipeline.report.economy import read_trials
from pipeline.report.judging import judge
from pipeline.report.ledger import Record, read_ledger
from pipeline.report.published import PUBLISHED_FILE, read_published
from pipeline.report.verdicts import AUDIT_FILE, CODE_STATES
from pipeline.settings import prepare_torch
from pipeline.verification import Checked, RecordedTests, check

METHOD_CODE = "pipeline/pruning"
THREADS = 2


def main(arguments: list[str]) -> None:
    parser = ArgumentParser(prog="python -m stages.audit")
    parser.add_argument("--no-data", action="store_true")
    options = parser.parse_args(arguments)
    root = entry.root()
    claims, records = read_claims(root, read_published(root)), read_ledger(root)
    before = read_json(root / AUDIT_FILE) if (root / AUDIT_FILE).is_file() else {}
    audit = audit_of(root, claims, records, before)
    problems = differences(before, audit) if before else []
    write_json(root / AUDIT_FILE, audit)
    for entry_ in audit["claims"]:
        scale = f" ({entry_['scale']} scale)" if entry_["scale"] else ""
        print(f"{entry_['id']}  {entry_['verdict']}{scale}: {entry_['why']}")
    if not options.no_data:
        checked = verify(root, records, claims.without_dense)
        problems += [each.sentence for each in checked if each.failed]
        large = sum(each.not_committed for each in checked)
        note = f"; {large} more have networks too large to be committed" if large else ""
        dense = sum(each.verified and each.dense_verified for each in checked)
        verified = sum(each.verified for each in checked)
        print(f"{verified} of {len(checked)} records verified, {dense} with their dense networks{note}")
    for state, runs in by_state(audit["code_since"]).items():
        print(f"{len(runs)} records: {CODE_STATES[state]}: {', '.join(runs)}")
    if missing := not_recorded(root, records):
        print(f"listed, not recorded: {', '.join(missing)}")
    if problems:
        raise ArtifactError("\n  ".join(["the audit found:", *problems]))


def audit_of(root: Path, claims: Claims, records: list[Record], before: dict[str, Any]) -> dict[str, Any]:
    """Everything that the verdicts rest on, by digest, and the verdicts; `before`: the audit that was there."""
    places = sorted(file.relative_to(root) for file in root.glob("results/*-*.json"))
    studies = {place.stem: read_trials(root / place) for place in places}
    files = [CLAIMS_FILE, PUBLISHED_FILE, *places]
    states = commit_states(root, records, before.get("commits", {}))
    return {
        "claims": [judge(claim, records, studies) for claim in claims.claims],
        "choices": claims.choices,
        "rests_on": {file.as_posix(): digest_of_file(root / file) for file in files},
        "commits": states,
        "code_since": code_since(records, states),
    }


def differences(before: dict[str, Any], audit: dict[str, Any]) -> list[str]:
    """What the committed audit says otherwise."""
    old = {each["id"]: each for each in before.get("claims", [])}
    changed = [each["id"] for each in audit["claims"] if old.get(each["id"]) != each]
    changed += [name for name, digest in audit["rests_on"].items() if before.get("rests_on", {}).get(name) != digest]
    changed += sorted(set(old) - {each["id"] for each in audit["claims"]})
    advice = "it was written anew; commit it if records or claims were meant to change"
    return [f"{AUDIT_FILE} said otherwise of {', '.join(changed)}; {advice}"] if changed else []


def verify(root: Path, records: list[Record], without_dense: Collection[str]) -> list[Checked]:
    """Check each record, with a line of progress each; `without_dense`: as for `check`.

    Each thread evaluates networks of its own: small layers gain little from being shared out.
    """
    pictures, found = RecordedTests(root), []
    with ThreadPoolExecutor(THREADS, initializer=prepare_torch, initargs=(1,)) as pool:
        checks = pool.map(lambda record: check(root, record, pictures, without_dense), records)
        for number, checked in enumerate(checks, start=1):
            found.append(checked)
            print(f"[{number}/{len(records)}] {checked.sentence}", flush=True)
    return found


def commit_states(root: Path, records: list[Record], known: dict[str, str]) -> dict[str, str]:
    """What became of the method's code since each commit that records were pruned at.

    Of a commit that is not in this clone, perhaps a copy without git, what the audit before said (`known`) stays.
    """
    commits = sorted({record.provenance["prune"]["commit"] for record in records})
    states = {commit: changed_since(root, commit, METHOD_CODE) for commit in commits}
    return {commit: known.get(commit, state) if state == UNKNOWN else state for commit, state in states.items()}


def code_since(records: list[Record], states: dict[str, str]) -> dict[str, str]:
    """The records that were not made by the method's present code, all of it committed, and why not."""
    found = {}
    for record in records:
        dirty = any(made["dirty"] for made in record.provenance.values())
        state = "uncommitted" if dirty else states[record.provenance["prune"]["commit"]]
        found[record_file(record.run).as_posix()] = state
    return {file: state for file, state in found.items() if state != "unchanged"}


def not_recorded(root: Path, records: list[Record]) -> list[str]:
    """The runs without a record in lists of which others are recorded: what was not shown."""
    recorded = {record.run.name for record in records}
    lists = Config(root).listed_runs.values()
    return [name for listed in lists if recorded & set(listed) for name in listed if name not in recorded]


def by_state(states: dict[str, str]) -> dict[str, list[str]]:
    """The names of the records of each state."""
    return {state: [file for file, own in states.items() if own == state] for state in sorted(set(states.values()))}


if __name__ == "__main__":
    entry.run(main)
