"""Reweighted ADMM as a training phase: which update happens at which step, and the hand-over."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from pipeline.pruning.admm import ReweightedAdmm
from pipeline.pruning.control import LambdaController, converged
from pipeline.pruning.masks import Tensors, apply_, largest


class Settings(Protocol):
    """rho, eps and what it is relative to, steps between two updates, and the controller's ramp and rate."""

    rho: float
    eps: float
    relative: bool
    update_every: int
    ramp: float
    lambda_rate: float


@dataclass(frozen=True)
class Handover:
    """What a pruning phase gives to retraining: Z with exactly its survivors, and how it came about."""

    Z: Tensors
    figures: dict[str, Any]


class ReweightedAdmmPhase:
    """The steps that the method adds to training; `steps` is the length of the phase.

    k survivors are asked for among all prunable weights together.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], k: int, steps: int, settings: Settings) -> None:
        self.weights, self.k, self.every = weights, k, settings.update_every
        self.admm = ReweightedAdmm(weights, settings.rho, settings.eps, settings.relative)
        self.controller = LambdaController(
            weights=sum(weight.numel() for weight in weights.values()),
            k=k,
            updates=steps // settings.update_every,
            ramp=settings.ramp,
            rate=settings.lambda_rate,
        )
        self.iterations: list[dict[str, float]] = []

    def before_step(self) -> None:
        self.admm.add_gradient_([weight.grad for weight in self.weights.values()])

    def after_step(self, step: int) -> None:
        if step % self.every:
            return
        update = step // self.every
        asked = self.controller.nonzeros_asked(update)
        lambda_ = self.controller.step(self.admm.lambda_for(asked))
        self.admm.update_(lambda_)
        found = self.admm.residuals()
        self.iterations.append(
            {"iteration": update, "lambda": lambda_, "nonzeros": found.nonzeros, "nonzeros_asked": asked,
             "primal_residual": found.primal, "dual_residual": found.dual}
        )  # fmt: skip

    def after_epoch(self) -> dict[str, float]:
        """The last iteration's figures, for the epoch's row."""
        if not self.iterations:
            return {"nonzeros": float(self.controller.weights), "primal_residual": 0.0, "lambda": 0.0}
        last = self.iterations[-1]
        return {key: last[key] for key in ("nonzeros", "primal_residual", "lambda")}

    def hand_over(self) -> Handover:
        """The k largest |Z|, or all of Z where it has fewer nonzeros, and whether the phase converged."""
        sparse = {name: z.clone() for name, z in self.admm.sparse_copy().items()}
        apply_(sparse, largest(sparse, self.k))
        found = self.admm.residuals()
        return Handover(
            sparse,
            {
                "converged": converged(found.nonzeros, self.k, found.primal),
                "survivors_asked": self.k,
                "nonzeros_at_handover": found.nonzeros,
                "primal_residual": found.primal,
                "dual_residual": found.dual,
                "lambda": self.controller.lambda_,
                "updates": len(self.iterations),
            },
        )

    def state_dict(self) -> dict[str, Any]:
        return {"admm": self.admm.state_dict(), "lambda": self.controller.lambda_, "iterations": self.iterations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.admm.load_state_dict(state["admm"])
        self.controller.lambda_ = state["lambda"]
        self.iterations = list(state["iterations"])
