"""Puts data, network, method and loop together, a function for each training stage of one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.data.batches import Augmentation, PictureSet, TrainingBatches, in_order, served_shape
from pipeline.errors import ConfigError
from pipeline.evaluation.accuracy import evaluate
from pipeline.files import sha256
from pipeline.method_params import Distillation as DistillationBlock
from pipeline.method_params import Optimiser as OptimiserBlock
from pipeline.method_params import Pruning as PruningBlock
from pipeline.models import build, check_answers
from pipeline.params import Experiment
from pipeline.params import Schedule as ScheduleBlock
from pipeline.pruning import METHODS
from pipeline.pruning.masks import apply_, check_masks, count_nonzeros, prunable_weights, survivors_asked
from pipeline.training.engine import Engine
from pipeline.training.loop import Checkpoint, Hook, Objective, Phase, Row
from pipeline.training.objective import CrossEntropy, Distillation, answers_of
from pipeline.training.optimiser import make_optimiser
from pipeline.training.schedule import Schedule

EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Job:
    """One training stage of one run: its parameters, seed, pictures, and where its state and rows go."""

    stage: str
    experiment: Experiment
    seed: int
    train: PictureSet
    validate: PictureSet
    checkpoint: Checkpoint
    on_epoch: Callable[[Row], None] = lambda row: None
    engine: Engine = field(default_factory=Engine)

    def network(self, state: Mapping[str, Tensor] | None = None) -> nn.Module:
        """The experiment's network on the engine's device: fresh from the seed, or with the weights given.

        Raises:
            ConfigError: it has nothing to prune, weights that cannot be, or does not answer as a classifier of these
                pictures.
        """
        model, classes = self.experiment.model, self.train.classes
        dtype = torch.float64 if self.experiment.training.precision == "fp64" else torch.float32
        if state is not None and dtype == torch.float64:  # between two stages weights are in fp32, as in their files
            state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        network = build(model, classes, self.seed, state).to(self.engine.device, dtype)
        check_prunable(network, model.name)
        check_answers(network, model.name, served_shape(self.train, self.augmentation.crop), classes)
        return network

    def phase(
        self,
        network: nn.Module,
        settings: OptimiserBlock,
        schedule: Schedule,
        epochs: int,
        objective: Objective,
        hooks: Sequence[Hook] = (),
    ) -> list[Row]:
        """Train the network, starting with fresh optimiser state."""
        training = self.experiment.training
        decay = getattr(settings, "weight_decay", 0.0)
        return Phase(
            name=self.stage,
            network=network,
            optimiser=make_optimiser(network.parameters(), settings, schedule.peak, decay),
            schedule=schedule,
            objective=objective,
            batches=self.batches,
            epochs=epochs,
            generator=generator(self.stage, self.seed),
            bf16=training.precision == "bf16",
            validate=self.validation_figures,
            checkpoint=self.checkpoint,
            engine=self.engine,
            accumulate=training.accumulate,
            hooks=hooks,
            on_epoch=self.on_epoch,
        ).run()

    @property
    def batches(self) -> TrainingBatches:
        training = self.experiment.training
        share = self.engine.rank, self.engine.ranks
        return TrainingBatches(self.train, training.batch_size, self.augmentation, training.workers, *share)

    @property
    def augmentation(self) -> Augmentation:
        training = self.experiment.training
        return Augmentation(training.shift, training.flip, training.crop)

    def objective(self, block: DistillationBlock, teacher: nn.Module) -> Objective:
        """Cross-entropy, with the teacher's answers mixed in where the parameters ask for it."""
        if block.weight == 0:
            return CrossEntropy()
        answers = None
        if self.augmentation == Augmentation():  # the pictures never change, so neither do the answers
            answers = answers_of(teacher, in_order(self.train, EVALUATION_BATCH))
        return Distillation(teacher, block.weight, block.temperature, answers)

    def validation_figures(self, network: nn.Module) -> Row:
        share = self.engine.rank, self.engine.ranks
        workers = self.experiment.training.workers
        batches = in_order(self.validate, EVALUATION_BATCH, self.augmentation.crop, workers, *share)
        found = evaluate(network, batches, self.engine.sums)
        return {"validation_loss": found["loss"], "validation_accuracy": found["accuracy"]}


def last_figures(rows: Sequence[Row]) -> Row:
    """The figures of a finished training: those of its last epoch, never of the best."""
    last = {key: value for key, value in rows[-1].items() if key != "learning_rate"}
    return {"epochs": last.pop("epoch"), **last}


def generator(purpose: str, seed: int) -> torch.Generator:
    """A generator of its own for each purpose, so that no stage's draws depend on another's."""
    number = int(sha256(f"{purpose} {seed}".encode())[:12], 16)
    return torch.Generator().manual_seed(number)


def pretrain(job: Job, start: Mapping[str, Tensor] | None = None) -> tuple[nn.Module, list[Row]]:
    """Train the dense network, from random weights or from the state given."""
    block, network = job.experiment.pretrain, job.network(start)
    return network, job.phase(network, block, one_cycle(block), block.epochs, CrossEntropy())


def train_reference(job: Job, dense: Mapping[str, Tensor]) -> tuple[nn.Module, list[Row]]:
    """Train the dense network on for as many epochs as a pruned one gets, distillation included."""
    block, network = job.experiment.reference, job.network(dense)
    objective = job.objective(block.distillation, job.network(dense))
    return network, job.phase(network, block, one_cycle(block), job.experiment.extra_epochs, objective)


@dataclass(frozen=True)
class Pruned:
    """What the pruning phase gives: the network with W = Z, its figures, and the curves."""

    network: nn.Module
    figures: dict[str, Any]
    rows: list[Row]
    iterations: list[Row]


def prune(
    job: Job, method: str, ratio: float, dense: Mapping[str, Tensor], layers: Mapping[str, int] | None = None
) -> Pruned:
    """Run a method's pruning phase on the dense network and hand over its sparse copy.

    `layers`: survivors of each layer in another run, for a method that copies them.
    """
    block, network = job.experiment.prune.method(method), job.network(dense)
    weights = prunable_weights(network)
    total, steps = sum(weight.numel() for weight in weights.values()), block.epochs * len(job.batches)
    k = survivors_asked(total, ratio)
    if k < 1:
        raise ConfigError(f"a ratio of {ratio:g} leaves none of {total:,} weights; ask for at most {total:,}")
    if block.epochs and block.update_every > steps:
        raise ConfigError(
            f"prune.{method}.update_every must be at most {steps}, the steps of {block.epochs} epochs, "
            f"got {block.update_every}"
        )
    phase = METHODS[method](weights, k, steps, block, layers)
    rows = pruning_epochs(job, network, block, phase, dense) if block.epochs else []
    accuracy_w = job.validation_figures(network)["validation_accuracy"]
    handover = phase.hand_over()
    network.load_state_dict({**network.state_dict(), **handover.Z})
    figures = {
        **handover.figures,
        **survivors(weights),
        "layers": {name: count_nonzeros({name: weight}) for name, weight in weights.items()},
        "validation_accuracy_w": accuracy_w,
        "validation_accuracy_z": job.validation_figures(network)["validation_accuracy"],
        "epochs": block.epochs,
    }
    cut = {"epoch": 0, "learning_rate": 0.0, **job.validation_figures(network)}  # what an abrupt method has to show
    iterations = phase.iterations or [{"iteration": 0, "nonzeros": figures["survivors"]}]
    return Pruned(network, figures, rows or [cut], iterations)


def pruning_epochs(
    job: Job, network: nn.Module, block: PruningBlock, phase: Hook, dense: Mapping[str, Tensor]
) -> list[Row]:
    """Train the network while a method prunes it."""
    schedule = Schedule(block.learning_rate, warmup=0, hold=block.ramp, final=block.final)
    objective = job.objective(block.distillation, job.network(dense))
    return job.phase(network, block, schedule, block.epochs, objective, [phase])


def check_prunable(network: nn.Module, name: str) -> None:
    """See that each weight which is to be pruned is one of the network's own, and is trained.

    Raises:
        ConfigError: there is none, one has two names, or one is frozen.
    """
    weights, seen = prunable_weights(network), {}
    if not weights:
        raise ConfigError(f"{name} has nothing to prune: give it a convolution or a linear layer")
    for key, tensor in network.state_dict(keep_vars=True).items():
        other = seen.setdefault(id(tensor), key)
        if other != key:
            raise ConfigError(f"{name} has {other} and {key}, which are one tensor; give it one name, or copy it")
    frozen = [key for key, weight in weights.items() if not weight.requires_grad]
    if frozen:
        raise ConfigError(f"{name} does not train {', '.join(frozen)} (requires_grad is off), which are to be pruned")


def survivors(weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Survivors of the prunable weights, and the compression ratio that they make."""
    kept, total = count_nonzeros(weights), sum(weight.numel() for weight in weights.values())
    return {"survivors": kept, "compression_ratio": total / max(kept, 1)}


class FixedMask(Hook):
    """Keeps pruned weights at exactly +0.0 after every step."""

    def __init__(self, weights: Mapping[str, nn.Parameter], masks: Mapping[str, Tensor]) -> None:
        check_masks(masks, weights)
        self.weights, self.masks = weights, masks

    def after_step(self, step: int) -> None:
        apply_(self.weights, self.masks)


def retrain(
    job: Job, method: str, sparse: Mapping[str, Tensor], dense: Mapping[str, Tensor]
) -> tuple[nn.Module, list[Row], dict[str, float]]:
    """Train the survivors, for the epochs that pruning left; gives network, rows and survivors."""
    block, network = job.experiment.retrain, job.network(sparse)
    pruning = job.experiment.prune.method(method)
    weights = prunable_weights(network)
    masks = {name: weight.detach() != 0 for name, weight in weights.items()}
    objective = job.objective(block.distillation, job.network(dense))
    epochs = job.experiment.extra_epochs - pruning.epochs
    schedule = one_cycle(block, pruning.retrain_learning_rate)
    rows = job.phase(network, block, schedule, epochs, objective, [FixedMask(weights, masks)])
    return network, rows, survivors(weights)


def one_cycle(block: ScheduleBlock, peak: float | None = None) -> Schedule:
    """Up over the warm-up, and down again from its end; `peak` in place of the block's learning rate."""
    return Schedule(peak or block.learning_rate, warmup=block.warmup, hold=block.warmup, final=block.final)
