"""The configuration: the parameters and the run lists, read and checked as a whole."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.layout import DenseRun, PrunedRun, metrics_file
from pipeline.method_params import COPY_LAYERS
from pipeline.params import Experiment, Params
from pipeline.yaml_files import read_yaml

PARAMS_FILE = "params.yaml"
RUN_LISTS = ("runs.yaml", "paper/runs.yaml")


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

    def network_path(self, run: DenseRun | PrunedRun) -> str:
        """The source file or folder of a run's network, as listed for DVC."""
        return self._listed(run)["network"]

    def after(self, run: PrunedRun) -> Path:
        """The metrics file of the run that a run's pruning waits for: its dense network, or a run it copies."""
        return Path(self._listed(run)["after"])

    def _listed(self, run: DenseRun | PrunedRun) -> dict[str, Any]:
        kind = "runs" if isinstance(run, PrunedRun) else "dense"
        return next(listing[kind][run.name] for listing in self._lists.values() if run.name in listing[kind])

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
        if not isinstance(fields.get("network"), str):
            yield f"{where}.network must name the network's source file or folder, got {fields.get('network')}"
        if isinstance(run, PrunedRun) and not _waits_for(run, fields.get("after")):
            usual = "that of the run copied, .../prune.json" if run.method in COPY_LAYERS else _dense_metrics(run)
            yield f"{where}.after must name the metrics file pruning waits for ({usual}), got {fields.get('after')}"
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
    return {key: value for key, value in fields.items() if key not in ("network", "code", "after")}


def _dense_metrics(run: PrunedRun) -> str:
    return metrics_file(run.dense, "pretrain").as_posix()


def _waits_for(run: PrunedRun, after: Any) -> bool:
    """Whether a run waits for what it needs: a pruned run whose layers it copies, else its dense network."""
    if run.method in COPY_LAYERS:
        return isinstance(after, str) and after.endswith("/prune.json")
    return after == _dense_metrics(run)


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
