"""Private training in avalanche-lib: each experience under differential privacy."""

import copy
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.clock import Clock
from avalanche.training.templates.base_sgd import PeriodicEval
from opacus.grad_sample import AbstractGradSampleModule
from torch import nn
from torch.utils.data import DataLoader

from dd_plugins.api import OptionError, RunError
from dd_privacy.private.accounting import Budget
from dd_privacy.private.dp_sgd import make_private
from dd_privacy.private.example_gradients import check_example_gradients
from dd_privacy.private.model import not_covered_by_epsilon
from dd_privacy.private.obstacles import prepare_for_opacus
from dd_privacy.private.strategy_checks import (
    check_strategy,
    check_takes_empty_batch,
)
from dd_privacy.private.trainer import PrivateTrainer

__all__ = ["PrivateTrainingPlugin"]

_NEVER = 1e-9  # a smaller probability counts as 0


class PrivateTrainingPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Trains a strategy on each experience by DP-SGD.

    Avalanche makes its own loader for each experience. So the epsilon of a model made
    private before the strategy is built has no meaning: its batches differ from those
    accounted for. For each experience this plugin replaces Avalanche's loader of the
    adapted data by one with Poisson sampling. After the experience it restores the
    plain model and optimizer.

    Other plugins may carry private data from one experience to the next (replay
    buffers, importance weights), and the accounting would miss it. So every other
    plugin is refused, unless its class is in ``allowed``.

    A batch may be empty: its step is taken and accounted for like any other, and
    metrics skip it. The budgets are saved and restored with a stream, both by
    ``dd_avalanche.save_stream`` and by Avalanche's ``save_checkpoint``.

    Args:
        epsilon: the greatest epsilon that an experience may spend.
        delta: the delta of a training; by default a tenth of one over the number of
            images of the experience.
        clipping_norm: the largest norm of a clipped gradient of a single example.
        seed: a seed for a repeatable run; see :class:`PrivateTrainer`.
        disjoint: whether no image is in two experiences, as when they divide the
            classes among them. Their epsilons then do not add up.
        allowed: classes of further plugins without private data.

    Attributes:
        budgets: spent budgets by the number of the experience in its stream; one for
            each training on it.

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
        self._budget: Budget | None = None
        self._made = 0
        self._shape: tuple[int, ...] = ()

    @property
    def epsilon_spent(self) -> float:
        """The epsilon spent by the whole stream.

        It is the sum over all trainings, at :attr:`delta_spent`. If experiences share
        no image (``disjoint``), it is the greatest of the experiences' own sums, by
        parallel composition.
        """
        return self._spent(lambda budget: budget.epsilon)

    @property
    def delta_spent(self) -> float:
        """The delta of :attr:`epsilon_spent`, composed like it."""
        return self._spent(lambda budget: budget.delta)

    def _spent(self, part: Callable[[Budget], float]) -> float:
        spent = [sum(map(part, each)) for each in self.budgets.values()]
        return max(spent, default=0.0) if self.disjoint else sum(spent, 0.0)

    @property
    def not_covered(self) -> list[str]:
        """The limits of epsilon's protection."""
        return not_covered_by_epsilon(self.trainer.seed is not None)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Make model, optimizer and loader private.

        Raises:
            OptionError: a plugin, the criterion or the model of the strategy voids the
                guarantee, or the model fails on an empty batch where one may occur.
        """
        if isinstance(strategy.model, AbstractGradSampleModule):  # training failed
            self._put_back(strategy)
        check_strategy(strategy, self.allowed)
        # Opacus's hooks on the first layer warn that images take no gradient.
        warnings.filterwarnings(
            "ignore", message="Full backward hook is firing", category=UserWarning
        )
        data = strategy.adapted_dataset
        loader = DataLoader(data, batch_size=strategy.train_mb_size)
        budget = self.trainer.budget(
            len(data), batch_size=strategy.train_mb_size, epochs=strategy.train_epochs
        )
        module, shape = _prepared(strategy.model, data, budget)
        # Replaced layers kept their parameters, so the optimizer still has all of them.
        self._optimizer = strategy.optimizer
        experience = strategy.experience.current_experience
        training = sum(map(len, self.budgets.values()))
        # Booked before the first step: failed training has spent it as well.
        self.budgets[experience].append(budget)
        self._budget, self._made, self._shape = budget, 0, shape
        module.train()
        private = make_private(
            module,
            strategy.optimizer,
            strategy._criterion,
            loader,
            budget,
            clipping_norm=self.trainer.clipping_norm,
            generator=partial(self.trainer.generator, training=training),
        )
        # Opacus computes the number of batches from the rate, and gets 92 for 93.
        private.batches.batch_sampler.steps = len(loader)
        strategy.model, strategy.optimizer = private.module, private.optimizer
        evaluators = [p for p in strategy.plugins if isinstance(p, EvaluationPlugin)]
        strategy.dataloader = _Batches(private.batches, evaluators)

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Count the steps.

        Raises:
            RunError: training goes beyond the accounted steps.
        """
        if self._budget is not None and self._made == self._budget.steps:
            self._put_back(strategy)
            raise RunError(
                f"training must end after the {self._made} steps that were accounted "
                f"for, got step {self._made + 1}; let no plugin lengthen it"
            )
        self._made += 1

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Stop diverged training.

        It reads only weights: differential privacy covers them, but not a loss on
        images.

        Raises:
            RunError: a weight is not finite; the error names the spent epsilon.
        """
        weights = strategy.model.parameters()
        if not all(bool(torch.isfinite(value).all()) for value in weights):
            self._stop(strategy, f"weights are not finite after step {self._made}")

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Put the plain model and optimizer back.

        Raises:
            RunError: the outputs for an image of ones are not finite; the error names
                the spent epsilon.
        """
        self._put_back(strategy)
        model = copy.deepcopy(strategy.model).eval()
        with torch.no_grad():
            outputs = model(torch.ones(1, *self._shape, device=strategy.device))
        if not bool(torch.isfinite(outputs).all()):
            self._stop(strategy, "the outputs of the model are not finite")

    def state_dict(self) -> dict[str, Any]:
        """Return the spent budgets."""
        spent = {
            experience: [asdict(budget) for budget in each]
            for experience, each in self.budgets.items()
        }
        return {"spent": spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the spent budgets.

        Raises:
            OptionError: this plugin has spent a budget missing from the state.
        """
        spent = {
            int(experience): [Budget(**about) for about in each]
            for experience, each in state["spent"].items()
        }
        forgotten = [
            experience
            for experience, each in self.budgets.items()
            if each != spent.get(experience, [])[: len(each)]
        ]
        if forgotten:
            raise OptionError(
                "a state must hold all that this plugin has spent, got one without a "
                f"budget of experience {forgotten[0]}; restore into a new plugin"
            )
        self.budgets = defaultdict(list, spent)

    def _stop(self, strategy: Any, reason: str) -> None:
        """Put the plain model back, and name the spent epsilon.

        Raises:
            RunError: always.
        """
        self._put_back(strategy)
        assert self._budget is not None
        raise RunError(
            f"training diverged: {reason}; epsilon {self._budget.epsilon:.3g} at delta "
            f"{self._budget.delta:.3g} was booked for this experience and is spent, "
            f"{self.epsilon_spent:.3g} in all; lower the learning rate, and start from "
            "a new model"
        )

    def _put_back(self, strategy: Any) -> None:
        """Put the plain model and optimizer back, if they are not there already."""
        if not isinstance(strategy.model, AbstractGradSampleModule):
            return
        strategy.model = strategy.model.to_standard_module()
        strategy.optimizer = self._optimizer
        for parameter in strategy.model.parameters():
            parameter.grad = None
        self._optimizer = None


class _Batches:
    """A loader whose empty batches switch off the metrics.

    Avalanche's metrics divide by the size of a batch. They stay off until the loop asks
    for the next batch.
    """

    def __init__(
        self, loader: "DataLoader[Any]", evaluators: list[EvaluationPlugin]
    ) -> None:
        self._loader, self._evaluators = loader, evaluators

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            active = [each.active for each in self._evaluators]
            try:
                if not len(batch[0]):
                    for each in self._evaluators:
                        each.active = False
                yield batch
            finally:
                for each, before in zip(self._evaluators, active, strict=True):
                    each.active = before

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader, name)


def _prepared(
    model: nn.Module, data: Any, budget: Budget
) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a model prepared for Opacus, and the shape of an image.

    Raises:
        OptionError: its gradients of single examples are wrong, or it fails on an empty
            batch where one may occur.
    """
    module = prepare_for_opacus(model)
    image = data[0][0]
    shape = tuple(image.shape)
    classes = 1 + int(torch.as_tensor([int(label) for label in data.targets]).max())
    check_example_gradients(module, shape, classes)
    chance = (1 - budget.sample_rate) ** len(data)
    if chance * budget.steps > _NEVER:
        check_takes_empty_batch(module, image, chance)
    return module, shape
