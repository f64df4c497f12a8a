"""The blocks of the pruning methods in `params.yaml`, and what they are built of."""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Block(BaseModel):
    """A block of `params.yaml`: unknown keys and wrong types are errors, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Optimiser(Block):
    """Which optimiser a phase starts afresh; `momentum` is SGD's (Nesterov)."""

    optimiser: Literal["adam", "sgd"] = "adam"
    momentum: Fraction = 0.9


class Distillation(Block):
    """Weight of the dense network's softened answers in the loss (0: none), and their temperature."""

    weight: Annotated[float, Field(ge=0, le=1)]
    temperature: Positive


class Pruning(Optimiser):
    """What every method that trains while it prunes has.

    The learning rate stays for the part `ramp` of the phase, then falls to the fraction `final`; methods
    that ask for ever fewer nonzeros reach k at the end of the same part. `retrain_learning_rate`: the
    method's own one for masked retraining (None: that of `retrain`). `CHOSEN`: what a person chooses for
    each network; all other values keep one default (claim C5 counts them).
    """

    CHOSEN: ClassVar[tuple[str, ...]] = ()

    epochs: Count
    learning_rate: Positive
    final: Annotated[float, Field(gt=0, le=1)]
    update_every: Count
    ramp: Annotated[float, Field(gt=0, lt=1)]
    distillation: Distillation
    retrain_learning_rate: Positive | None = None


class Gmp(Pruning):
    """Gradual magnitude pruning: a cut every `update_every` steps."""

    CHOSEN = ("learning_rate",)


class AdmmL0(Pruning):
    """ADMM with a fixed number of survivors in each layer."""

    CHOSEN = ("rho",)
    rho: Positive


class AdmmL1(AdmmL0):
    """ADMM with one threshold for all weights; `lambda_rate`: largest relative change of lambda an update.

    `lambda`: a value to hold in place of the controller's, whatever number of nonzeros it leaves (for studies).
    """

    lambda_rate: Positive
    lambda_: Positive | None = Field(default=None, alias="lambda")


class ReweightedAdmm(AdmmL1):
    """Reweighted ADMM; `eps` is in units of each layer's RMS with `relative`, else in units of the weights."""

    eps: Positive
    relative: bool = False


class Magnitude(Block):
    """One abrupt cut: no epoch of pruning, all of them for retraining."""

    CHOSEN: ClassVar[tuple[str, ...]] = ("retrain_learning_rate",)
    epochs: Literal[0]
    retrain_learning_rate: Positive | None = None


Method = Pruning | Magnitude


class Prune(Block):
    """One block per pruning method, under the method's name."""

    reweighted_admm: ReweightedAdmm | None = Field(default=None, alias="reweighted-admm")
    admm_l1: AdmmL1 | None = Field(default=None, alias="admm-l1")
    admm_l0: AdmmL0 | None = Field(default=None, alias="admm-l0")
    admm_l0_copied: AdmmL0 | None = Field(default=None, alias="admm-l0-copied")
    gmp: Gmp | None = None
    magnitude: Magnitude | None = None

    def method(self, name: str) -> Method | None:
        """The block of a method, by its name in `params.yaml`."""
        return getattr(self, name.replace("-", "_"), None) if name in METHOD_NAMES else None


OUR_METHOD = "reweighted-admm"  # the reproduced one
# Methods that copy the survivors of each layer from the run of OUR_METHOD that is like them otherwise.
COPY_LAYERS = ("admm-l0-copied",)
METHOD_NAMES = tuple(field.alias or name for name, field in Prune.model_fields.items())


def chosen_values(method: str) -> tuple[str, ...]:
    """The values that a person chooses for the method, network by network."""
    kinds = {field.alias or name: field.annotation for name, field in Prune.model_fields.items()}
    return get_args(kinds[method])[0].CHOSEN
