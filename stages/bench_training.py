"""`python -m stages.bench_training EXPERIMENT`: images per second, and an ADMM epoch beside a plain one.

All sides are timed in one process in interleaved rounds, so that ratios hold on a noisy machine.
"""

import logging
import statistics
import time
from collections.abc import Callable

import torch

from pipeline import assembly, entry, provenance
from pipeline.config import Config
from pipeline.data import sources
from pipeline.data.batches import PictureSet
from pipeline.errors import ConfigError
from pipeline.method_params import OUR_METHOD
from pipeline.params import Experiment
from pipeline.pruning import METHODS
from pipeline.pruning.masks import prunable_weights, survivors_asked
from pipeline.resume import NoCheckpoint
from pipeline.settings import prepare_torch
from pipeline.training.objective import CrossEntropy
from pipeline.training.schedule import Schedule

ROUNDS = 9
RATIO = 50


def main(arguments: list[str]) -> None:
    (name,) = entry.arguments_of(arguments, "EXPERIMENT")
    experiment = Config(entry.root()).experiment(name)
    if experiment.model.name != "lenet5" or experiment.prune.method(OUR_METHOD) is None:
        raise ConfigError(
            f"digits are what is trained on here, so {name} must be LeNet-5 with a block prune.{OUR_METHOD}"
        )
    logging.getLogger("pipeline").setLevel(logging.WARNING)
    prepare_torch(experiment.training.threads)
    processor, threads = provenance.machine()["processor"], experiment.training.threads
    print(f"{processor}, threads: {threads}, batch: {experiment.training.batch_size}, torch {torch.__version__}")
    found = timed(
        {
            "plain, fp32": epoch_of(experiment, digits(5000), "fp32", False),
            "ADMM, fp32": epoch_of(experiment, digits(5000), "fp32", True),
        },
        ROUNDS,
    )
    ratio = statistics.median(a / p for a, p in zip(found["ADMM, fp32"], found["plain, fp32"], strict=True))
    show(found, 5000 // experiment.training.batch_size * experiment.training.batch_size)
    print(f"an ADMM epoch costs {ratio:.3f} of a plain one (median of {ROUNDS} paired rounds)")
    # fewer pictures: without bf16 instructions this is many times slower
    size = 4 * experiment.training.batch_size
    sides = {f"plain, {kind}": epoch_of(experiment, digits(size), kind, False) for kind in ("fp32", "bf16")}
    found = timed(sides, 3)
    show(found, size)
    ratio = statistics.median(f / b for f, b in zip(found["plain, fp32"], found["plain, bf16"], strict=True))
    print(f"bf16 trains at {ratio:.2f} times the speed of fp32 (median of 3 paired rounds)")


def show(seconds: dict[str, list[float]], images: int) -> None:
    for name, times in seconds.items():
        q1, median, q3 = statistics.quantiles(times, n=4)
        print(f"{name}: {images / median:,.0f} images/s (quartiles {images / q3:,.0f} to {images / q1:,.0f})")


def digits(count: int) -> PictureSet:
    """The first of 5,000 real digits."""
    found = sources.load("mnist-5k", entry.root() / "data" / "download")
    images, labels = torch.from_numpy(found.train.images[:count]), torch.from_numpy(found.train.labels[:count])
    return PictureSet(images, labels, torch.tensor(found.mean), torch.tensor(found.std), found.classes, found.name, "")


def epoch_of(experiment: Experiment, pictures: PictureSet, precision: str, admm: bool) -> Callable[[], None]:
    """A function that trains one epoch, again and again on the same network."""
    training = experiment.training.model_copy(update={"precision": precision})
    experiment = experiment.model_copy(update={"training": training})
    job = assembly.Job("bench", experiment, 0, pictures, digits(100), NoCheckpoint())
    network, hooks = job.network(), []
    if admm:
        weights = prunable_weights(network)
        k = survivors_asked(sum(weight.numel() for weight in weights.values()), RATIO)
        block = experiment.prune.method(OUR_METHOD)
        hooks = [METHODS[OUR_METHOD](weights, k, ROUNDS * len(job.batches), block)]
    return lambda: (
        job.phase(network, experiment.pretrain, Schedule(1e-3, 0, 0.9, 0.1), 1, CrossEntropy(), hooks) and None
    )


def timed(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(1 + rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    entry.run(main)
