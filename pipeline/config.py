"""Typed, validated, immutable configuration: the parameters and the run lists, checked as a whole."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import ConfigError
from pipeline.layout import DenseRun, PrunedRun
from pipeline.yaml_files import read_yaml

PARAMS_FILE = "params.yaml"
RUN_LISTS = ("runs.yaml", "paper/runs.yaml")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Block(BaseModel):
    """A block of `params.yaml`: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Prepare(Block):
    """Which pictures: data set, the size of the validation split, and the seed of the split."""

    dataset: str
    validation: Annotated[int, Field(ge=1)]
    split_seed: Annotated[int, Field(ge=0)]


class Model(Block):
    """Which network: a name in the table of builders, and the builder's options."""

    name: str
    options: Mapping[str, bool | int | float | str]


class Training(Block):
    """What all trainings of an experiment share.

    `shift`: pictures move by up to so many pixels in both directions (0: no augmentation).
    """

    batch_size: Count
    precision: Literal["fp32", "bf16"]
    threads: Count
    shift: Annotated[int, Field(ge=0, le=8)]


class Schedule(Block):
    """One cycle of the learning rate: linear warm-up to `learning_rate`, cosine down to a fraction of it."""

    learning_rate: Positive
    warmup: Fraction
    final: Annotated[float, Field(ge=0, le=1)]


class Distillation(Block):
    """Weight of the dense network's softened answers in the loss (0: none), and their temperature."""

    weight: Annotated[float, Field(ge=0, le=1)]
    temperature: Positive


class Pretrain(Schedule):
    """Training of the dense network from random weights."""

    epochs: Count


class Reference(Schedule):
    """The dense network trained on for `extra_epochs`: what a pruned network is compared with."""

    distillation: Distillation


class ReweightedAdmm(Block):
    """Reweighted ADMM (docs: the README's section on the method).

    `ramp`: part of the phase over which the asked number of nonzeros falls from all to k;
    `lambda_rate`: largest relative change of lambda between two updates.
    """

    epochs: Count
    learning_rate: Positive
    final: Annotated[float, Field(gt=0, le=1)]
    rho: Positive
    eps: Positive
    update_every: Count
    ramp: Annotated[float, Field(gt=0, lt=1)]
    lambda_rate: Positive
    distillation: Distillation


class Prune(Block):
    """One block per pruning method, under the method's name."""

    reweighted_admm: ReweightedAdmm | None = Field(default=None, alias="reweighted-admm")

    def method(self, name: str) -> ReweightedAdmm | None:
        """The block of a method, by its name in `params.yaml`."""
        return {"reweighted-admm": self.reweighted_admm}.get(name)


class Retrain(Schedule):
    """Masked retraining, for what the pruning phase left of `extra_epochs`."""

    distillation: Distillation


class Evaluate(Block):
    """The one reading of the test set."""

    batch_size: Count


class Benchmark(Block):
    """Latency: rounds that time each network once, after warm-up rounds."""

    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    threads: Count
    warmup: Count
    rounds: Annotated[int, Field(ge=4)]


class Experiment(Block):
    """All parameters of an experiment, a block per stage."""

    prepare: Prepare
    model: Model
    training: Training
    extra_epochs: Count
    pretrain: Pretrain
    reference: Reference
    prune: Prune
    retrain: Retrain
    evaluate: Evaluate
    benchmark: Benchmark

    @model_validator(mode="after")
    def _phases_fit(self) -> "Experiment":
        for name in self.prune.model_fields_set:
            block = getattr(self.prune, name)
            if block is not None and block.epochs >= self.extra_epochs:
                raise ValueError(
                    f"prune.{name.replace('_', '-')}.epochs must be < extra_epochs ({self.extra_epochs}) "
                    f"to leave epochs for retraining, got {block.epochs}"
                )
        return self


class Params(Block):
    """The whole of `params.yaml`."""

    experiments: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Experiment]


class Config:
    """The experiments and the runs listed for them.

    Raises:
        ConfigError: on reading, with all mistakes of all files, one a line.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._raw = read_yaml(root / PARAMS_FILE)
        problems: list[str] = []
        try:
            self.experiments = Params.model_validate(self._raw).experiments
        except ValidationError as error:
            problems = [_sentence(item) for item in error.errors()]
        if problems:
            raise ConfigError(_joined(PARAMS_FILE, problems))
        problems = list(self._list_problems())
        if problems:
            raise ConfigError(_joined("the run lists", problems))

    @cached_property
    def dense_runs(self) -> dict[str, DenseRun]:
        """Every listed dense network by its name."""
        return {
            name: DenseRun(**_identity(fields))
            for listing in self._lists.values()
            for name, fields in listing["dense"].items()
        }

    @cached_property
    def pruned_runs(self) -> dict[str, PrunedRun]:
        """Every listed pruned network by its name."""
        return {
            name: PrunedRun(**_identity(fields))
            for listing in self._lists.values()
            for name, fields in listing["runs"].items()
        }

    @cached_property
    def _lists(self) -> dict[str, Any]:
        found = [name for name in RUN_LISTS if (self.root / name).is_file()]
        return {name: read_yaml(self.root / name) for name in found}

    def _list_problems(self) -> Iterable[str]:
        for file, listing in self._lists.items():
            for name, fields in listing["dense"].items():
                yield from self._problems_of(f"{file}: dense.{name}", name, DenseRun, fields)
            for name, fields in listing["runs"].items():
                yield from self._problems_of(f"{file}: runs.{name}", name, PrunedRun, fields)
                dense = f"{fields.get('experiment')}-dense-s{fields.get('seed')}"
                if dense not in listing["dense"]:
                    yield f"{file}: runs.{name} needs the dense network {dense}, which is not listed"

    def _problems_of(self, where: str, name: str, kind: type, fields: Mapping[str, Any]) -> Iterable[str]:
        try:
            run = kind(**_identity(fields))
        except TypeError as error:
            yield f"{where}: {error}"
            return
        if run.name != name:
            yield f"{where} must be named {run.name}"
        if run.experiment not in self.experiments:
            yield f"{where}.experiment must be one of {', '.join(self.experiments)}, got {run.experiment}"
        elif isinstance(run, PrunedRun) and self.experiments[run.experiment].prune.method(run.method) is None:
            yield f"{where}.method must be a block of experiments.{run.experiment}.prune, got {run.method}"
        if isinstance(run, PrunedRun) and not run.ratio > 1:
            yield f"{where}.ratio must be > 1, got {run.ratio}"

    def experiment(self, name: str) -> Experiment:
        """The parameters of an experiment."""
        return _pick("experiment", name, self.experiments)

    def dense_run(self, name: str) -> DenseRun:
        """A listed dense network."""
        return _pick("dense network", name, self.dense_runs)

    def pruned_run(self, name: str) -> PrunedRun:
        """A listed pruned network."""
        return _pick("run", name, self.pruned_runs)

    def runs_of(self, experiment: str) -> list[PrunedRun]:
        """The listed pruned networks of an experiment, in the order of the list."""
        self.experiment(experiment)
        return [run for run in self.pruned_runs.values() if run.experiment == experiment]

    def params_of(self, run: DenseRun | PrunedRun, blocks: Iterable[str]) -> dict[str, Any]:
        """The raw parameters that a run's stages read, nested; of `prune` only the run's own method."""
        raw = self._raw["experiments"][run.experiment]
        chosen = {block: raw[block] for block in blocks}
        if isinstance(run, PrunedRun) and "prune" in chosen:
            chosen["prune"] = raw["prune"][run.method]
        return chosen


def _identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A listed run's fields without those that only tell DVC which source files it depends on."""
    return {key: value for key, value in fields.items() if key not in ("network", "code")}


def _pick(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}; known are: {', '.join(known) or 'none'}")
    return known[name]


def _joined(where: str, problems: list[str]) -> str:
    head = f"{where}: {len(problems)} mistake{'s' if len(problems) > 1 else ''} to correct"
    return "\n  ".join([head, *problems])


def _sentence(item: Mapping[str, Any]) -> str:
    """One mistake as `key rule, got value`."""
    key = ".".join(str(part) for part in item["loc"] if part != "[key]")
    if item["type"] == "extra_forbidden":
        return f"{key} is not a known parameter; correct its spelling or delete it"
    if item["type"] == "missing":
        return f"{key} is missing"
    rule = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if item["type"] == "value_error":
        return f"{key}: {rule}"
    return f"{key} {rule}, got {item['input']!r}"
