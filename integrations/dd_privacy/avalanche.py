"""Private training in avalanche-lib: each experience under differential privacy."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates import SupervisedTemplate
from avalanche.training.templates.base_sgd import PeriodicEval
from opacus.grad_sample import AbstractGradSampleModule
from torch import nn
from torch.utils.data import DataLoader

from dd_plugins.errors import OptionError
from dd_privacy.accounting import Budget
from dd_privacy.private import PrivateTrainer, make_private, what_is_not_covered
from dd_privacy.validation import (
    check_example_gradients,
    module_obstacles,
    prepare_for_opacus,
)

__all__ = ["PrivateTrainingPlugin"]

# Where strategies draw other data than a loader's, or use them in another way.
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


class PrivateTrainingPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Trains a strategy on each experience by DP-SGD.

    Avalanche makes its own loader for each experience. Making a model private before
    the strategy is built therefore gives an epsilon that means nothing: its batches
    are not those that were accounted for. This plugin makes a loader with Poisson
    sampling for the adapted data of each experience, after Avalanche's own, and puts
    model and optimizer back when the experience is over.

    What other plugins carry from one experience to the next (replay buffers, importance
    weights) is not accounted for, so every plugin that is not named in ``allowed`` is
    refused.

    Args:
        epsilon: the most that may be spent on an experience.
        delta: by default a tenth of one over the images of the experience.
        clipping_norm: to which the gradient of an example is clipped.
        seed: see :class:`PrivateTrainer`.
        disjoint: whether no image is in two experiences, as where classes are divided
            among them; then what they spend does not add up.
        allowed: classes of plugins that carry nothing of the data.

    Attributes:
        budgets: what was spent, by the number of the experience in its stream; several
            where one was trained on again.

    Example:
        >>> plugin = PrivateTrainingPlugin(epsilon=4.0)
        >>> plugin.epsilon_spent
        0.0
    """

    def __init__(
        self,
        epsilon: float,
        *,
        delta: float | None = None,
        clipping_norm: float = 1.0,
        seed: int | None = None,
        disjoint: bool = False,
        allowed: Sequence[type] = (),
    ) -> None:
        super().__init__()
        self.trainer = PrivateTrainer(
            epsilon=epsilon, delta=delta, clipping_norm=clipping_norm, seed=seed
        )
        own = (Clock, EvaluationPlugin, PeriodicEval, PrivateTrainingPlugin)
        self.allowed = (*own, *allowed)
        self.budgets: dict[int, list[Budget]] = defaultdict(list)
        self.disjoint = disjoint
        self._optimizer: torch.optim.Optimizer | None = None

    @property
    def epsilon_spent(self) -> float:
        """What the whole stream has spent.

        The sum over all trainings, at the sum of their deltas; the greatest of the
        experiences, each with the sum of its own trainings, if they share no image
        (``disjoint``: parallel composition).
        """
        spent = [sum(b.epsilon for b in each) for each in self.budgets.values()]
        return max(spent, default=0.0) if self.disjoint else sum(spent, 0.0)

    @property
    def not_covered(self) -> list[str]:
        """What epsilon says nothing of."""
        return what_is_not_covered(self.trainer.seed is not None)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Make model, optimizer and loader private.

        Raises:
            OptionError: the strategy has a plugin, a criterion or a model with which
                the guarantee would not hold.
        """
        if isinstance(strategy.model, AbstractGradSampleModule):  # training failed
            self.after_training_exp(strategy)
        self._check(strategy)
        warnings.filterwarnings(  # the hooks of the first layer see no image's gradient
            "ignore", message="Full backward hook is firing", category=UserWarning
        )
        data = strategy.adapted_dataset
        loader = DataLoader(data, batch_size=strategy.train_mb_size)
        budget = self.trainer.budget(
            len(data), batch_size=strategy.train_mb_size, epochs=strategy.train_epochs
        )
        module = prepare_for_opacus(strategy.model)
        image = data[0][0]
        classes = 1 + int(torch.as_tensor([int(y) for y in data.targets]).max())
        check_example_gradients(module, tuple(image.shape), classes)
        # The layers that were replaced kept their parameters, and the optimizer them.
        self._optimizer = strategy.optimizer
        experience = strategy.experience.current_experience
        training = sum(map(len, self.budgets.values()))
        self.budgets[experience].append(budget)  # before the first step: it may fail
        module.train()
        private, optimizer, _, batches = make_private(
            module,
            strategy.optimizer,
            strategy._criterion,
            loader,
            budget,
            clipping_norm=self.trainer.clipping_norm,
            generator=partial(self.trainer.generator, training=training),
        )
        strategy.model, strategy.optimizer = private, optimizer
        strategy.dataloader = batches

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Put the plain model and optimizer back."""
        strategy.model = strategy.model.to_standard_module()
        strategy.optimizer = self._optimizer
        for parameter in strategy.model.parameters():
            parameter.grad = None
        self._optimizer = None

    def _check(self, strategy: Any) -> None:
        for method in _METHODS:
            own = getattr(type(strategy), method)
            if own is not getattr(SupervisedTemplate, method):
                raise OptionError(
                    f"{type(strategy).__name__} has a {method} of its own, which is "
                    "not accounted for; use a strategy such as Naive"
                )
        if len(strategy.adapted_dataset) != len(strategy.experience.dataset):
            raise OptionError(
                "the data of the experience were added to; their images would be "
                "accounted for as if they were of this experience alone"
            )
        for plugin in strategy.plugins:
            if not isinstance(plugin, self.allowed):
                raise OptionError(
                    f"{type(plugin).__name__} may carry what is not accounted for from "
                    "one experience to the next, and the guarantee would be void; if "
                    "it carries nothing of the data, name its class in allowed="
                )
        criterion = strategy._criterion
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
        obstacles = module_obstacles(strategy.model)
        if obstacles:
            reason = " ".join(obstacles[0].split())
            raise OptionError(
                f"the model cannot be trained under differential privacy: {reason}"
            )
