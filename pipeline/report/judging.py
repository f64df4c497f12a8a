"""Verdicts: the comparisons that a claim's rule makes, put together. Nothing here is typed by hand."""

from collections.abc import Sequence
from typing import Any

from pipeline.report.claims import Claim
from pipeline.report.ledger import Record
from pipeline.report.rules import INCONCLUSIVE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, RULES, Finding, Studies

IN_WORDS = {REPRODUCED: "in favour", NOT_REPRODUCED: "against", INCONCLUSIVE: "open"}


def judge(claim: Claim, records: Sequence[Record], studies: Studies) -> dict[str, Any]:
    """The audit's entry for a claim: verdict, figures, protocol, and the records that are its evidence."""
    rule = RULES[claim.rule]
    findings = [found for answer in claim.answers for found in rule(claim, answer, records, studies)]
    beside = [found for answer in claim.also for found in rule(claim, answer, records, studies)]
    made = [found for found in findings if found.verdict != NOT_RUN]
    full = {found.answer.experiment for found in made if found.answer.scale == "full"}
    missing_full = [found for found in findings if found.answer.scale == "full" and found.verdict == NOT_RUN]
    reduced = any(found.answer.scale == "reduced" for found in made) or bool(missing_full) or not full
    verdict, why = together(made, claim)
    records_used = [record for found in made for record in found.records if record.supports_claims]
    return {
        "id": claim.id,
        "claim": claim.claim,
        "metric": claim.metric,
        "verdict": verdict,
        "scale": None if not made else "reduced" if reduced else "full",
        "target": claim.target.model_dump(exclude_none=True),
        "measured": [found.described for found in findings],
        "beside": [found.described for found in beside if found.verdict != NOT_RUN],
        "n_seeds": max((found.figures.get("n_seeds", 0) for found in made), default=0),
        "protocol": sorted({protocol(record) for record in records_used}),
        "evidence": list(dict.fromkeys(file for found in made for file in found.files)),
        "why": why,
    }


def together(findings: Sequence[Finding], claim: Claim) -> tuple[str, str]:
    """One verdict of several comparisons, and what decided it; the others are counted.

    Comparisons of too few seeds decide nothing, and are named only where there is no other. A claim against several
    methods is reproduced only if something was decided against each of them; one that names several networks
    (`every`) only if that is so for each network.
    """
    if not findings:
        return NOT_RUN, "no record answers it"
    decided = [found for found in findings if found.figures.get("n_seeds", 0) >= claim.seeds]
    undecided = [found for found in findings if found not in decided]
    of = {kind: [found for found in decided if found.verdict == kind] for kind in IN_WORDS}
    gaps = _gaps(decided, claim)
    if of[NOT_REPRODUCED]:
        verdict = NOT_REPRODUCED
    elif of[INCONCLUSIVE] or gaps or not decided:
        verdict = INCONCLUSIVE
    else:
        verdict = REPRODUCED
    named = [_place(found) for found in of[verdict]] + (gaps if verdict == INCONCLUSIVE else [])
    others = [f"{len(of[kind])} {words}" for kind, words in IN_WORDS.items() if kind != verdict and of[kind]]
    if decided and undecided:
        others.append(f"{len(undecided)} undecided (too few comparable seeds that converged)")
    elif undecided:
        named += [f"undecided: {_place(found)}" for found in undecided]
    return verdict, "; ".join(named + ([f"besides: {', '.join(others)}"] if others else []))


def _gaps(decided: Sequence[Finding], claim: Claim) -> list[str]:
    """Against what a claim of superiority has nothing decided: a method, or one of them on one of the networks."""
    rivals = [" or ".join(names) for names in claim.against if claim.rule == "superior"]
    if not claim.every:
        return [f"nothing decided against {rival}" for rival in rivals if rival not in {one.rival for one in decided}]
    found, gaps = {(one.answer.experiment, one.rival) for one in decided}, []
    for network in dict.fromkeys(answer.experiment for answer in claim.answers):
        missing = [rival for rival in rivals if (network, rival) not in found]
        whom = "" if missing == rivals else f" against {', '.join(missing)}"
        gaps += [f"nothing decided for {network}{whom}"] if missing else []
    return gaps


def _place(found: Finding) -> str:
    return f"{found.answer.experiment} at {found.answer.ratio}x, {found.text}: {found.why}"


def protocol(record: Record) -> str:
    """How a record came about, in one line."""
    params, data = record.params, record.dataset
    return (
        f"{record.run.experiment}: {data['name']} (digest {data['digest'][:12]}), "
        f"{params['prepare']['validation']:,} pictures for validation, "
        f"{_epochs(params['pretrain']['epochs'])} of pretraining, {params['extra_epochs']} more for pruning and "
        f"retraining and for the dense reference, {params['training']['precision']}; last epoch"
    )


def _epochs(count: int) -> str:
    return f"{count} epoch{'' if count == 1 else 's'}"
