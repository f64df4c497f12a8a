"""`python -m stages.study EXPERIMENT STUDY`: the trials of a study, on the validation split only.

Each finished trial is kept in results/EXPERIMENT-STUDY.json; what is there already is not run again.
"""

import time
from collections.abc import Iterator
from typing import Any

from pipeline import assembly, entry, layout, provenance
from pipeline.config import Config
from pipeline.data.batches import PictureSet, picture_set
from pipeline.errors import ConfigError
from pipeline.files import write_json
from pipeline.layout import DenseRun, study_file
from pipeline.params import Study
from pipeline.report.economy import read_trials
from pipeline.resume import NoCheckpoint
from pipeline.settings import prepare_torch
from pipeline.tensors import load_tensors

KEPT = ("converged", "survivors", "compression_ratio", "primal_residual", "lambda", "updates", "validation_accuracy_z")


def main(arguments: list[str]) -> None:
    experiment, name = entry.arguments_of(arguments, "EXPERIMENT", "STUDY")
    config = Config(entry.root())
    studies = config.experiment(experiment).studies
    if name not in studies:
        raise ConfigError(f"{experiment} has no study {name!r}; params.yaml has: {', '.join(studies) or 'none'}")
    study, file = studies[name], entry.root() / study_file(experiment, name)
    asked = list(trials(config, experiment, study))
    for number, trial in enumerate(asked, start=1):
        if not any(row["trial"] == trial for row in read_trials(file)):
            print(f"trial {number} of {len(asked)}: {trial['method']} {trial['values']}", flush=True)
            made = {"trial": trial, **run(config, experiment, study, trial)}
            others = [row for row in read_trials(file) if row["trial"] != trial]  # again: others may write meanwhile
            write_json(file, {"experiment": experiment, "study": name, "trials": [*others, made]})
    current = [row for row in read_trials(file) if row["trial"] in asked]
    write_json(file, {"experiment": experiment, "study": name, "trials": current})
    for row in current:
        print(summary(row))


def trials(config: Config, experiment: str, study: Study) -> Iterator[dict[str, Any]]:
    """What identifies each trial: method, ratio, seed, the values tried, and every other parameter."""
    for method, several in study.trials.items():
        like = layout.PrunedRun(experiment, method, study.ratio, study.seed)
        blocks = ("prepare", "model", "training", "extra_epochs", "pretrain", "prune", "retrain")
        params = config.params_of(like, blocks)
        for values in several:
            rest = {key: value for key, value in params["prune"].items() if key not in values}
            yield {
                "method": method,
                "ratio": study.ratio,
                "seed": study.seed,
                "values": dict(values),
                "params": {**params, "prune": rest},
            }


def run(config: Config, experiment: str, study: Study, trial: dict[str, Any]) -> dict[str, Any]:
    """One trial: pruning and retraining, judged on the validation split."""
    started, code = time.monotonic(), provenance.git_state(config.root)
    method = trial["method"]
    changed = config.experiment(experiment).with_values(method, trial["values"])
    dense, _ = load_tensors(config.root / layout.weights_file(DenseRun(experiment, study.seed), "pretrain"))
    prepare_torch(changed.training.threads)
    pictures = [pictures_of(config, experiment, part) for part in ("train", "validate")]
    job = assembly.Job("prune", changed, study.seed, *pictures, NoCheckpoint())
    pruned = assembly.prune(job, method, study.ratio, dense)
    job = assembly.Job("retrain", changed, study.seed, *pictures, NoCheckpoint())
    _, rows, survivors = assembly.retrain(job, method, pruned.network.state_dict(), dense)
    return {
        **{key: pruned.figures[key] for key in KEPT if key in pruned.figures},
        **survivors,
        "validation_accuracy": rows[-1]["validation_accuracy"],
        "seconds": round(time.monotonic() - started, 2),
        **code,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
        "threads": changed.training.threads,
    }


def pictures_of(config: Config, experiment: str, part: str) -> PictureSet:
    return picture_set(*load_tensors(config.root / layout.data_file(experiment, part)))


def summary(row: dict[str, Any]) -> str:
    trial = row["trial"]
    return (
        f"{trial['method']:<16} {trial['values']}  {row['compression_ratio']:.2f}x  "
        f"validation {100 * row['validation_accuracy']:.2f} %  converged {row['converged']}  {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    entry.run(main)
