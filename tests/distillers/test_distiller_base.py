"""What a method does that says nothing: the defaults of a distiller."""

from typing import Any

import pytest
import torch

import dd_plugins
from dd_plugins.api import (
    AbstractDistiller,
    Leaves,
    NoState,
    OptionError,
    Parameters,
    RealData,
    RealSampler,
    Run,
    Task,
    add_gradient,
    classic_recipe,
    frepo_recipe,
    get_network,
    record,
)


@record
class Least(AbstractDistiller[NoState]):
    """It defines what it must."""

    name = "least"

    def accumulate(self, *given: Any) -> Any:
        return {}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.25)


def run_of(per_class: int = 1, seed: int = 0, rank: int = 0) -> Run:
    task = Task("toy", (1, 4, 4), 3, per_class)
    network = get_network("mlp(width=2)")
    device = torch.device("cpu")
    return Run(task, "least", network, 5, seed, device, rank=rank, ranks=2)


def sampler(*labels: int) -> RealSampler:
    images = torch.zeros(len(labels), 1, 4, 4)
    device = torch.device("cpu")
    return RealSampler(images, torch.tensor(labels), seed=0, device=device)


LABELS = tuple(place % 3 for place in range(60))


@pytest.mark.parametrize("per_class", [1, 4, 20])
def test_first_images_are_drawn_class_by_class_none_twice(per_class: int) -> None:
    chosen = Least().choose(run_of(per_class), sampler(*LABELS))
    labels = torch.tensor(LABELS)[chosen]
    assert labels.tolist() == sorted([0, 1, 2] * per_class)
    assert len(set(chosen.tolist())) == len(chosen)


def test_first_images_are_a_function_of_the_seed_in_every_process() -> None:
    method, real = Least(), sampler(*LABELS)
    first = method.choose(run_of(4), real)
    assert torch.equal(first, method.choose(run_of(4, rank=1), real))
    assert not torch.equal(first, method.choose(run_of(4, seed=1), real))


def test_a_class_with_too_few_images_is_named() -> None:
    with pytest.raises(OptionError, match="class 2"):
        Least().choose(run_of(2), sampler(0, 0, 1, 1, 2))


@pytest.mark.parametrize("kind", ["regression", "probabilities", "classes"])
@pytest.mark.parametrize("images", [10, 5_000])
def test_the_recipe_goes_by_the_kind_of_labels(kind: Any, images: int) -> None:
    method = type("Of", (Least,), {"label_kind": kind})()
    usual = frepo_recipe if kind == "regression" else classic_recipe
    assert method.recipe(run_of().task, images, {}) == usual(images)


def test_labels_are_one_hot_and_saved_as_they_are() -> None:
    labels = Least().initial_labels(torch.tensor([2, 0]), 3)
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0, 0, 1], [1, 0, 0]]
    leaves = Leaves(torch.zeros(2, 1, 4, 4), labels * 0.5, torch.tensor([2, 0]))
    assert Least().labels(NoState(run_of()), leaves) is leaves.labels


def test_gradients_are_added_and_what_is_given_stays_the_giver_s() -> None:
    leaf, given = torch.zeros(2, requires_grad=True), torch.tensor([1.0, 2.0])
    add_gradient(leaf, given)
    assert leaf.grad is not None
    first = leaf.grad
    assert first is not given
    add_gradient(leaf, given)
    assert leaf.grad.tolist() == [2.0, 4.0]
    leaf.grad.mul_(3)
    assert given.tolist() == [1.0, 2.0]
    assert first.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "spec", ["frepo", "frepo(learn_labels=False)", "dsa", "kip", "mtt", "clip(kip)"]
)
def test_a_method_with_a_constant_loss_refuses_a_single_class(spec: str) -> None:
    data = RealData.from_values(torch.rand(6, 1, 8, 8), torch.zeros(6).long())
    wanted = "expected at least two classes to tell apart, got 1; take dm"
    with pytest.raises(OptionError, match=wanted):
        dd_plugins.distill(data, spec, network="mlp(width=2)", steps=1)


@pytest.mark.parametrize("spec", ["dm", "random", "rotated(frepo(pool_size=1))"])
def test_a_single_class_is_distilled_where_the_loss_is_not_constant(spec: str) -> None:
    data = RealData.from_values(torch.rand(6, 1, 8, 8), torch.zeros(6).long())
    made = dd_plugins.distill(data, spec, network="conv(width=2, depth=1)", steps=1)
    assert made.labels.shape == (1, 1)
