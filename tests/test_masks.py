"""Selecting exactly k, and masks that fit their network."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ArtifactError
from pipeline.pruning.masks import apply_, check_masks, largest, prunable_weights, survivors_asked


def test_prunable_are_weights_of_convolutions_and_linear_layers_only():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    assert list(prunable_weights(network)) == ["0.weight", "3.weight"]


def test_survivors_of_the_headline():
    assert survivors_asked(430_500, 355.9) == 1209


def test_ties_go_to_the_lower_index_across_tensors():
    masks = largest({"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[2.0], [1.0]])}, 3)
    assert masks["a"].tolist() == [True, True]
    assert masks["b"].tolist() == [[True], [False]]


def test_a_zero_is_never_kept():
    masks = largest({"a": torch.tensor([0.0, 5.0, -0.0])}, 2)
    assert masks["a"].tolist() == [False, True, False]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(0, 50))
def test_exactly_k_or_all_nonzeros(values, k):
    tensor = torch.tensor(values, dtype=torch.float32)
    mask = largest({"w": tensor}, k)["w"]
    assert int(mask.sum()) == min(k, int(torch.count_nonzero(tensor)))
    if mask.any() and not mask.all():
        assert tensor[mask].abs().min() >= tensor[~mask].abs().max() or not (tensor[~mask] != 0).any()


def test_apply_leaves_positive_zeros_even_where_nan_or_negative():
    weight = torch.tensor([-1.0, float("nan"), 2.0])
    apply_({"w": weight}, {"w": torch.tensor([False, False, True])})
    assert weight.tolist() == [0.0, 0.0, 2.0]
    assert not torch.signbit(weight).any()


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"v": torch.ones(3, dtype=torch.bool)}, "another network"),
        ({"w": torch.ones(2, dtype=torch.bool)}, r"shape \(3,\)"),
        ({"w": torch.ones(3)}, "float32"),
    ],
)
def test_masks_that_do_not_fit_are_named(masks, said):
    with pytest.raises(ArtifactError, match=said):
        check_masks(masks, {"w": torch.ones(3)})
