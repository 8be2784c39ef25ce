"""Steps of DP-SGD: who is sampled, how gradients are clipped, what diverged."""

import logging
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from dd_plugins.api import Transform
from dd_plugins.errors import OptionError, RunError
from dd_privacy.private.accounting import Budget
from dd_privacy.private.dp_sgd import check_finite, check_model_outputs, make_private

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")

BUDGET = Budget(2.5, 1e-5, 1.0, 0.25, 4, "prv")


def seeded(purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(len(purpose))


def made(budget: Budget = BUDGET, count: int = 40, **options: Any) -> Any:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    loader = options.pop("loader", None) or DataLoader(
        TensorDataset(torch.arange(count)), batch_size=10
    )
    return make_private(
        module,
        torch.optim.SGD(module.parameters(), lr=1.0),
        nn.CrossEntropyLoss(),
        loader,
        budget,
        **{"clipping_norm": 1.0, "generator": seeded, **options},
    )


def test_batches_are_drawn_by_coins_from_a_generator_of_their_own() -> None:
    budget = Budget(1, 1e-5, 1.0, 0.025, 40, "prv")
    batches = made(budget, 400).batches
    drawn = [indices.tolist() for (indices,) in batches]
    again = made(budget, 400).batches
    torch.manual_seed(99)
    assert drawn == [indices.tolist() for (indices,) in again]
    sizes = {len(each) for each in drawn}
    assert len(sizes) > 3, "Poisson sampling has batches of many sizes"
    assert all(len(set(each)) == len(each) for each in drawn)


def test_no_log_tells_that_a_batch_is_empty(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("opacus.data_loader").disabled = False
    batches = made().batches
    batches.batch_sampler.sample_rate = 0.0
    assert [len(indices) for (indices,) in batches] == [0] * 4
    assert not caplog.records


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("clipping", ["hooks", "ghost"])
def test_no_example_moves_the_weights_by_more_than_the_clipping_norm(
    clipping: str,
) -> None:
    quiet = Budget(2.5, 1e-5, 1e-6, 0.25, 4, "prv")
    private, optimizer, criterion, _ = made(quiet, clipping=clipping, clipping_norm=0.1)
    before = nn.utils.parameters_to_vector(private.parameters()).detach().clone()
    images = 1000 * torch.ones(1, 3)
    weight, bias = private.parameters()
    label = (images @ weight.T + bias).argmin(dim=1)  # with the greatest gradient
    optimizer.zero_grad()
    criterion(private(images), label).backward()
    optimizer.step()
    after = nn.utils.parameters_to_vector(private.parameters()).detach()
    # The sum is divided by the expected size of a batch: ten.
    assert float((after - before).norm()) == pytest.approx(0.1 / 10, rel=1e-3)


def test_a_loader_must_sample_as_the_budget_says() -> None:
    with pytest.raises(OptionError, match=r"0.5 needs a loader of 2 batches, got 4"):
        made(Budget(2.5, 1e-5, 1.0, 0.5, 4, "prv"))
    data = TensorDataset(torch.arange(40))

    class Own(SequentialSampler):
        pass

    with pytest.raises(OptionError, match="without a sampler, got a Own, whose rates"):
        made(loader=DataLoader(data, batch_size=10, sampler=Own(data)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_an_error_that_names_epsilon(
    value: float,
) -> None:
    module = nn.Linear(3, 2)
    check_finite(module, BUDGET)
    with torch.no_grad():
        module.bias[1] = value
    with pytest.raises(RunError, match=r"weights .* epsilon 2.500 at delta 1e-05 is"):
        check_finite(module, BUDGET)


def test_outputs_that_are_not_finite_are_an_error_too() -> None:
    network: Any = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    transform = Transform(torch.zeros(1), torch.ones(1))
    check_model_outputs(network, transform, (1, 4, 4), BUDGET)
    with torch.no_grad():
        network[1].weight.fill_(3e38)
    with pytest.raises(RunError, match="outputs are not finite"):
        check_model_outputs(network, transform, (1, 4, 4), BUDGET)
