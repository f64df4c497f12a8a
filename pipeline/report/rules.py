"""The rules that claims are judged by, each applied to the records that may answer a claim."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.layout import record_file, weights_file
from pipeline.method_params import OUR_METHOD
from pipeline.report.claims import Answer, Claim
from pipeline.report.economy import economy
from pipeline.report.ledger import Record
from pipeline.report.statistics import Spread, spread

EXACT = 1e-9  # a tie of whole pictures, after floating point
REPRODUCED, NOT_REPRODUCED, INCONCLUSIVE, NOT_RUN = "reproduced", "not reproduced", "inconclusive", "not run"
# What two runs share that are compared; their seeds share the method's own parameters too.
SHARED = ("prepare", "model", "training", "extra_epochs", "pretrain", "reference", "retrain")
MIXED = "its runs differ in more than method and seed"
Studies = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Finding:
    """One comparison: what was compared over which seeds, and what its rule says of it.

    `evidence`: files that it rests on, where these are not the records.
    """

    answer: Answer
    text: str
    verdict: str
    why: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    rival: str = ""
    evidence: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """What it rests on: files of its own, or the records that support claims."""
        own = [record_file(record.run).as_posix() for record in self.records if record.supports_claims]
        return list(self.evidence) or list(dict.fromkeys(own))

    @property
    def shown(self) -> list[str]:
        """The records of all its figures, whether they support claims or not."""
        return list(dict.fromkeys(record_file(record.run).as_posix() for record in self.records)) or self.files

    @property
    def described(self) -> dict[str, Any]:
        return {
            "experiment": self.answer.experiment,
            "ratio": self.answer.ratio,
            "scale": self.answer.scale,
            "compared": self.text,
            "verdict": self.verdict,
            "why": self.why,
            **self.figures,
            "evidence": self.files,
            "shown": self.shown,
        }


def kept(claim: Claim, answer: Answer, records: Sequence[Record], studies: Studies) -> list[Finding]:
    """Pruned minus the better dense network, on average at least the target at the asked ratio."""
    text = "pruned - better dense network"
    all_seeds = _matching(answer, OUR_METHOD, records)
    if not all_seeds:
        return [Finding(answer, text, NOT_RUN, "no record")]
    usable = [record for record in all_seeds if record.supports_claims]
    if not usable:
        return [Finding(answer, text, INCONCLUSIVE, "no seed converged", {"n_seeds": 0}, tuple(all_seeds))]
    if not _one_setting(usable):
        return [Finding(answer, text, INCONCLUSIVE, MIXED, {"n_seeds": 0}, tuple(usable))]
    found = spread([record.difference for record in usable])
    least = min(record.metrics["benchmark"]["counts"]["compression_ratio"] for record in usable)
    figures = {**_figures(found), "compression_ratio": least, "seeds": [record.run.seed for record in usable]}
    figures["accuracy"] = spread([_accuracy(record) for record in usable]).mean
    if least < claim.target.ratio:
        verdict, why = INCONCLUSIVE, f"the ratio {least:.2f} is below the target"
    elif found.n < claim.seeds:
        verdict, why = INCONCLUSIVE, f"{found.n} of {claim.seeds} seeds, mean {_points(found)}"
    else:
        verdict = REPRODUCED if found.mean >= claim.target.difference - EXACT else NOT_REPRODUCED
        why = f"mean {_points(found)}"
    why += _some_converged(len(usable), len(all_seeds))
    return [Finding(answer, text, verdict, why, figures, tuple(all_seeds))]


def superior(claim: Claim, answer: Answer, records: Sequence[Record], studies: Studies) -> list[Finding]:
    """Reweighted minus another method, by seed: the 95 % t-interval above, below, or around the target."""
    ours = _matching(answer, OUR_METHOD, records)
    return [_against(claim, answer, names, ours, records) for names in claim.against]


def _against(
    claim: Claim, answer: Answer, names: Sequence[str], ours: Sequence[Record], records: Sequence[Record]
) -> Finding:
    theirs = _better([_matching(answer, name, records) for name in names], ours, claim.seeds)
    rival = " or ".join(names)
    text = f"{OUR_METHOD} - {theirs[0].run.method if theirs else rival}"
    if not theirs or not ours:
        return Finding(answer, text, NOT_RUN, "no record")
    pairs = [(our, other) for our in ours for other in theirs if our.run.seed == other.run.seed]
    if not pairs:
        return Finding(answer, text, NOT_RUN, "no seed in common", rival=rival)
    usable = [pair for pair in pairs if all(record.supports_claims for record in pair)]
    shown = usable or pairs
    used = tuple(record for pair in shown for record in pair)
    if not _one_setting(used) or any(_start(our) != _start(other) for our, other in shown):
        return Finding(answer, text, INCONCLUSIVE, MIXED, {"n_seeds": 0}, used, rival)
    found = spread([_accuracy(our) - _accuracy(other) for our, other in shown])
    figures = {**_figures(found), "seeds": [our.run.seed for our, _ in shown], "n_seeds": len(usable)}
    if not usable:
        return Finding(answer, text, INCONCLUSIVE, f"not converged, mean {_points(found)}", figures, used, rival)
    if len(usable) < claim.seeds:
        why = f"{len(usable)} of {claim.seeds} seeds, mean {_points(found)}"
        return Finding(answer, text, INCONCLUSIVE, why, figures, used, rival)
    low, high = found.mean - found.margin, found.mean + found.margin
    target = claim.target.difference
    verdict = REPRODUCED if low > target else NOT_REPRODUCED if high < target else INCONCLUSIVE
    why = f"mean {_points(found)}{_some_converged(len(usable), len(pairs))}"
    return Finding(answer, text, verdict, why, figures, used, rival)


def _some_converged(usable: int, all_: int) -> str:
    return "" if usable == all_ else f" ({usable} of {all_} seeds converged)"


def _better(several: Sequence[Sequence[Record]], ours: Sequence[Record], seeds: int) -> Sequence[Record]:
    """Of several variants of a method the one with the higher mean accuracy, of the seeds that can be compared;
    one with enough of these goes before others."""
    paired = {record.run.seed for record in ours if record.supports_claims}

    def standing(records: Sequence[Record]) -> tuple[int, float]:
        usable = [record for record in records if record.supports_claims and record.run.seed in paired]
        return min(len(usable), seeds), spread([_accuracy(record) for record in usable or records]).mean

    return max([records for records in several if records], key=standing, default=[])


def economical(claim: Claim, answer: Answer, records: Sequence[Record], studies: Studies) -> list[Finding]:
    """Fewer chosen values and less time to a good result than every other method."""
    study = f"{answer.experiment}-tuning"
    rows = studies.get(study, [])
    rows = [row for row in rows if row["trial"]["ratio"] == answer.ratio]
    text = "values chosen and seconds to a good result"
    found = economy(rows, claim.target.within)
    rivals = [name for names in claim.against for name in names]
    if missing := [name for name in (OUR_METHOD, *rivals) if name not in found]:
        return [Finding(answer, text, NOT_RUN, f"no tuning trials of {', '.join(missing)}")]
    ours = found[OUR_METHOD]
    others = {name: found[name] for name in rivals}
    fewer = all(ours.values_chosen < other.values_chosen for other in others.values())
    faster = all(ours.faster_than(other) for other in others.values())
    verdict = REPRODUCED if fewer and faster else INCONCLUSIVE if fewer or faster else NOT_REPRODUCED
    chosen = " or ".join(map(str, sorted({other.values_chosen for other in others.values()})))
    soonest = min((other.seconds for other in others.values() if other.seconds is not None), default=None)
    why = (
        f"values to choose {ours.values_chosen}, others {chosen}; "
        f"a good result {_after(ours.seconds)}, others {_after(soonest)}"
    )
    methods = {name: each.described for name, each in found.items()}
    figures = {"n_seeds": 1, "methods": methods}
    return [Finding(answer, text, verdict, why, figures, evidence=(f"results/{study}.json",))]


def _after(seconds: float | None) -> str:
    return "never" if seconds is None else f"after {seconds:.0f} s"


def _matching(answer: Answer, method: str, records: Sequence[Record]) -> list[Record]:
    return [
        record
        for record in records
        if (record.run.experiment, record.run.method) == (answer.experiment, method)
        and record.run.ratio == answer.ratio
        and record.dataset["name"] == answer.dataset
    ]


def _one_setting(records: Sequence[Record]) -> bool:
    """Whether records differ in method, seed and the methods' own parameters alone."""
    shared = {json.dumps({key: record.params[key] for key in SHARED}, sort_keys=True) for record in records}
    own = {(record.run.method, json.dumps(record.params["prune"], sort_keys=True)) for record in records}
    digests = {record.dataset["digest"] for record in records}
    return len(shared) == len(digests) == 1 and len(own) == len({method for method, _ in own})


def _start(record: Record) -> str:
    """The digest of the dense network that pruning started from."""
    return record.provenance["prune"]["inputs"][weights_file(record.run.dense, "pretrain").as_posix()]


def _accuracy(record: Record) -> float:
    return record.metrics["evaluate"]["pruned_accuracy"]


def _figures(found: Spread) -> dict[str, Any]:
    """Means and bounds as fractions."""
    interval = None if found.margin is None else [found.mean - found.margin, found.mean + found.margin]
    return {"n_seeds": found.n, "mean": found.mean, "std": found.std, "interval": interval}


def _points(found: Spread) -> str:
    mean = f"{100 * found.mean:+.3f} pp"
    if found.margin is None:
        return mean
    return f"{mean} [{100 * (found.mean - found.margin):+.3f}, {100 * (found.mean + found.margin):+.3f}]"


RULES: Mapping[str, Callable[[Claim, Answer, Sequence[Record], Studies], list[Finding]]] = {
    "kept": kept,
    "superior": superior,
    "economical": economical,
}
