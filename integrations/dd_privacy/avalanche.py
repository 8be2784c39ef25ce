"""Private training in avalanche-lib: each experience under differential privacy."""

import copy
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
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

from dd_plugins.api import OptionError, RunError
from dd_privacy.accounting import Budget
from dd_privacy.private import PrivateTrainer, make_private, what_is_not_covered
from dd_privacy.validation import (
    check_example_gradients,
    module_obstacles,
    prepare_for_opacus,
)

__all__ = ["PrivateTrainingPlugin"]

_NEVER = 1e-9  # a chance that is not reckoned with

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

    A batch may be empty: its step is made and accounted for like any other, and metrics
    are not asked about it. What was spent is saved and restored with a stream, by
    ``dd_avalanche.save_stream`` as by Avalanche's ``save_checkpoint``.

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
        self._budget: Budget | None = None
        self._made = 0
        self._shape: tuple[int, ...] = ()

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
                the guarantee would not hold; or a model that takes no empty batch,
                where one may come.
        """
        if isinstance(strategy.model, AbstractGradSampleModule):  # training failed
            self._put_back(strategy)
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
        empty = (1 - budget.sample_rate) ** len(data)
        if empty * budget.steps > _NEVER:
            _check_takes_nothing(module, image, empty)
        # The layers that were replaced kept their parameters, and the optimizer them.
        self._optimizer = strategy.optimizer
        experience = strategy.experience.current_experience
        training = sum(map(len, self.budgets.values()))
        self.budgets[experience].append(budget)  # before the first step: it may fail
        self._budget, self._made, self._shape = budget, 0, tuple(image.shape)
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
        # Opacus rounds one over the rate down: 92 steps for 93 batches.
        batches.batch_sampler.steps = len(loader)
        strategy.model, strategy.optimizer = private, optimizer
        evaluators = [p for p in strategy.plugins if isinstance(p, EvaluationPlugin)]
        strategy.dataloader = _Batches(batches, evaluators)

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Count the steps.

        Raises:
            RunError: there would be more of them than were accounted for.
        """
        if self._budget is not None and self._made == self._budget.steps:
            self._put_back(strategy)
            raise RunError(
                f"{self._made} steps were accounted for, and training goes on; let no "
                "plugin lengthen it"
            )
        self._made += 1

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Stop where training has diverged; the weights tell, which are private.

        Raises:
            RunError: a weight is not finite; it tells what was spent.
        """
        weights = strategy.model.parameters()
        if not all(bool(torch.isfinite(value).all()) for value in weights):
            self._stop(strategy, f"weights are not finite after step {self._made}")

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Put the plain model and optimizer back.

        Raises:
            RunError: the outputs for an image of ones are not finite; it tells what was
                spent.
        """
        self._put_back(strategy)
        model = copy.deepcopy(strategy.model).eval()
        with torch.no_grad():
            outputs = model(torch.ones(1, *self._shape, device=strategy.device))
        if not bool(torch.isfinite(outputs).all()):
            self._stop(strategy, "the outputs of the model are not finite")

    def state_dict(self) -> dict[str, Any]:
        """Return what was spent."""
        spent = {
            experience: [asdict(budget) for budget in each]
            for experience, each in self.budgets.items()
        }
        return {"spent": spent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what was spent.

        Raises:
            OptionError: something else was spent since.
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
                f"this plugin has spent on experience {forgotten[0]} what was not "
                "saved, and what would be forgotten; restore into a new plugin"
            )
        self.budgets = defaultdict(list, spent)

    def _stop(self, strategy: Any, reason: str) -> None:
        """Put the plain model back, and say what was spent on it.

        Raises:
            RunError: always.
        """
        self._put_back(strategy)
        assert self._budget is not None
        raise RunError(
            f"training diverged: {reason}; epsilon {self._budget.epsilon:.3g} at delta "
            f"{self._budget.delta:.3g} was booked for this experience and is spent, "
            f"{self.epsilon_spent:.3g} in all; lower the learning rate, and begin with "
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


class _Batches:
    """A loader whose empty batches no metric is asked about.

    Avalanche's metrics divide by the size of a batch. They rest until the loop asks for
    the batch that follows.
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


def _check_takes_nothing(module: nn.Module, image: Any, chance: float) -> None:
    """Refuse a model that fails on an empty batch, before anything is spent.

    Args:
        module: prepared for Opacus; not changed.
        image: one of its inputs.
        chance: that a batch is empty.

    Raises:
        OptionError: it fails.
    """
    trial = copy.deepcopy(module).train()
    device = next(trial.parameters()).device
    try:
        trial(image[None][:0].to(device))
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise OptionError(
            f"a batch is empty with a chance of {chance:.2g}, and the model takes none "
            f"({reason}); raise train_mb_size, or flatten by flatten(1)"
        ) from error
