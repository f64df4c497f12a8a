"""The blocks of `params.yaml`: every parameter with its type and range, and what fits together."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipeline.method_params import (
    COPY_LAYERS,
    METHOD_NAMES,
    Block,
    Count,
    Distillation,
    Fraction,
    Optimiser,
    Positive,
    Prune,
)

Runtime = Literal["pytorch", "onnxruntime", "openvino", "sparse-engine"]


class Prepare(Block):
    """Which pictures: data set, the size of the validation split, and the seed of the split.

    `folder` and `test`: the class folders of the data set `folder`, and how many pictures of it are
    set aside for the test where it has no split of its own (None: a fifth); `skip_broken`: leave out
    pictures that do not decode; `decoded`: keep decoded pixels (false: decode in every epoch).
    """

    dataset: str
    validation: Annotated[int, Field(ge=1)]
    split_seed: Annotated[int, Field(ge=0)]
    folder: str | None = None
    test: Count | None = None
    skip_broken: bool = False
    decoded: bool = True

    @model_validator(mode="after")
    def _folder_fits(self) -> "Prepare":
        if (self.dataset == "folder") != (self.folder is not None):
            raise ValueError(f"folder is needed for dataset: folder, and for no other, got {self.folder!r}")
        return self


class Model(Block):
    """Which network: a name in the table of builders or `package.module:builder`, and the builder's options."""

    name: str
    options: Mapping[str, bool | int | float | str] = Field(default_factory=dict)


class Training(Block):
    """What all trainings of an experiment share.

    `shift`: pictures move by up to so many pixels in both directions (0: not at all); `flip`: half of
    them are mirrored; `crop`: for pictures of different sizes, the side of the random resized crop;
    `workers`: processes that decode and crop. `devices` on each of `nodes` machines share every batch
    (`batch_size` is that of all together), each working off its share in `accumulate` parts; `strategy`
    is Fabric's name for how: each has the whole network, and gradients are averaged.
    """

    batch_size: Count
    precision: Literal["fp32", "bf16", "fp64"]
    threads: Count
    shift: Annotated[int, Field(ge=0, le=8)] = 0
    flip: bool = False
    crop: Count | None = None
    workers: Annotated[int, Field(ge=0)] = 0
    accelerator: Literal["cpu", "cuda"] = "cpu"
    devices: Count = 1
    nodes: Count = 1
    strategy: Literal["ddp"] = "ddp"
    accumulate: Count = 1

    @model_validator(mode="after")
    def _batch_divides(self) -> "Training":
        parts = self.devices * self.nodes * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size must be a multiple of devices x nodes x accumulate ({parts}), got {self.batch_size}"
            )
        return self


class Schedule(Optimiser):
    """One cycle of the learning rate: linear warm-up to `learning_rate`, cosine down to a fraction of it.

    `weight_decay` (SGD only) draws weights, not biases nor norms, to zero.
    """

    learning_rate: Positive
    warmup: Fraction
    final: Annotated[float, Field(ge=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _decay_fits(self) -> "Schedule":
        if self.weight_decay and self.optimiser != "sgd":
            raise ValueError(f"weight_decay needs optimiser: sgd, got {self.weight_decay} with {self.optimiser}")
        return self


class Start(Block):
    """Published weights to start from: a file and its SHA-256, or the name of torchvision's weights.

    `new_head`: the last layer has another number of classes, and starts at random; `note`: what a
    reader of results must know of the weights' making.
    """

    file: str | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    torchvision: str | None = None
    new_head: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> "Start":
        if (self.file is None) != (self.sha256 is None) or (self.file is None) == (self.torchvision is None):
            raise ValueError("start needs either file and sha256, or torchvision")
        return self


class Pretrain(Schedule):
    """Training of the dense network, from random weights or from published ones."""

    epochs: Count
    start: Start | None = None


class Reference(Schedule):
    """The dense network trained on for `extra_epochs`: what a pruned network is compared with."""

    distillation: Distillation


class Retrain(Schedule):
    """Masked retraining, for what the pruning phase left of `extra_epochs`."""

    distillation: Distillation


class Evaluate(Block):
    """The one reading of the test set."""

    batch_size: Count


class Benchmark(Block):
    """Latency: rounds that time each network in each runtime, after warm-up rounds."""

    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    threads: Annotated[tuple[Count, ...], Field(min_length=1, strict=False)]
    runtimes: Annotated[tuple[Runtime, ...], Field(min_length=1, strict=False)]
    warmup: Count
    rounds: Annotated[int, Field(ge=4)]


class Study(Block):
    """Trials of methods at one ratio, judged on the validation split: values that replace those of `prune`."""

    ratio: Annotated[float | int, Field(ge=1, allow_inf_nan=False)]
    seed: Annotated[int, Field(ge=0)]
    trials: Mapping[str, list[Mapping[str, bool | int | float]]]


class Experiment(Block):
    """All parameters of an experiment, a block per stage, and studies that chose or vary some of them."""

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
    studies: Mapping[str, Study] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _phases_fit(self) -> "Experiment":
        if self.prepare.dataset.startswith("mnist") and self.training.flip:
            raise ValueError("training.flip must be false for digits: mirrored, many are no digits")
        for name in METHOD_NAMES:
            self._check_epochs(name)
        return self

    def _check_epochs(self, method: str) -> None:
        block = self.prune.method(method)
        if block is not None and block.epochs >= self.extra_epochs:
            raise ValueError(
                f"prune.{method}.epochs must be < extra_epochs ({self.extra_epochs}) "
                f"to leave epochs for retraining, got {block.epochs}"
            )

    @model_validator(mode="after")
    def _studies_fit(self) -> "Experiment":
        for name, study in self.studies.items():
            for method, trials in study.trials.items():
                for number, values in enumerate(trials):
                    try:
                        self.with_values(method, values)
                    except ValueError as error:
                        raise ValueError(f"studies.{name}.trials.{method}[{number}]: {_first(error)}") from error
        return self

    def with_values(self, method: str, values: Mapping[str, Any]) -> "Experiment":
        """The experiment with other values in a method's block.

        Raises:
            ValueError: the experiment has no block for the method, or a value does not fit.
        """
        block = self.prune.method(method)
        if block is None:
            raise ValueError(f"prune has no block {method}")
        if method in COPY_LAYERS:
            raise ValueError(f"{method} copies the layers of another run, and a trial has none")
        changed = type(block).model_validate({**block.model_dump(by_alias=True), **values})
        prune = self.prune.model_copy(update={method.replace("-", "_"): changed})
        experiment = self.model_copy(update={"prune": prune})
        experiment._check_epochs(method)
        return experiment


class Params(Block):
    """The whole of `params.yaml`."""

    experiments: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], Experiment]


def _first(error: ValueError) -> str:
    """The first mistake, as `key rule`."""
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))} {found['msg'].removeprefix('Input ')}, got {found['input']!r}"
