"""A network that an artifact names is measured before anything of it is built."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import dd_plugins
from dd_plugins import AbstractNetwork, DistilledSet, record
from dd_plugins.api import FeatureNetwork, get_network
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.networks_of_set import own_network, refuse_huge
from dd_plugins.networks.mlp import MLP
from dd_plugins.testing import toy_data

MOST = 250_000_000  # parameters, as the docs of the artifact say
MOST_TENSORS = 10_000


@pytest.fixture(scope="module")
def distilled() -> DistilledSet:
    return dd_plugins.distill(toy_data(), "random", steps=1, network="mlp(width=2)")


class Body(nn.Module):
    """Holds tensors of so many values each, made one by one."""

    made: ClassVar[list[torch.device]] = []

    def __init__(self, sizes: Iterator[int]) -> None:
        super().__init__()
        self.parts = nn.ParameterList()
        for size in sizes:
            self.parts.append(nn.Parameter(torch.empty(size)))
            self.made.append(self.parts[-1].device)


@record
class Sized(AbstractNetwork):
    """A network of as many tensors of as many values as it is told."""

    name = "sized"

    thousands: int = 1
    rest: int = 0
    tensors: int = 1

    def construct(self, *given: Any, **options: Any) -> FeatureNetwork:
        size = 1000 * self.thousands
        sizes = (size + self.rest * (not n) for n in range(self.tensors))
        head = nn.Linear(1, 1, bias=False)
        return FeatureNetwork(Body(sizes), head)


@pytest.fixture(autouse=True)
def _nothing_made() -> None:
    Body.made.clear()


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"thousands": 12_500, "tensors": 20, "rest": -1}, False),
        ({"thousands": 12_500, "tensors": 20, "rest": 0}, True),
        ({"thousands": 0, "tensors": MOST_TENSORS - 1}, False),
        ({"thousands": 0, "tensors": MOST_TENSORS}, True),
        ({"thousands": 0, "rest": 20_001}, True),
        ({"thousands": 0, "rest": 20_000}, False),
    ],
)
def test_a_network_may_be_as_large_as_the_bound_and_no_larger(
    distilled: DistilledSet, options: dict[str, int], refused: bool
) -> None:
    """The head is one tensor of one value more."""
    network = Sized(**options)
    if refused:
        with pytest.raises(OptionError, match=r"sized\(.*250,000,000"):
            refuse_huge(network, distilled)
    else:
        refuse_huge(network, distilled)
    assert set(Body.made) <= {torch.device("meta")}, "it has taken memory"


def test_a_huge_network_is_built_no_further_than_its_size_is_known(
    distilled: DistilledSet,
) -> None:
    with pytest.raises(OptionError):
        refuse_huge(Sized(thousands=20_000, tensors=20_000), distilled)
    assert len(Body.made) == MOST // 20_000_000


@pytest.mark.parametrize(
    "spec", ["mlp(width=10_000)", "vit(width=768, depth=12)", "conv(width=2000)"]
)
def test_a_big_network_is_taken_without_building_it(
    distilled: DistilledSet, spec: str
) -> None:
    header = distilled.header.model_copy(update={"evaluation_network": spec})
    found = own_network(replace(distilled, header=header), get_network)
    assert found == get_network(spec)


def test_measuring_leaves_torch_as_it_was(distilled: DistilledSet) -> None:
    state = torch.random.get_rng_state()
    refuse_huge(MLP(width=100), distilled)
    with pytest.raises(OptionError):
        refuse_huge(MLP(width=20_000), distilled)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert nn.Linear(2, 2).weight.device == torch.device("cpu")
    assert len(Body(iter([1] * (MOST_TENSORS + 1))).parts) > MOST_TENSORS, "uncounted"


@record
class Reading(AbstractNetwork):
    """It looks at its weights while it is made, which "meta" does not allow."""

    name = "reading"

    def construct(self, *given: Any, **options: Any) -> FeatureNetwork:
        body = nn.Linear(64, 2)
        assert float(body.weight.sum()) < 1e9
        return FeatureNetwork(body, nn.Linear(2, 2))


def test_a_network_that_cannot_be_measured_is_given_the_benefit_of_the_doubt(
    distilled: DistilledSet,
) -> None:
    refuse_huge(Reading(), distilled)
