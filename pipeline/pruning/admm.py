"""ADMM for pruning: the state (Z, U, R) and its updates, as fused multi-tensor operations.

    minimise  f(W) + lambda * sum_i R_i |Z_i|     subject to  W = Z

Symbols and order as in the README's section on the method. The methods differ in their Z-update alone:
a threshold that follows R (reweighted), the same with R = 1 (l1), a fixed number of nonzeros (l0).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.pruning.masks import Tensors, largest


def soft_threshold(v: Tensor, t: Tensor | float) -> Tensor:
    """S(v, t) = sign(v) max(|v| - t, 0), element by element: the proximal operator of t|.|."""
    return torch.sign(v) * torch.clamp(v.abs() - t, min=0)


def importance(z: Tensor, eps: float, scale: float = 1.0) -> Tensor:
    """R = s^2 / (|Z| + eps s): the smaller a weight, the more it is shrunk (Candes, Wakin, Boyd 2008).

    With s = 1 eps is in units of the weights. With s = RMS(W) of the layer, shrinking does not
    depend on the layer's scale: S(v, lambda R / rho) of c W and c s is c times that of W and s.
    """
    return scale**2 / (z.abs() + eps * scale)


@dataclass(frozen=True)
class Residuals:
    """How far W and Z are apart, and how far Z moved.

    primal: ||W - Z|| / ||W||; dual: rho ||Z - Z_prev||; nonzeros: nnz(Z).
    """

    primal: float
    dual: float
    nonzeros: int


class Admm:
    """State of the methods for the prunable weights W of one network, all lists in W's order.

    Starts at Z = W, U = 0.
    """

    STATE = ("Z", "Z_prev", "U")

    def __init__(self, weights: Mapping[str, Tensor], rho: float) -> None:
        self.names = list(weights)
        self.rho = rho
        self.W = [weight.detach() for weight in weights.values()]
        self.Z = [w.clone() for w in self.W]
        self.Z_prev = [w.clone() for w in self.W]
        self.U = [torch.zeros_like(w) for w in self.W]
        self._anchor = torch._foreach_sub(self.Z, self.U)

    def add_gradient_(self, gradients: list[Tensor]) -> None:
        """W-update: add rho (W - Z + U), the gradient of rho/2 ||W - Z + U||^2, to f's gradients."""
        torch._foreach_add_(gradients, self.W, alpha=self.rho)
        torch._foreach_add_(gradients, self._anchor, alpha=-self.rho)

    def _take_(self, v: list[Tensor], z: list[Tensor]) -> None:
        """The new Z, found from v = W + U, and U = v - Z; v is used up."""
        self.Z_prev, self.Z = self.Z, z
        torch._foreach_sub_(v, z)
        self.U = v
        self._anchor = torch._foreach_sub(self.Z, self.U)

    def residuals(self) -> Residuals:
        """Primal and dual residual and nnz(Z), over all prunable weights together."""
        return Residuals(
            primal=_norm(torch._foreach_sub(self.W, self.Z)) / max(_norm(self.W), 1e-30),
            dual=self.rho * _norm(torch._foreach_sub(self.Z, self.Z_prev)),
            nonzeros=sum(int(torch.count_nonzero(z)) for z in self.Z),
        )

    def sparse_copy(self) -> Tensors:
        """Z by parameter name."""
        return dict(zip(self.names, self.Z, strict=True))

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: Mapping[str, list[Tensor]]) -> None:
        for name in self.STATE:
            setattr(self, name, list(state[name]))
        self._anchor = torch._foreach_sub(self.Z, self.U)


class L1Admm(Admm):
    """Soft threshold with the same R = 1 for every weight."""

    def __init__(self, weights: Mapping[str, Tensor], rho: float) -> None:
        super().__init__(weights, rho)
        self.R = [torch.ones_like(w) for w in self.W]

    def lambda_for(self, nonzeros: int) -> float:
        """The lambda whose Z-update leaves so many nonzeros (ties may leave fewer).

        A weight stays nonzero iff |W + U| > lambda R / rho, that is iff rho |W + U| / R > lambda.
        """
        scores = torch._foreach_add(self.W, self.U)
        torch._foreach_abs_(scores)
        torch._foreach_div_(scores, self.R)
        flat = torch.cat([score.flatten() for score in scores])
        if nonzeros >= flat.numel():
            return 0.0
        return self.rho * torch.topk(flat, nonzeros + 1, sorted=False).values.min().item()

    def update_(self, lambda_: float) -> None:
        """One iteration, in this order: Z = S(W + U, lambda R / rho), U += W - Z, R."""
        v = torch._foreach_add(self.W, self.U)
        t = torch._foreach_mul(self.R, lambda_ / self.rho)
        z = torch._foreach_abs(v)
        torch._foreach_sub_(z, t)
        torch._foreach_clamp_min_(z, 0.0)
        torch._foreach_mul_(z, torch._foreach_sign(v))
        self._take_(v, z)
        self._reweight_()

    def _reweight_(self) -> None:
        """R stays."""


class ReweightedAdmm(L1Admm):
    """R = 1 / (|Z| + eps); with `relative`, R = s^2 / (|Z| + eps s) where s is the layer's RMS at the start."""

    STATE = ("Z", "Z_prev", "U", "R")

    def __init__(self, weights: Mapping[str, Tensor], rho: float, eps: float, relative: bool = False) -> None:
        super().__init__(weights, rho)
        scales = [_rms(w) if relative else 1.0 for w in self.W]
        self.squares, self.offsets = [s**2 for s in scales], [eps * s for s in scales]
        self.R = [importance(w, eps, s) for w, s in zip(self.W, scales, strict=True)]

    def _reweight_(self) -> None:
        self.R = torch._foreach_abs(self.Z)
        torch._foreach_add_(self.R, self.offsets)
        torch._foreach_reciprocal_(self.R)
        torch._foreach_mul_(self.R, self.squares)


class L0Admm(Admm):
    """Projection of each layer on its `layers[name]` largest weights (Zhang et al., ECCV 2018)."""

    def __init__(self, weights: Mapping[str, Tensor], rho: float, layers: Mapping[str, int]) -> None:
        super().__init__(weights, rho)
        self.layers = [layers[name] for name in self.names]

    def update_(self) -> None:
        """One iteration, in this order: Z = projection of W + U, U += W - Z."""
        v = torch._foreach_add(self.W, self.U)
        self._take_(v, [project(one, k) for one, k in zip(v, self.layers, strict=True)])


def project(v: Tensor, k: int) -> Tensor:
    """The nearest tensor with at most k nonzeros: the k largest |v| stay; ties go to the lower index."""
    return torch.where(largest({"v": v}, k)["v"], v, 0.0)


def _rms(tensor: Tensor) -> float:
    return max(tensor.square().mean().sqrt().item(), 1e-12)


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(norm.item() ** 2 for norm in torch._foreach_norm(tensors)))
