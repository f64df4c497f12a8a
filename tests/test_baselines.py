"""The methods that the reweighted one is compared with: their rules by hand, and what all of them owe."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline import assembly
from pipeline.config import Config
from pipeline.method_params import METHOD_NAMES
from pipeline.pruning import METHODS
from pipeline.pruning.admm import L0Admm, L1Admm, project
from pipeline.pruning.gmp import GmpPhase, survivors_after
from tests.test_admm import tensor
from tests.test_config import ROOT
from tests.test_training import Memory, job


class Settings:
    """Settings of any phase on a toy problem."""

    relative, lambda_ = False, None
    rho, eps, update_every, ramp, lambda_rate = 1.0, 0.1, 5, 0.6, 0.5


def toy() -> dict[str, nn.Parameter]:
    """Two layers; of all ten weights the largest four are 4, -3, 2.5 and 2."""
    return {
        "a": nn.Parameter(torch.tensor([4.0, 0.1, -3.0, 0.2, 0.3])),
        "b": nn.Parameter(torch.tensor([0.5, 2.0, -0.6, 0.7, 2.5])),
    }


def trained(method: str, k: int = 4, steps: int = 600, layers=None) -> assembly.Pruned:
    """A method's phase where the loss draws each weight to its first value."""
    weights = toy()
    targets = {name: weight.detach().clone() for name, weight in weights.items()}
    phase = METHODS[method](weights, k, steps, Settings, layers)
    optimiser = torch.optim.SGD(weights.values(), lr=0.05)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        sum(0.5 * (weights[name] - targets[name]).square().sum() for name in weights).backward()
        phase.before_step()
        optimiser.step()
        phase.after_step(step)
    return phase


def kept(phase) -> dict[str, list[int]]:
    return {name: z.nonzero().flatten().tolist() for name, z in phase.hand_over().Z.items()}


def test_every_method_of_the_parameters_is_in_the_table():
    assert set(METHODS) == set(METHOD_NAMES)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_four_largest(method):
    phase = trained(method)
    assert kept(phase) == {"a": [0, 2], "b": [1, 4]}
    assert phase.hand_over().figures["survivors_asked"] == 4
    assert phase.hand_over().figures["converged"] in (True, None)


def test_projection_by_hand_ties_go_to_the_lower_index():
    assert project(tensor(1.0, -2.0, 2.0, 0.5), 2).tolist() == [0.0, -2.0, 2.0, 0.0]
    assert project(tensor(1.0, -1.0, 1.0), 2).tolist() == [1.0, -1.0, 0.0]


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(0, 12), st.integers(0, 1000))
def test_nothing_with_so_few_nonzeros_is_nearer_than_the_projection(values, k, seed):
    v = tensor(*values)
    z = project(v, k)
    assert z.count_nonzero() <= k
    other = torch.zeros_like(v)
    chosen = torch.randperm(len(v), generator=torch.Generator().manual_seed(seed))[:k]
    other[chosen] = v[chosen]
    assert (v - z).norm() <= (v - other).norm() + 1e-12


def test_one_l0_iteration_by_hand():
    """V = W + U = (3, -0.2, 1) in a layer of one survivor: Z = (3, 0, 0), U = (0, -0.2, 1)."""
    W = tensor(2.0, -0.2, 1.0)
    admm = L0Admm({"w": W}, rho=0.5, layers={"w": 1})
    W += tensor(1.0, 0.0, 0.0)
    admm.update_()
    assert admm.Z[0].tolist() == [3.0, 0.0, 0.0]
    assert torch.allclose(admm.U[0], tensor(0.0, -0.2, 1.0))
    gradient = torch.zeros(3, dtype=torch.float64)
    admm.add_gradient_([gradient])  # rho (W - Z + U)
    assert torch.allclose(gradient, 0.5 * tensor(0.0, -0.4, 2.0))


def test_l1_shrinks_all_weights_alike_for_ever():
    """lambda / rho = 0.5: Z = S((2, -0.6, 0.4), 0.5); R is 1 before and after."""
    admm = L1Admm({"w": tensor(2.0, -0.6, 0.4)}, rho=2.0)
    admm.update_(1.0)
    assert torch.allclose(admm.Z[0], tensor(1.5, -0.1, 0.0))
    assert admm.R[0].tolist() == [1.0, 1.0, 1.0]
    assert "R" not in admm.state_dict()


def test_l0_takes_its_layers_from_the_dense_network_or_from_another_run():
    assert trained("admm-l0").admm.layers == [2, 2]
    copied = trained("admm-l0-copied", layers={"a": 1, "b": 3})
    assert {name: len(places) for name, places in kept(copied).items()} == {"a": 1, "b": 3}


def test_magnitude_is_one_cut_and_says_so():
    phase = METHODS["magnitude"](toy(), 3, 0, None)
    assert kept(phase) == {"a": [0, 2], "b": [4]}
    figures = phase.hand_over().figures
    assert figures["converged"] is None
    assert figures["updates"] == 0
    assert figures["nonzeros_at_handover"] == 10


def test_the_cubic_schedule_by_hand():
    """Of 1,000 weights 100 are left: half way 100 + 900 / 8."""
    assert [survivors_after(part, 1000, 100) for part in (0, 0.5, 1, 1.3)] == [1000, 212, 100, 100]


def test_gmp_never_brings_a_weight_back():
    weights = toy()
    phase = GmpPhase(weights, 4, 100, Settings)
    before = None
    for step in range(1, 101):
        with torch.no_grad():
            for weight in weights.values():
                weight += 0.01
        phase.after_step(step)
        zero = {name: weight == 0 for name, weight in weights.items()}
        if before:
            assert all((zero[name] >= before[name]).all() for name in zero)
        before = zero
    assert sum(int(weight.count_nonzero()) for weight in weights.values()) == 4
    assert [row["nonzeros"] for row in phase.iterations[-8:]] == [4] * 8


def test_a_held_lambda_stays():
    class Held(Settings):
        lambda_ = 0.02

    weights = toy()
    phase = METHODS["reweighted-admm"](weights, 10, 100, Held)
    for step in range(1, 101):
        for weight in weights.values():
            weight.grad = torch.zeros_like(weight)
        phase.after_step(step)
    assert {row["lambda"] for row in phase.iterations} == {0.02}


@pytest.mark.parametrize("method", [name for name in METHODS if name != "magnitude"])
def test_a_phase_goes_on_where_it_was(method):
    """Half a phase, its state into a new one, and the other half: equal to the whole, bit for bit."""
    whole, first, second = toy(), toy(), toy()
    phases = {"whole": METHODS[method](whole, 4, 100, Settings), "first": METHODS[method](first, 4, 100, Settings)}

    def steps(phase, weights, numbers):
        for step in numbers:
            for weight in weights.values():
                weight.grad = 0.1 * weight.detach()
            phase.before_step()
            with torch.no_grad():
                for weight in weights.values():
                    weight -= 0.1 * weight.grad
            phase.after_step(step)

    steps(phases["whole"], whole, range(1, 101))
    steps(phases["first"], first, range(1, 51))
    again = METHODS[method](second, 4, 100, Settings)
    with torch.no_grad():
        for name in second:
            second[name].copy_(first[name])
    again.load_state_dict(phases["first"].state_dict())
    steps(again, second, range(51, 101))
    assert all(torch.equal(whole[name], second[name]) for name in whole)
    assert again.iterations == phases["whole"].iterations


@pytest.mark.parametrize("method", ["magnitude", "gmp", "admm-l0", "admm-l1"])
def test_a_method_leaves_just_the_survivors_asked_for_and_retrains_them(method):
    real = Config(ROOT).experiment("lenet5-methods")
    if method != "magnitude":
        real = real.with_values(method, {"epochs": 2, "update_every": 1})
    block = real.prune.method(method).model_copy(update={"retrain_learning_rate": 5e-3})
    work = job("prune")
    pruning = real.prune.model_copy(update={method.replace("-", "_"): block})
    work = replace(work, experiment=work.experiment.model_copy(update={"prune": pruning, "extra_epochs": 4}))
    dense = work.network().state_dict()
    found = assembly.prune(work, method, 50, dense)
    assert found.figures["survivors"] == sum(found.figures["layers"].values()) == 430_500 // 50
    assert found.rows[-1]["epoch"] == (0 if method == "magnitude" else 2)
    work = replace(work, stage="retrain", checkpoint=Memory())
    network, rows, survivors = assembly.retrain(work, method, found.network.state_dict(), dense)
    assert len(rows) == (4 if method == "magnitude" else 2)
    assert survivors["survivors"] <= 430_500 // 50
    assert max(row["learning_rate"] for row in rows) <= 5e-3
