"""`python -m stages.profile_training EXPERIMENT [BATCHES]`: where the time of an epoch that prunes goes.

Needs the prepared data set; nothing is written. The rest is what the loop itself takes.
"""

import cProfile
import logging
import pstats
from dataclasses import replace

from torch import Tensor

from pipeline import assembly, entry, layout, provenance
from pipeline.config import Config
from pipeline.data.batches import PictureSet, picture_set
from pipeline.errors import ConfigError
from pipeline.method_params import OUR_METHOD
from pipeline.pruning import METHODS
from pipeline.pruning.masks import prunable_weights, survivors_asked
from pipeline.resume import NoCheckpoint
from pipeline.settings import prepare_torch
from pipeline.tensors import load_tensors
from pipeline.training.objective import CrossEntropy
from pipeline.training.schedule import Schedule

RATIO = 10
# Each part's functions: the file's end and the function's name; the time of each is with all that it calls.
PARTS = {
    "data": [("data/batches.py", "epoch")],
    "forward and backward": [("training/loop.py", "_gradients")],
    "of which backward": [("training/engine.py", "backward")],
    "ADMM, gradients": [("pruning/phase.py", "before_step")],
    "ADMM, updates": [("pruning/phase.py", "after_step")],
    "optimiser": [("optim/optimizer.py", "wrapper")],
    "validation": [("pipeline/assembly.py", "validation_figures")],
}


def main(arguments: list[str]) -> None:
    if len(arguments) not in (1, 2) or not all(number.isdigit() for number in arguments[1:]):
        raise ConfigError(f"expected EXPERIMENT [BATCHES], got {' '.join(arguments) or 'nothing'}")
    experiment = Config(entry.root()).experiment(arguments[0])
    if experiment.prune.method(OUR_METHOD) is None:
        raise ConfigError(f"experiments.{arguments[0]}.prune has no block {OUR_METHOD}, whose epoch is profiled")
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    prepare_torch(experiment.training.threads)
    train, validate = pictures(arguments[0], "train"), pictures(arguments[0], "validate")
    if arguments[1:]:
        count = int(arguments[1]) * experiment.training.batch_size
        if not isinstance(train.images, Tensor):
            raise ConfigError(f"the pictures of {arguments[0]} are no tensor in memory; leave BATCHES out")
        train = replace(train, images=train.images[:count], labels=train.labels[:count])
    job = assembly.Job("profile", experiment, 0, train, validate, NoCheckpoint())
    seconds = profiled(job)
    total = seconds.pop("whole epoch")
    print(f"{provenance.machine()['processor']}, threads: {experiment.training.threads}, {arguments[0]}: ", end="")
    print(f"{len(job.batches)} batches of {experiment.training.batch_size}, {experiment.training.precision}")
    for part, value in seconds.items():
        print(f"{part:<24}{value:9.2f} s {100 * value / total:6.1f} %")
    print(f"{'whole epoch':<24}{total:9.2f} s")


def profiled(job: assembly.Job) -> dict[str, float]:
    """Seconds of each part of one epoch with the method's hooks."""
    network, block = job.network(), job.experiment.prune.method(OUR_METHOD)
    weights = prunable_weights(network)
    k = survivors_asked(sum(weight.numel() for weight in weights.values()), RATIO)
    phase = METHODS[OUR_METHOD](weights, k, len(job.batches), block)
    profile = cProfile.Profile()
    profile.enable()
    job.phase(network, block, Schedule(block.learning_rate, 0, 0.9, 0.1), 1, CrossEntropy(), [phase])
    profile.disable()
    return seconds_of(pstats.Stats(profile).stats)


def seconds_of(stats: dict) -> dict[str, float]:
    """The time of each part, and of the whole."""
    found = {}
    for part, functions in {**PARTS, "whole epoch": [("training/loop.py", "run")]}.items():
        found[part] = sum(
            values[3]
            for (file, _, name), values in stats.items()
            if any(file.endswith(end) and name == wanted for end, wanted in functions)
        )
    return found


def pictures(experiment: str, part: str) -> PictureSet:
    return picture_set(*load_tensors(entry.root() / layout.data_file(experiment, part)))


if __name__ == "__main__":
    entry.run(main)
