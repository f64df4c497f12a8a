"""The configuration: the parameters and the run lists, read and checked as a whole."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pipeline.errors import ConfigError
from pipeline.layout import DenseRun, PrunedRun, metrics_file
from pipeline.method_params import COPY_LAYERS, OUR_METHOD, Block
from pipeline.params import Experiment, Params
from pipeline.yaml_files import read_yaml

PARAMS_FILE = "params.yaml"
RUN_LISTS = ("runs.yaml", "paper/runs.yaml")
MOST_NAMES, NEAREST = 20, 5  # of unknown ones an error names
Model = TypeVar("Model", bound=BaseModel)


class DenseEntry(Block):
    """A listed dense network; `network`: its source file or folder, on which DVC makes its stages depend."""

    experiment: str
    network: str
    seed: Annotated[int, Field(ge=0)]

    @property
    def run(self) -> DenseRun:
        return DenseRun(self.experiment, self.seed)


class PrunedEntry(DenseEntry):
    """A listed pruned network; `code`: its method's module; `after`: the metrics file that its pruning waits for."""

    method: str
    code: str
    ratio: Annotated[float | int, Field(gt=1, allow_inf_nan=False)]
    after: str

    @property
    def run(self) -> PrunedRun:
        return PrunedRun(self.experiment, self.method, self.ratio, self.seed)


class Listing(Block):
    """A run list: the experiments whose data is prepared, and every dense and pruned network by its name."""

    top: str
    prepared: list[str]
    dense: dict[str, DenseEntry]
    runs: dict[str, PrunedEntry]


class Config:
    """The experiments and the runs listed for them.

    Raises:
        ConfigError: on reading, with all mistakes of all files, one a line.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._raw = read_yaml(root / PARAMS_FILE)
        self.experiments = _valid(Params, self._raw, PARAMS_FILE).experiments
        found = [name for name in RUN_LISTS if (root / name).is_file()]
        self._lists = {name: _valid(Listing, read_yaml(root / name), name) for name in found}
        if problems := list(self._list_problems()):
            raise ConfigError(_joined("the run lists", problems))

    @cached_property
    def dense_runs(self) -> dict[str, DenseRun]:
        """Every listed dense network by its name."""
        return {name: listed.run for listing in self._lists.values() for name, listed in listing.dense.items()}

    @cached_property
    def pruned_runs(self) -> dict[str, PrunedRun]:
        """Every listed pruned network by its name."""
        return {name: listed.run for listing in self._lists.values() for name, listed in listing.runs.items()}

    @property
    def listed_runs(self) -> dict[str, list[str]]:
        """The names of the pruned networks of each list."""
        return {name: list(listing.runs) for name, listing in self._lists.items()}

    def network_path(self, run: DenseRun | PrunedRun) -> str:
        """The source file or folder of a run's network, as listed for DVC."""
        return self._listed(run).network

    def after(self, run: PrunedRun) -> Path:
        """The metrics file of the run that a run's pruning waits for: its dense network, or a run it copies."""
        return Path(self._listed(run).after)

    def _listed(self, run: DenseRun | PrunedRun) -> Any:
        kind = "runs" if isinstance(run, PrunedRun) else "dense"
        every = (getattr(listing, kind) for listing in self._lists.values())
        return next(listed[run.name] for listed in every if run.name in listed)

    def _list_problems(self) -> Iterable[str]:
        for file, listing in self._lists.items():
            for name, listed in {**listing.dense, **listing.runs}.items():
                kind = "runs" if isinstance(listed, PrunedEntry) else "dense"
                yield from self._problems_of(f"{file}: {kind}.{name}", name, listed, listing)

    def _problems_of(self, where: str, name: str, listed: "DenseEntry", listing: "Listing") -> Iterable[str]:
        run = listed.run
        if run.name != name:
            yield f"{where} must be named {run.name}"
        if run.experiment not in self.experiments:
            yield f"{where}.experiment must be one of {', '.join(self.experiments)}, got {run.experiment}"
        elif run.experiment not in listing.prepared:
            yield f"{where}.experiment must be among prepared, got {run.experiment}"
        if isinstance(listed, PrunedEntry):
            yield from self._pruned_problems(where, listed, listing)

    def _pruned_problems(self, where: str, listed: "PrunedEntry", listing: "Listing") -> Iterable[str]:
        run, awaited = listed.run, _awaited(listed.run)
        if run.dense.name not in listing.dense:
            yield f"{where} needs the dense network {run.dense.name}, which is not listed"
        if listed.after != awaited:
            yield f"{where}.after must name the metrics file pruning waits for ({awaited}), got {listed.after}"
        known = self.experiments.get(run.experiment)
        if known and known.prune.method(run.method) is None:
            yield f"{where}.method must be a block of experiments.{run.experiment}.prune, got {run.method}"

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

    def pipeline_file(self, experiment: str) -> str:
        """The DVC file beside the list that has the experiment's runs."""
        listed = (name for name, listing in self._lists.items() if experiment in listing.prepared)
        return Path(next(listed)).with_name("dvc.yaml").as_posix()

    def params_of(self, run: DenseRun | PrunedRun, blocks: Iterable[str]) -> dict[str, Any]:
        """The raw parameters that a run's stages read, nested; of `prune` only the run's own method."""
        raw = self._raw["experiments"][run.experiment]
        chosen = {block: raw[block] for block in blocks}
        if isinstance(run, PrunedRun) and "prune" in chosen:
            chosen["prune"] = raw["prune"][run.method]
        return chosen


def _awaited(run: PrunedRun) -> str:
    """The metrics file that a run's pruning waits for: of the reweighted run whose layers it copies, or of its dense
    network."""
    if run.method in COPY_LAYERS:
        return metrics_file(replace(run, method=OUR_METHOD), "prune").as_posix()
    return metrics_file(run.dense, "pretrain").as_posix()


def _valid(kind: type[Model], content: Any, file: str) -> Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_joined(file, [_sentence(item) for item in error.errors()])) from error


def _pick(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}; known are: {_some(name, list(known))}")
    return known[name]


def _some(name: str, known: list[str]) -> str:
    """All names, or those of many that are most like the one asked for."""
    if len(known) <= MOST_NAMES:
        return ", ".join(known) or "none"
    near = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0)
    return f"{', '.join(near)}, and {len(known) - len(near)} more in {' and '.join([PARAMS_FILE, *RUN_LISTS])}"


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
