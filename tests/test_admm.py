"""The method's equations against values worked out by hand, and their invariants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.pruning.admm import ReweightedAdmm, importance, soft_threshold
from pipeline.pruning.control import LambdaController, converged
from pipeline.pruning.reweighted_admm import ReweightedAdmmPhase

numbers = st.floats(-10, 10, width=32, allow_nan=False)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_soft_threshold_by_hand():
    found = soft_threshold(tensor(3.0, -3.0, 0.5, -0.5, 1.0, 0.0), 1.0)
    assert found.tolist() == [2.0, -2.0, 0.0, 0.0, 0.0, 0.0]


@given(st.lists(numbers, min_size=1, max_size=20), st.floats(0, 5), numbers)
def test_soft_threshold_minimises_its_objective(values, threshold, other):
    v = tensor(*values)
    z = soft_threshold(v, threshold)

    def objective(candidate):
        return threshold * candidate.abs() + 0.5 * (candidate - v) ** 2

    assert (objective(z) <= objective(torch.full_like(v, other)) + 1e-9).all()
    assert (objective(z) <= objective(torch.zeros_like(v)) + 1e-9).all()


def test_importance_by_hand():
    assert importance(tensor(0.0, -0.25), 0.25).tolist() == [4.0, 2.0]


def test_relative_importance_by_hand():
    """s = 2: R = 4 / (|Z| + 0.25 * 2)."""
    assert importance(tensor(0.0, -1.5), 0.25, 2.0).tolist() == [8.0, 2.0]


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.125, 2.0, 16.0]))
def test_relative_pruning_does_not_see_the_scale_of_a_layer(seed, scale):
    """Scaling a layer's weights scales its Z, and changes neither its zeros nor any other layer's Z."""
    random = torch.Generator().manual_seed(seed)
    first, second, moved = (torch.randn(30, generator=random, dtype=torch.float64) for _ in range(3))
    found = []
    for factor in (1.0, scale):
        weights = {"a": first * factor, "b": second.clone()}
        admm = ReweightedAdmm(weights, rho=0.1, eps=0.2, relative=True)
        for _ in range(2):
            weights["a"] += moved * factor
            admm.update_(admm.lambda_for(20))
        found.append([admm.Z[0] / factor, admm.Z[1]])
    for plain, scaled in zip(*found, strict=True):
        assert torch.allclose(plain, scaled)
        assert torch.equal(plain == 0, scaled == 0)


def test_one_iteration_by_hand():
    """rho = 0.5, eps = 1, lambda = 0.5: start Z = W = (2, -0.2), U = 0, R = (1/3, 1/1.2)."""
    W = tensor(2.0, -0.2)
    admm = ReweightedAdmm({"w": W}, rho=0.5, eps=1.0)
    assert torch.allclose(admm.R[0], tensor(1 / 3, 1 / 1.2))
    W += tensor(1.0, 0.0)  # the W-update happens in place
    admm.update_(0.5)
    # V = W + U = (3, -0.2), thresholds lambda R / rho = (1/3, 0.8333): Z = (8/3, 0)
    assert torch.allclose(admm.Z[0], tensor(8 / 3, 0.0))
    assert torch.allclose(admm.U[0], tensor(1 / 3, -0.2))
    assert torch.allclose(admm.R[0], tensor(1 / (8 / 3 + 1), 1.0))
    found = admm.residuals()
    assert found.nonzeros == 1
    assert found.primal == pytest.approx(math.hypot(1 / 3, 0.2) / math.hypot(3, 0.2))
    assert found.dual == pytest.approx(0.5 * math.hypot(2 / 3, 0.2))


def test_gradient_is_that_of_the_penalty():
    """rho (W - Z + U) is the gradient of rho/2 ||W - Z + U||^2: the square matters."""
    W = tensor(1.0, -2.0, 0.3).requires_grad_()
    admm = ReweightedAdmm({"w": W}, rho=0.7, eps=0.1)
    with torch.no_grad():
        W += tensor(0.5, 0.5, -0.5)
    admm.update_(0.01)
    with torch.no_grad():
        W += tensor(0.1, -0.2, 0.3)
    (0.35 * (W - admm.Z[0] + admm.U[0]).square().sum()).backward()
    gradient = torch.zeros(3, dtype=torch.float64)
    admm.add_gradient_([gradient])
    assert torch.allclose(gradient, W.grad)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 199))
def test_lambda_leaves_the_nonzeros_asked_for(seed, nonzeros):
    random = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(10, 10, generator=random), "b": torch.randn(100, generator=random)}
    admm = ReweightedAdmm(weights, rho=0.01, eps=0.01)
    admm.update_(admm.lambda_for(nonzeros))
    assert abs(admm.residuals().nonzeros - nonzeros) <= 1  # rounding at the very threshold


def test_without_zeros_asked_for_lambda_is_zero():
    assert ReweightedAdmm({"w": tensor(1.0, 2.0)}, 1.0, 1.0).lambda_for(2) == 0.0


def test_the_state_goes_on_where_it_was():
    random = torch.Generator().manual_seed(0)
    W = torch.randn(50, generator=random)
    admm, again = ReweightedAdmm({"w": W}, 0.1, 0.01), ReweightedAdmm({"w": W}, 0.1, 0.01)
    admm.update_(0.002)
    again.load_state_dict(admm.state_dict())
    for one in (admm, again):
        one.update_(0.003)
    for ours, theirs in zip(admm.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(ours[0], theirs[0])
    gradients = [torch.zeros(50)], [torch.zeros(50)]
    admm.add_gradient_(gradients[0])
    again.add_gradient_(gradients[1])
    assert torch.equal(gradients[0][0], gradients[1][0])


def test_controller_falls_from_all_to_a_little_above_k():
    controller = LambdaController(weights=10_000, k=100, updates=100, ramp=0.5, rate=0.5)
    asked = [controller.nonzeros_asked(update) for update in range(101)]
    assert asked[0] == 10_000
    assert asked == sorted(asked, reverse=True)
    assert set(asked[50:]) == {102}


def test_controller_moves_lambda_by_a_bounded_factor():
    controller = LambdaController(weights=10, k=1, updates=10, ramp=0.5, rate=0.5)
    assert controller.step(1e-4) == 1e-4
    assert controller.step(1.0) == pytest.approx(1.5e-4)
    assert controller.step(0.0) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("nonzeros", "primal", "expected"),
    [(100, 0.05, True), (105, 0.05, True), (106, 0.05, False), (99, 0.05, False), (100, 0.1, False)],
)
def test_hand_over_conditions(nonzeros, primal, expected):
    assert converged(nonzeros, 100, primal) is expected


class Blunt:
    """Settings of a phase on a toy problem."""

    relative, lambda_ = False, None
    rho, eps, update_every, ramp, lambda_rate = 1.0, 0.1, 5, 0.6, 0.5


def test_the_phase_finds_the_large_weights_by_itself():
    """f(W) = 1/2 ||W - target||^2: the 3 large targets survive, and Z reaches k without a hard cut."""
    target = torch.cat([torch.tensor([3.0, -2.0, 4.0]), torch.linspace(-0.5, 0.5, 17)])
    weight = nn.Parameter(target.clone())
    phase = ReweightedAdmmPhase({"w": weight}, k=3, steps=2000, settings=Blunt)
    optimiser = torch.optim.SGD([weight], lr=0.05)
    for step in range(1, 2001):
        optimiser.zero_grad()
        (0.5 * (weight - target).square().sum()).backward()
        phase.before_step()
        optimiser.step()
        phase.after_step(step)
    handover = phase.hand_over()
    assert handover.figures["nonzeros_at_handover"] == 3
    assert handover.figures["converged"]
    assert handover.Z["w"].nonzero().flatten().tolist() == [0, 1, 2]
    assert len(phase.iterations) == 400
