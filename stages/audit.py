"""Judge the paper's claims by the ledger, and check every record against the network beside it.

    python -m stages.audit [--no-data]

Writes results/audit.json. Exits with 1 if a record is wrong or could not be verified, or if the
verdicts differ from those that were there. `--no-data`: verdicts only, no network is evaluated.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from pipeline import entry
from pipeline.errors import ArtifactError
from pipeline.files import digest_of_file, read_json, write_json
from pipeline.layout import record_file
from pipeline.provenance import changed_since
from pipeline.report.claims import CLAIMS_FILE, Claims, read_claims
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
    parser.add_argument("--no-data", action="store_true", help="verdicts only: no network is evaluated")
    options = parser.parse_args(arguments)
    root = entry.root()
    claims, records = read_claims(root, read_published(root)), read_ledger(root)
    before = read_json(root / AUDIT_FILE) if (root / AUDIT_FILE).is_file() else {}
    audit = audit_of(root, claims, records, before.get("code_since"))
    problems = differences(before, audit) if before else []
    write_json(root / AUDIT_FILE, audit)
    for entry_ in audit["claims"]:
        scale = f" ({entry_['scale']} scale)" if entry_["scale"] else ""
        print(f"{entry_['id']}  {entry_['verdict']}{scale}: {entry_['why']}")
    if not options.no_data:
        checked = verify(root, records)
        problems += [each.sentence for each in checked if each.failed]
        large = sum(each.not_committed for each in checked)
        note = f"; {large} more have networks too large to be committed" if large else ""
        dense = sum(each.verified and each.dense_verified for each in checked)
        verified = sum(each.verified for each in checked)
        print(f"{verified} of {len(checked)} records verified, {dense} with their dense networks{note}")
    for state, runs in by_state(audit["code_since"]).items():
        print(f"{METHOD_CODE} {CODE_STATES[state]} {len(runs)} records: {', '.join(runs)}")
    if problems:
        raise ArtifactError("\n  ".join(["the audit found:", *problems]))


def audit_of(root: Path, claims: Claims, records: list[Record], known: dict[str, str] | None) -> dict[str, Any]:
    """Everything that the verdicts rest on, by digest, and the verdicts; `known`: as for `code_since`."""
    places = sorted(file.relative_to(root) for file in root.glob("results/*-*.json"))
    studies = {place.stem: read_json(root / place)["trials"] for place in places}
    files = [CLAIMS_FILE, PUBLISHED_FILE, *places]
    return {
        "claims": [judge(claim, records, studies) for claim in claims.claims],
        "choices": claims.choices,
        "rests_on": {file.as_posix(): digest_of_file(root / file) for file in files},
        "code_since": code_since(root, records, known),
    }


def differences(before: dict[str, Any], audit: dict[str, Any]) -> list[str]:
    """What the committed audit says otherwise."""
    old = {each["id"]: each for each in before.get("claims", [])}
    changed = [each["id"] for each in audit["claims"] if old.get(each["id"]) != each]
    changed += [name for name, digest in audit["rests_on"].items() if before.get("rests_on", {}).get(name) != digest]
    changed += sorted(set(old) - {each["id"] for each in audit["claims"]})
    advice = "it was written anew; commit it if records or claims were meant to change"
    return [f"{AUDIT_FILE} said otherwise of {', '.join(changed)}; {advice}"] if changed else []


def verify(root: Path, records: list[Record]) -> list[Checked]:
    """Check each record, with a line of progress each."""
    prepare_torch(THREADS)
    pictures, found = RecordedTests(root), []
    for number, record in enumerate(records, start=1):
        found.append(check(root, record, pictures))
        print(f"[{number}/{len(records)}] {found[-1].sentence}", flush=True)
    return found


def code_since(root: Path, records: list[Record], known: dict[str, str] | None) -> dict[str, str]:
    """What became of the method's code since each record was pruned, of those where it is not the same.

    Where the commit is not in this clone, perhaps a copy without git, what the audit before said (`known`) stays.
    """
    made = {record_file(record.run).as_posix(): record.provenance["prune"] for record in records}
    states = {commit: changed_since(root, commit, METHOD_CODE) for commit in {one["commit"] for one in made.values()}}
    found = {file: "uncommitted" if one["dirty"] else states[one["commit"]] for file, one in made.items()}
    if known is not None:
        found |= {file: known.get(file, "unchanged") for file, state in found.items() if state == "unknown"}
    return {file: state for file, state in found.items() if state != "unchanged"}


def by_state(states: dict[str, str]) -> dict[str, list[str]]:
    """The names of the records of each state."""
    return {state: [file for file, own in states.items() if own == state] for state in sorted(set(states.values()))}


if __name__ == "__main__":
    entry.run(main)
