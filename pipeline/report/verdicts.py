"""The verdicts on the paper's claims, as the audit wrote them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ArtifactError
from pipeline.files import read_json
from pipeline.report.render import NOTHING, Table

AUDIT_FILE = Path("results", "audit.json")
KINDS = {"reproduced": "good", "not reproduced": "bad", "inconclusive": "open"}
ORDER = ("reproduced", "not reproduced", "inconclusive", "not run")


@dataclass(frozen=True)
class Verdict:
    """One claim; texts are as the audit wrote them, empty where it wrote none."""

    id: str
    claim: str
    verdict: str
    scale: str
    target: str
    measured: str
    seeds: str
    protocol: str
    why: str
    evidence: tuple[str, ...]

    @property
    def kind(self) -> str:
        """good, bad, open, or none for what was not run."""
        return KINDS.get(self.verdict, "none")


def read_verdicts(root: Path) -> list[Verdict] | None:
    """The audit's verdicts; None if it was not run.

    Raises:
        ArtifactError: the file is not JSON, or has no list of claims with id, claim and verdict.
    """
    if not (root / AUDIT_FILE).is_file():
        return None
    content = read_json(root / AUDIT_FILE)
    claims = content.get("claims") if isinstance(content, dict) else None
    needed = {"id", "claim", "verdict"}
    if not isinstance(claims, list) or not all(isinstance(one, dict) and needed <= set(one) for one in claims):
        raise ArtifactError(f"{AUDIT_FILE} must have claims with {', '.join(sorted(needed))}; run `make audit` again")
    return [_verdict(claim) for claim in claims]


def tally(verdicts: Sequence[Verdict]) -> str:
    """`1 reproduced, 2 not reproduced`: what there is of each verdict."""
    counts = Counter(one.verdict for one in verdicts)
    names = [*ORDER, *sorted(set(counts) - set(ORDER))]
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name])


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    headers = ("claim", "text", "verdict", "scale", "target", "measured", "seeds", "protocol", "why")
    rows = [
        (one.id, one.claim, f"**{one.verdict}**", *(
            text or NOTHING for text in (one.scale, one.target, one.measured, one.seeds, one.protocol, one.why)
        ))
        for one in verdicts
    ]  # fmt: skip
    return Table(headers, rows)


def _verdict(claim: Mapping[str, Any]) -> Verdict:
    evidence = claim.get("evidence") or []
    return Verdict(
        **{name: str(claim[name]) for name in ("id", "claim", "verdict")},
        **{name: _text(claim.get(name)) for name in ("scale", "target", "measured", "protocol", "why")},
        seeds=_text(claim.get("n_seeds")),
        evidence=tuple(map(str, [evidence] if isinstance(evidence, str) else evidence)),
    )


def _text(value: Any) -> str:
    """Any value as a reader's text: `a: 1; b: 2` for a mapping."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "; ".join(f"{str(name).replace('_', ' ')}: {_text(inner) or NOTHING}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
