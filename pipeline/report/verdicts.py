"""The verdicts on the paper's claims, as the audit wrote them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import read_json
from pipeline.report.render import NOTHING, Table, percent

AUDIT_FILE = Path("results", "audit.json")
KINDS = {"reproduced": "good", "not reproduced": "bad", "inconclusive": "open"}
# What became of the method's code since a record was made, in the words of a reader.
CODE_STATES = {
    "changed": "the method's code has changed since",
    "unknown": "the method's code may have changed since (the commit is not in this clone)",
    "uncommitted": "made with code that was not all committed",
}
TARGETS: Mapping[str, Callable[[float], str]] = {
    "ratio": lambda value: f"at least {value}x",
    "difference": lambda value: f"at least {100 * value:+.1f} pp",
    "within": lambda value: f"within {100 * value:.1f} pp of the best",
}
ORDER = ("reproduced", "not reproduced", "inconclusive", "not run")


@dataclass(frozen=True)
class Verdict:
    """One claim; all values are texts as a reader sees them.

    `why`: the comparisons that decided it; `protocols`: how its records came about, by experiment;
    `rests_on`: the files behind each of the comparisons; `costs`: of the rule `economical`, a method's trials.
    """

    id: str
    claim: str
    metric: str
    verdict: str
    scale: str
    target: str
    seeds: str
    why: str
    protocols: tuple[tuple[str, str], ...]
    evidence: tuple[str, ...]
    comparisons: tuple[tuple[str, ...], ...]
    rests_on: tuple[tuple[str, ...], ...] = ()
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """good, bad, open, or none for what was not run."""
        return KINDS.get(self.verdict, "none")


@dataclass(frozen=True)
class Audit:
    """The verdicts, what the paper leaves open with the choice made here, and the records whose code is another."""

    verdicts: tuple[Verdict, ...]
    choices: tuple[str, ...]
    code_since: Mapping[str, str] = field(default_factory=dict)


def read_audit(root: Path) -> Audit | None:
    """What the audit wrote; None if it was not run.

    Raises:
        ArtifactError: the file is not an audit's.
    """
    if not (root / AUDIT_FILE).is_file():
        return None
    content = read_json(root / AUDIT_FILE)
    try:
        verdicts, choices = tuple(map(_verdict, content["claims"])), tuple(map(str, content["choices"]))
        return Audit(verdicts, choices, dict(content.get("code_since", {})))
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{AUDIT_FILE} is not an audit's ({error!r}); run `make audit` again") from error


def tally(verdicts: Sequence[Verdict]) -> str:
    """`1 reproduced, 2 not reproduced`: what there is of each verdict."""
    counts = Counter(one.verdict for one in verdicts)
    names = [*ORDER, *sorted(set(counts) - set(ORDER))]
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Each verdict with the comparisons that decided it."""
    headers = ("claim", "text", "target", "verdict", "scale", "seeds", "decided by")
    rows = [
        (one.id, one.claim, one.target, f"**{one.verdict}**", one.scale or NOTHING, one.seeds or NOTHING, one.why)
        for one in verdicts
    ]
    return Table(headers, rows)


def protocol_table(verdicts: Sequence[Verdict]) -> Table:
    """How the records of each experiment behind the verdicts came about."""
    return Table(("experiment", "protocol"), sorted({each for one in verdicts for each in one.protocols}))


def comparison_table(verdicts: Sequence[Verdict]) -> Table:
    """Every comparison behind the verdicts, also those that were not run or are only shown beside them."""
    headers = ("claim", "experiment", "asked", "compared", "found", "verdict", "scale", "seeds")
    return Table(headers, [row for one in verdicts for row in one.comparisons])


def cost_table(costs: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each method asked of a person, and of the clock."""
    headers = (
        "method", "values chosen by a person", "trials", "seconds to the first good one", "seconds, all trials",
        "best that converged, validation (%)",
    )  # fmt: skip
    return Table(headers, [
        (
            method, str(one["values_chosen"]), str(one["trials"]), _seconds(one["seconds"]),
            _seconds(one["seconds_all"]), NOTHING if one["best"] is None else percent(one["best"]),
        )
        for method, one in costs.items()
    ])  # fmt: skip


def _seconds(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0f}"


def _verdict(claim: Mapping[str, Any]) -> Verdict:
    rows = [_comparison(claim["id"], one, "") for one in claim["measured"]]
    rows += [_comparison(claim["id"], one, " (for comparison)") for one in claim["beside"]]
    return Verdict(
        **{name: str(claim[name]) for name in ("id", "claim", "metric", "verdict")},
        scale=claim["scale"] or "",
        target="; ".join(TARGETS[name](value) for name, value in claim["target"].items()),
        seeds=str(claim["n_seeds"] or ""),
        why=claim["why"],
        protocols=tuple((name, rest) for name, _, rest in (line.partition(": ") for line in claim["protocol"])),
        evidence=tuple(claim["evidence"]),
        comparisons=tuple(rows),
        rests_on=tuple(tuple(one.get("shown", ())) for one in [*claim["measured"], *claim["beside"]]),
        costs=next((one["methods"] for one in claim["measured"] if "methods" in one), {}),
    )


def _comparison(claim: str, one: Mapping[str, Any], mark: str) -> tuple[str, ...]:
    verdict, seeds = one["verdict"] + mark, str(one.get("n_seeds", NOTHING))
    seeds = f"{seeds} of {len(one['seeds'])}" if len(one.get("seeds", ())) > one.get("n_seeds", 0) else seeds
    return (claim, one["experiment"], f"{one['ratio']}x", one["compared"], one["why"], verdict, one["scale"], seeds)
