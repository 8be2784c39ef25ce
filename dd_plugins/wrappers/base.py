"""The base class of wrappers: distillers adjusting another distiller."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.distillers.returned import check_metrics
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.errors import OptionError, PluginError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.synthetic.privacy_record import PrivacyRecord
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.teacher import Teacher

__all__ = ["AbstractWrapper", "WrappedState", "base_of", "wrappers_of"]


@dataclass
class WrappedState(AbstractState):
    """The state of a wrapper with more tensors than its base.

    Tensors added by a subclass are constant during a run, and are not saved. The
    wrapper's :meth:`~AbstractWrapper.inner` returns ``base``. A subclass with more to
    save defines ``state_dict``, ``load_state_dict`` and ``merge`` together.
    """

    base: AbstractState

    def __init_subclass__(cls) -> None:
        """Refuse a subclass whose own state would be merged as that of its base.

        Raises:
            PluginError: it defines ``state_dict`` without ``merge``.
        """
        saves_more = cls.state_dict is not WrappedState.state_dict
        if saves_more and cls.merge is WrappedState.merge:
            raise PluginError(
                f"{cls.__name__} defines state_dict, so it must also define merge, "
                "which joins the states of all processes"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base."""
        return self.base.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state of the base."""
        self.base.load_state_dict(state)

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the states of the base."""
        return self.base.merge(parts)

    def adopt(self, own: AbstractState) -> None:
        """Let the base take over what its runs share."""
        assert isinstance(own, WrappedState)
        self.base.adopt(own.base)


@record
class AbstractWrapper(AbstractDistiller[AbstractState]):
    """A distiller around ``base``: it forwards all calls and adjusts the gradient.

    A subclass implements :meth:`adjust`. Its spec names the base first:
    ``clip(frepo(pool_size=20), max_norm=0.5)``. It is registered by the hook
    ``dd_register_wrappers``.

    Args:
        base: the wrapped distiller.
    """

    positional: ClassVar[tuple[str, ...]] = ("base",)
    keeps_privacy: ClassVar[bool] = False
    """Whether the wrapper reads no real image, so a private set stays private.

    Other wrappers of a private distiller are refused.
    """

    base: AbstractDistiller[Any]

    @abstractmethod
    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Change the gradients of the leaves after the base has added to them.

        Args:
            state: the state from :meth:`setup`, as it is at this step.
            leaves: the synthetic set; its gradients are changed in place.
            real: draws of real images in the value space of the model.
            step: the number of the step, from 0.

        Returns:
            Further metrics of the step.
        """

    def inner(self, state: AbstractState) -> AbstractState:
        """Return the base's state; here the wrapper has none of its own."""
        return state

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """The further networks behind the set, as for the base."""
        found: tuple[AbstractNetwork, ...] = self.base.architectures
        return found

    @property
    def uses_network(self) -> bool:
        """Whether the run's network shapes the set, as for the base."""
        return self.base.uses_network

    @property
    def private(self) -> bool:
        """Whether the set is private, as for the base."""
        return self.base.private

    @property
    def public_data(self) -> str | None:
        """The public data set of the base."""
        return self.base.public_data

    @property
    def label_kind(self) -> LabelKind:
        """The kind of labels of the base."""
        kind: LabelKind = self.base.label_kind
        return kind

    @property
    def learns_labels(self) -> bool:
        """Whether labels are learned, as for the base."""
        return self.base.learns_labels

    @property
    def moves_images(self) -> bool:
        """Whether images are learned, as for the base."""
        return self.base.moves_images

    @property
    def bounded(self) -> bool:
        """Whether images are kept in range, as for the base."""
        return self.base.bounded

    @property
    def averaging(self) -> float:
        """The decay of the average over the steps, as for the base."""
        return self.base.averaging

    @property
    def classes_apart(self) -> bool:
        """Whether classes are independent, as for the base."""
        return self.base.classes_apart

    def for_task(self, task: Task) -> Self:
        """Settle the base's options."""
        return replace(self, base=self.base.for_task(task))

    def check_base_moves_images(self) -> None:
        """Refuse a base that only chooses images, which this wrapper cannot change.

        Raises:
            OptionError: the base moves no image.
        """
        if not self.moves_images:
            raise OptionError(
                f"{self.name}: {self.base!r} chooses its images and moves none of "
                f"them, so the wrapper would change nothing; use it without {self.name}"
            )

    def default_steps(self, task: Task) -> int:
        """Return the base's steps."""
        return self.base.default_steps(task)

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the base's network."""
        return self.base.default_network(task, device)

    @property
    def initial_images(self) -> InitialImages:
        """The kind of first images, as for the base."""
        kind: InitialImages = self.base.initial_images
        return kind

    @property
    def noise_deviation(self) -> float:
        """The standard deviation of initial noise, as for the base."""
        return self.base.noise_deviation

    def preprocessing(self, task: Task) -> Preprocessing | None:
        """Return the base's value space."""
        return self.base.preprocessing(task)

    def recipe(self, task: Task, images: int, learned: Mapping[str, Tensor]) -> Recipe:
        """Return the base's recipe."""
        return self.base.recipe(task, images, learned)

    def learnables(self, run: Run) -> dict[str, Tensor]:
        """Return the further learned tensors of the base."""
        return self.base.learnables(run)

    def choose(self, run: Run, real: RealSampler) -> Tensor:
        """Return the indices chosen by the base."""
        return self.base.choose(run, real)

    def images_in_graph(self, task: Task) -> int:
        """Return the number of images in the graph of the base."""
        return self.base.images_in_graph(task)

    def first_images(
        self,
        run: Run,
        real: RealSampler,
        indices: Tensor,
        read: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the first images of the base."""
        return self.base.first_images(run, real, indices, read)

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return the base's labels."""
        return self.base.initial_labels(labels, num_classes)

    def setup(self, run: Run, real: RealSampler) -> AbstractState:
        """Return the base's state."""
        state: AbstractState = self.base.setup(run, real)
        return state

    def accumulate(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Let the base add its gradient, then adjust it."""
        metrics = self.base.accumulate(self.inner(state), leaves, real, step)
        device = leaves.pixels.device
        check_metrics(self.base, metrics, device)
        adjusted = self.adjust(state, leaves, real, step)
        return metrics | check_metrics(self, adjusted, device, "adjust")

    def advance(self, state: AbstractState, leaves: Leaves, step: int) -> None:
        """Advance the base."""
        self.base.advance(self.inner(state), leaves, step)

    def labels(self, state: AbstractState, leaves: Leaves) -> Tensor:
        """Return the base's labels of the saved set."""
        return self.base.labels(self.inner(state), leaves)

    def teacher(self, state: AbstractState, leaves: Leaves) -> Teacher | None:
        """Return the base's teacher."""
        return self.base.teacher(self.inner(state), leaves)

    def privacy(self, state: AbstractState) -> PrivacyRecord | None:
        """Return the guarantee of the base."""
        return self.base.privacy(self.inner(state))

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return the base's optimizer."""
        return self.base.optimizer(parameters)

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the base's schedule."""
        return self.base.schedule(optimizer, steps)

    def predictor(
        self, state: AbstractState, leaves: Leaves
    ) -> Callable[[Tensor], Tensor] | None:
        """Return the base's predictor."""
        return self.base.predictor(self.inner(state), leaves)


def wrappers_of(distiller: AbstractDistiller[Any]) -> Iterator[AbstractWrapper]:
    """Yield the wrappers around a distiller, outermost first."""
    while isinstance(distiller, AbstractWrapper):
        yield distiller
        distiller = distiller.base


def base_of(distiller: AbstractDistiller[Any]) -> AbstractDistiller[Any]:
    """Return the distiller inside all wrappers."""
    for wrapper in wrappers_of(distiller):
        distiller = wrapper.base
    return distiller
