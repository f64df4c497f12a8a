"""A pruning phase: what every method adds to the steps of training, and what it hands over to retraining."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pipeline.pruning.admm import Admm
from pipeline.pruning.control import LambdaController, converged
from pipeline.pruning.masks import Tensors, apply_, largest


@dataclass(frozen=True)
class Handover:
    """What a pruning phase gives to retraining: Z with exactly its survivors, and how it came about."""

    Z: Tensors
    figures: dict[str, Any]


class PruningPhase:
    """A phase of `steps` steps that leaves k survivors among all prunable weights together.

    By itself it changes no step, and hands over the k largest weights: one abrupt cut. `layers`:
    survivors of each layer in another run, for a method that copies them.
    """

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        k: int,
        steps: int,
        settings: Any,
        layers: Mapping[str, int] | None = None,
    ) -> None:
        self.weights, self.k, self.steps, self.layers = weights, k, steps, layers
        self.total = sum(weight.numel() for weight in weights.values())
        self.iterations: list[dict[str, float]] = []

    def before_step(self) -> None:
        """After the gradients of the loss, before the optimiser's step."""

    def after_step(self, step: int) -> None:
        """After the optimiser's step; steps count from 1."""

    def after_epoch(self) -> dict[str, float]:
        """The last iteration's figures, for the epoch's row."""
        last = self.iterations[-1] if self.iterations else {"nonzeros": float(self.total)}
        return {key: value for key, value in last.items() if key in ("nonzeros", "primal_residual", "lambda")}

    def hand_over(self) -> Handover:
        """The k largest |W|; whether they were found or cut has no meaning for such a method."""
        sparse = {name: weight.detach().clone() for name, weight in self.weights.items()}
        nonzeros = sum(int(weight.count_nonzero()) for weight in sparse.values())
        return self._cut(sparse, {"converged": None, "nonzeros_at_handover": nonzeros})

    def _cut(self, sparse: Tensors, figures: dict[str, Any]) -> Handover:
        """The k largest of the sparse copy, or all of it where it has fewer nonzeros."""
        apply_(sparse, largest(sparse, self.k))
        return Handover(sparse, {**figures, "survivors_asked": self.k, "updates": len(self.iterations)})

    def state_dict(self) -> dict[str, Any]:
        return {"iterations": self.iterations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.iterations = list(state["iterations"])


class AdmmSettings(Protocol):
    """rho, and steps between two updates."""

    rho: float
    update_every: int


class AdmmPhase(PruningPhase):
    """The steps of any ADMM method; `start` makes its state, `update` does one iteration."""

    def __init__(self, weights: Mapping[str, nn.Parameter], k: int, steps: int, settings: Any, layers: Any = None):
        super().__init__(weights, k, steps, settings, layers)
        self.every, self.updates = settings.update_every, steps // settings.update_every
        self.admm = self.start(settings)

    def start(self, settings: Any) -> Admm:
        """The method's state at the start of the phase."""
        raise NotImplementedError

    def update(self, number: int) -> dict[str, float]:
        """The iteration of that number, from 1; gives figures of its own for the curves."""
        raise NotImplementedError

    def before_step(self) -> None:
        self.admm.add_gradient_([weight.grad for weight in self.weights.values()])

    def after_step(self, step: int) -> None:
        if step % self.every:
            return
        number = step // self.every
        own = self.update(number)
        found = self.admm.residuals()
        self.iterations.append(
            {"iteration": number, **own, "nonzeros": found.nonzeros, "primal_residual": found.primal,
             "dual_residual": found.dual}
        )  # fmt: skip

    def hand_over(self) -> Handover:
        """The k largest |Z|, or all of Z where it has fewer nonzeros, and whether the phase converged."""
        found = self.admm.residuals()
        figures = {
            "converged": converged(found.nonzeros, self.k, found.primal),
            "nonzeros_at_handover": found.nonzeros,
            "primal_residual": found.primal,
            "dual_residual": found.dual,
        }
        return self._cut({name: z.clone() for name, z in self.admm.sparse_copy().items()}, figures)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "admm": self.admm.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.admm.load_state_dict(state["admm"])


class ShrinkingSettings(AdmmSettings, Protocol):
    """The controller's ramp and rate beside those of every ADMM method, or a lambda to hold."""

    ramp: float
    lambda_rate: float
    lambda_: float | None


class ShrinkingPhase(AdmmPhase):
    """ADMM with a threshold on |W + U|: lambda follows a falling number of nonzeros."""

    def __init__(self, weights: Mapping[str, nn.Parameter], k: int, steps: int, settings: Any, layers: Any = None):
        super().__init__(weights, k, steps, settings, layers)
        held = settings.lambda_  # a controller that may not change it
        rate = 0.0 if held else settings.lambda_rate
        self.controller = LambdaController(self.total, k, self.updates, settings.ramp, rate, held or 0.0)

    def update(self, number: int) -> dict[str, float]:
        asked = self.controller.nonzeros_asked(number)
        lambda_ = self.controller.step(self.admm.lambda_for(asked))
        self.admm.update_(lambda_)
        return {"lambda": lambda_, "nonzeros_asked": asked}

    def hand_over(self) -> Handover:
        found = super().hand_over()
        return Handover(found.Z, {**found.figures, "lambda": self.controller.lambda_})

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "lambda": self.controller.lambda_}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.controller.lambda_ = state["lambda"]
