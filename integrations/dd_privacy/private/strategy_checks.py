"""Checks of an avalanche-lib strategy's training against its accounting."""

import copy
from typing import Any

from avalanche.training.templates import SupervisedTemplate
from torch import nn

from dd_plugins.api import OptionError, one_line
from dd_privacy.private.obstacles import refuse_obstacles

__all__ = ["check_strategy", "check_takes_empty_batch"]

# The methods through which a strategy may use other data than its loader's, or use its
# loader's data in another way.
_METHODS = (
    "training_epoch",
    "train_dataset_adaptation",
    "_unpack_minibatch",
    "forward",
    "criterion",
    "_before_training_exp",
    "_before_training_epoch",
    "_before_training_iteration",
    "_before_forward",
    "_after_forward",
    "_before_backward",
    "_after_backward",
    "_before_update",
    "_after_update",
    "_train_exp",
    "backward",
    "optimizer_step",
)


def check_strategy(strategy: Any, allowed: tuple[type, ...]) -> None:
    """Refuse a strategy whose training differs from the accounted training.

    Args:
        strategy: an Avalanche strategy, before an experience.
        allowed: classes of plugins without private data.

    Raises:
        OptionError: its training differs, or its model cannot be trained by DP-SGD.
    """
    _check_methods(strategy)
    _check_data(strategy, allowed)
    _check_criterion(strategy._criterion)
    refuse_obstacles(strategy.model, "the model")


def _check_methods(strategy: Any) -> None:
    """Refuse a strategy with a training loop of its own."""
    for method in _METHODS:
        own = getattr(type(strategy), method)
        if own is not getattr(SupervisedTemplate, method):
            raise OptionError(
                f"a strategy must keep {method} of SupervisedTemplate, which is "
                f"accounted for, got {type(strategy).__name__} with its own; use a "
                "strategy such as Naive"
            )


def _check_data(strategy: Any, allowed: tuple[type, ...]) -> None:
    """Refuse data of other experiences: added by the strategy, or kept by a plugin."""
    if len(strategy.adapted_dataset) != len(strategy.experience.dataset):
        raise OptionError(
            f"expected the {len(strategy.experience.dataset)} images of the experience "
            f"only, got {len(strategy.adapted_dataset)}: the others would be accounted "
            "for as if they were of this experience alone"
        )
    for plugin in strategy.plugins:
        if not isinstance(plugin, allowed):
            raise OptionError(
                "plugins must carry nothing of the data from one experience to the "
                f"next, got {type(plugin).__name__}, which may and would void the "
                "guarantee; if it does not, name its class in allowed="
            )


def _check_criterion(criterion: Any) -> None:
    """Refuse a loss in which one example's term depends on other examples."""
    if (
        type(criterion) is not nn.CrossEntropyLoss
        or criterion.reduction != "mean"
        or criterion.weight is not None
        or criterion.ignore_index >= 0
    ):
        raise OptionError(
            "the criterion must be CrossEntropyLoss() without weights, the plain "
            f"mean over a batch, got {criterion!r}: else what one example adds "
            "depends on the others"
        )


def check_takes_empty_batch(module: nn.Module, image: Any, chance: float) -> None:
    """Refuse a model that fails on an empty batch, before it spends anything.

    Args:
        module: prepared for Opacus; not changed.
        image: one of its inputs.
        chance: the probability of an empty batch.

    Raises:
        OptionError: the model fails.
    """
    trial = copy.deepcopy(module).train()
    device = next(trial.parameters()).device
    try:
        trial(image[None][:0].to(device))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = one_line(error)
        raise OptionError(
            "the model must take an empty batch, which comes with a chance of "
            f"{chance:.2g}, and fails ({reason}); raise train_mb_size, or flatten by "
            "flatten(1)"
        ) from error
