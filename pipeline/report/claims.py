"""The paper's claims as data: what each says, and which results may answer it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.errors import ConfigError
from pipeline.method_params import METHOD_NAMES, Block, Count
from pipeline.report.paper_files import read_checked
from pipeline.report.published import Published
from pipeline.report.statistics import FEWEST_FOR_INTERVAL

CLAIMS_FILE = Path("paper", "claims.yaml")
Scale = Literal["full", "reduced"]


class Answer(Block):
    """Results that may answer a claim: all seeds of an experiment at an asked ratio, on the data set named."""

    experiment: str
    ratio: Annotated[float | int, Field(gt=1)]
    dataset: str
    scale: Scale


class Target(Block):
    """What is to be reached: a compression ratio, a least difference of accuracies (fraction), or, of the rule
    `economical`, how far below the best validation accuracy a result is still good (fraction)."""

    ratio: Annotated[float | int, Field(gt=1)] | None = None
    difference: float | None = None
    within: Annotated[float, Field(ge=0)] | None = None


class Claim(Block):
    """One claim; the file's head says what the rules mean.

    `every`: the claim names several networks, so that something must be decided for each answering experiment.
    """

    id: Annotated[str, Field(pattern=r"^C\d+$")]
    claim: str
    source: str
    metric: str
    rule: Literal["kept", "superior", "economical"]
    target: Target
    seeds: Count
    against: list[list[str]] = Field(default_factory=list)
    answers: Annotated[list[Answer], Field(min_length=1)]
    also: list[Answer] = Field(default_factory=list)
    every: bool = False

    @model_validator(mode="after")
    def _rule_fits(self) -> "Claim":
        needed = {"kept": ("ratio", "difference"), "superior": ("difference",), "economical": ("within",)}[self.rule]
        missing = [f"target.{key}" for key in needed if getattr(self.target, key) is None]
        missing += ["against"] * (self.rule != "kept" and not self.against)
        if missing:
            raise ValueError(f"the rule {self.rule} needs {', '.join(missing)}")
        if self.rule == "superior" and (self.seeds < FEWEST_FOR_INTERVAL or self.target.difference < 0):
            raise ValueError(f"the rule superior needs seeds >= {FEWEST_FOR_INTERVAL} and target.difference >= 0")
        if self.rule == "kept" and self.target.difference < 0:
            raise ValueError(f"the rule kept needs target.difference >= 0, got {self.target.difference}")
        unknown = {name for names in self.against for name in names} - set(METHOD_NAMES)
        if unknown:
            raise ValueError(
                f"against must name methods of {', '.join(METHOD_NAMES)}, got {', '.join(sorted(unknown))}"
            )
        return self


class Claims(Block):
    """All claims, and what the paper leaves open with the choice made here.

    `without_dense`: experiments and runs that were recorded before dense networks were kept beside the records.
    """

    claims: list[Claim]
    choices: list[str]
    without_dense: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _ids_differ(self) -> "Claims":
        ids = [claim.id for claim in self.claims]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"two claims have the id {', '.join(twice)}")
        return self


def read_claims(root: Path, published: Sequence[Published]) -> Claims:
    """Read the claims.

    Raises:
        ConfigError: mistakes, each with its line; or a target that is not what `paper/published.yaml` has.
    """
    found = read_checked(root, CLAIMS_FILE, Claims)
    for entry in published:
        claim = next((claim for claim in found.claims if claim.id == entry.claim), None)
        if entry.claim and (claim is None or claim.target.ratio != entry.compression):
            target = claim.target.ratio if claim else "no such claim"
            raise ConfigError(
                f"{CLAIMS_FILE} and paper/published.yaml disagree on the ratio of {entry.claim}: "
                f"{target} and {entry.compression}; correct the one that differs from the source"
            )
    return found
