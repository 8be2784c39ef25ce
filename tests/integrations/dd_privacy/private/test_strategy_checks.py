"""Strategies of Avalanche that would void the guarantee."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dd_plugins.errors import OptionError

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
pytest.importorskip("avalanche.training", reason="avalanche-lib is not installed")

from avalanche.training.templates import SupervisedTemplate

from dd_privacy.private.strategy_checks import (
    _METHODS,
    check_strategy,
    check_takes_empty_batch,
)


def strategy(cls: type = SupervisedTemplate, **changes: Any) -> Any:
    """Return a strategy of a class before an experience, without building it."""
    found = cls.__new__(cls)
    attributes: dict[str, Any] = {
        "adapted_dataset": [0, 1],
        "experience": SimpleNamespace(dataset=[0, 1]),
        "plugins": [],
        "_criterion": nn.CrossEntropyLoss(),
        "model": nn.Sequential(nn.Flatten(), nn.Linear(64, 4)),
        **changes,
    }
    for name, value in attributes.items():
        object.__setattr__(found, name, value)
    return found


def test_a_plain_strategy_is_accounted_for() -> None:
    check_strategy(strategy(), ())
    check_strategy(strategy(plugins=["allowed"]), (str,))


@pytest.mark.parametrize("method", _METHODS)
def test_a_loop_of_its_own_is_refused(method: str) -> None:
    own = type("Own", (SupervisedTemplate,), {method: lambda self, *args: None})
    with pytest.raises(OptionError, match=f"keep {method} of .* got Own with its own"):
        check_strategy(strategy(own), ())


def test_data_and_plugins_of_other_experiences_are_refused() -> None:
    with pytest.raises(OptionError, match="images of the experience only, got 3"):
        check_strategy(strategy(adapted_dataset=[0, 1, 2]), ())
    with pytest.raises(OptionError, match=r"carry nothing of the data .* got str,"):
        check_strategy(strategy(plugins=["buffer"]), (int,))


@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(weight=torch.ones(4)),
        nn.CrossEntropyLoss(ignore_index=0),
        nn.MSELoss(),
    ],
)
def test_a_loss_in_which_examples_depend_on_each_other_is_refused(
    criterion: nn.Module,
) -> None:
    with pytest.raises(OptionError, match="must be CrossEntropyLoss"):
        check_strategy(strategy(_criterion=criterion), ())


def test_a_model_with_batch_norm_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(OptionError, match="cannot be trained under differential"):
        check_strategy(strategy(model=model), ())


class NeedsOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> Any:
        return self.layer(images.reshape(len(images), -1))


def test_a_model_that_fails_on_an_empty_batch_is_refused() -> None:
    image = torch.rand(1, 2, 2)
    check_takes_empty_batch(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), image, 0.01)
    with pytest.raises(OptionError, match=r"an empty batch, .* chance of 0\.01, and"):
        check_takes_empty_batch(NeedsOne(), image, 0.01)
