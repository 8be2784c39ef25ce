"""The base class of distillers: records of hyper-parameters."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Generic, Literal, Self, TypeVar, cast

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.subsets import balanced_subset
from dd_plugins.distillers.state import AbstractState, Metrics, NoState
from dd_plugins.errors import OptionError, PluginError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.run import Run, Task
from dd_plugins.spec import Record
from dd_plugins.synthetic.labels import LabelKind, one_hot
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.synthetic.privacy_record import PrivacyRecord
from dd_plugins.training.recipes import Recipe, default_recipe
from dd_plugins.training.teacher import Teacher

__all__ = [
    "AbstractDistiller",
    "AbstractState",
    "InitialImages",
    "Metrics",
    "NoState",
    "StateType",
    "add_gradient",
    "check_several_classes",
]

_STEPS = 1_000
InitialImages = Literal["real", "noise", "public"]
"""The kind of first images: real images, draws from a unit normal, or the public images
of a private distiller, whatever their class."""

StateType = TypeVar("StateType", bound=AbstractState)


class AbstractDistiller(Record, ABC, Generic[StateType]):
    """A method of dataset distillation.

    A subclass is a frozen record of hyper-parameters (see :func:`dd_plugins.record`),
    registered by the hook ``dd_register_distillers`` under ``name``. The engine owns
    the loop; at every step it calls :meth:`accumulate`, updates the set, and calls
    :meth:`advance`. Every random draw comes from ``run.generator(purpose, step)``.
    """

    def for_task(self, task: Task) -> Self:
        """Return the distiller with all task-dependent options settled.

        Called once, before anything else. Here no option depends on the task.
        """
        del task
        return self

    def default_steps(self, task: Task) -> int:
        """Return the default number of steps of a run; here 1,000."""
        del task
        return _STEPS

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the network for this task, or None for the library's default."""
        del task, device
        return None

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """Further networks used in distillation, besides the run's own; none here.

        A transfer report counts these architectures as seen.
        """
        return ()

    @property
    def uses_network(self) -> bool:
        """Whether the run's network shapes the set.

        If not, only evaluations use that network, and a transfer report counts it as
        held out.
        """
        return True

    def images_in_graph(self, task: Task) -> int:
        """Return the number of images in the graph of a step's backward pass.

        By this number the engine refuses a run too large for memory. 0, as here, counts
        no activations.

        Args:
            task: the task; its ``batch_norm`` tells whether the network has BatchNorm.
        """
        del task
        return 0

    @property
    def label_kind(self) -> LabelKind:
        """The kind of labels, learned or kept by this method."""
        return "classes"

    @property
    def learns_labels(self) -> bool:
        """Whether labels are moved by the optimizer."""
        return False

    @property
    def moves_images(self) -> bool:
        """Whether images are learned; a coreset keeps real images as they are."""
        return True

    @property
    def bounded(self) -> bool:
        """Whether images are kept within [0, 1] after each step, as pictures are."""
        return False

    @property
    def averaging(self) -> float:
        """The decay of an exponential average of the set over the steps, in [0, 1).

        The run returns the average; a step still starts from the set left by the last
        step. The optimizer's parameters are averaged: images or their stored form,
        learned labels and other learned tensors. 0, as here, means no average.
        """
        return 0.0

    @property
    def classes_apart(self) -> bool:
        """Whether the images of a class depend on no other class.

        Such a method can distil one class alone. BatchNorm in the run's network may
        join the classes all the same.
        """
        return False

    @property
    def private(self) -> bool:
        """Whether the set is differentially private in the real images; not here.

        In the run of a private method nothing else reads real images: the set starts
        from noise or public images, its value space is fixed by constants, and nothing
        is measured on validation images; those held out of the training images are put
        back. The header holds :meth:`privacy`, and no fingerprint of the data.
        """
        return False

    @property
    def public_data(self) -> str | None:
        """The name of the public data set of a private method, or None.

        A parametrization is fitted to its images in place of real ones.
        """
        return None

    @property
    def initial_images(self) -> InitialImages:
        """The kind of first images, unless the user chooses."""
        return "real"

    @property
    def noise_deviation(self) -> float:
        """The standard deviation of initial noise, in the value space."""
        return 1.0

    def preprocessing(self, task: Task) -> Preprocessing | None:
        """Return the value space of this method; None, as here, for the data's own.

        The user's choice takes precedence.
        """
        del task
        return None

    def recipe(self, task: Task, images: int, learned: Mapping[str, Tensor]) -> Recipe:
        """Return the recipe for training networks on the result.

        It is stored in the header of the artifact; an evaluation may name another one.
        Here it depends on the kind of labels.

        Args:
            task: the task.
            images: the number of images of the set.
            learned: the learned values of :meth:`learnables`, such as a step size.
        """
        del task, learned
        return default_recipe(self.label_kind, images)

    def learnables(self, run: Run) -> dict[str, Tensor]:
        """Return the initial values of further learned tensors, by name; here none.

        An example is the learning rate of inner steps. The engine gives these tensors
        to the optimizer together with the images, averages their gradients over
        processes, saves them, and passes them on as ``leaves.others``; the header holds
        their last values.

        Returns:
            float32 tensors with few values.
        """
        del run
        return {}

    def choose(self, run: Run, real: RealSampler) -> Tensor:
        """Return the indices of the initial real images, class by class.

        Here they are drawn at random.

        Args:
            run: the run; :meth:`setup` has not been called yet.
            real: all real images and their labels.

        Returns:
            int64 indices class by class, as many of each class as
            ``run.task.class_counts`` says.

        Raises:
            OptionError: a class has too few images.
        """
        return balanced_subset(
            real.labels,
            run.task.class_counts,
            run.generator("initial images"),
            each=run.task.images_per_stored,
            class_names=real.class_names,
        )

    def first_images(
        self,
        run: Run,
        real: RealSampler,
        indices: Tensor,
        read: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Return the first images of the set; here the chosen real images.

        Args:
            run: the run.
            real: all real images and their labels.
            indices: the result of :meth:`choose`.
            read: returns the real images at given indices, in the value space and in
                full precision; ``real`` has them in the precision of the run.

        Returns:
            float32 ``(n, channels, height, width)``, one image for each index.
        """
        del run, real
        return read(indices)

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return float32 ``(n, classes)`` labels for images of these classes."""
        return one_hot(labels, num_classes)

    def setup(self, run: Run, real: RealSampler) -> StateType:
        """Return the state at the start of a run; called once, also before a resume.

        Here it is empty: a :class:`NoState`.

        Args:
            run: the run; the state keeps it.
            real: real images, for training networks on them beforehand.
        """
        del real
        return cast(StateType, NoState(run))

    @abstractmethod
    def accumulate(
        self, state: StateType, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add this step's gradient to the gradients of all leaves.

        Called once a step. It must not change the leaves themselves.

        Args:
            state: the state from :meth:`setup`, as it is at this step.
            leaves: the synthetic set.
            real: draws of real images in the value space of the model.
            step: the number of the step, from 0.

        Returns:
            The figures to report, ``"loss"`` among them.
        """

    def advance(self, state: StateType, leaves: Leaves, step: int) -> None:
        """Advance the inner level, such as a network, after the set's update.

        Here there is no inner level.

        Args:
            state: changed in place.
            leaves: the synthetic set after the update.
            step: the number of the step, from 0.
        """

    def labels(self, state: StateType, leaves: Leaves) -> Tensor:
        """Return the labels of the set as it is saved.

        A method may make labels once the images are done, for example by a teacher.
        Here they are the labels of the leaves.

        Args:
            state: not changed.
            leaves: the synthetic set.

        Returns:
            float32 ``(n, classes)``, of the kind :attr:`label_kind`.
        """
        del state
        return leaves.labels

    def teacher(self, state: StateType, leaves: Leaves) -> Teacher | None:
        """Return the teacher for the views of the saved set; here None.

        With a teacher, networks are trained on views, each with the teacher's label for
        it. The header names teachers kept in files; for any others, the labels of all
        views are stored. The kind of labels must be ``"probabilities"``.

        Args:
            state: not changed.
            leaves: the synthetic set.
        """
        del state, leaves
        return None

    def privacy(self, state: StateType) -> PrivacyRecord | None:
        """Return the guarantee of a private set; None, as here, if there is none.

        Args:
            state: not changed.
        """
        del state
        return None

    @abstractmethod
    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return the optimizer of the synthetic set.

        Args:
            parameters: a sequence of all learned tensors. Its attributes list images,
                labels and others separately, for separate learning rates.
        """

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the schedule, stepped after every update; constant here."""
        del steps
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    def predictor(
        self, state: StateType, leaves: Leaves
    ) -> Callable[[Tensor], Tensor] | None:
        """Return the method's own predictor of real images, or None.

        It gives cheap validation accuracies during a run. If a method has none, the
        engine trains a fresh network on the set instead.

        Args:
            state: not changed.
            leaves: the synthetic set.

        Returns:
            A function of images, float32 in the value space of shape ``(b, channels,
            height, width)``, to logits of shape ``(b, classes)``.
        """
        del state, leaves
        return None


def add_gradient(leaf: Tensor, gradient: Tensor) -> None:
    """Add to the gradient of a leaf, even if it has none yet.

    Raises:
        PluginError: the gradient has not the leaf's type, shape and device.
    """
    if (
        not isinstance(gradient, Tensor)
        or gradient.dtype != leaf.dtype
        or gradient.shape != leaf.shape
        or gradient.device != leaf.device
    ):
        unused = "; was the leaf used in the loss?" if gradient is None else ""
        raise PluginError(
            f"add_gradient expects {_told(leaf)}, got {_told(gradient)}{unused}"
        )
    leaf.grad = gradient.clone() if leaf.grad is None else leaf.grad + gradient


def check_several_classes(name: str, task: Task) -> None:
    """Refuse a single class to a method whose loss is then constant.

    Args:
        name: the name of the method, for the message.
        task: the task.

    Raises:
        OptionError: there is one class.
    """
    if task.num_classes < 2:
        raise OptionError(
            f"{name}: expected at least two classes to tell apart, got "
            f"{task.num_classes}; take dm, or a coreset such as random"
        )


def _told(given: object) -> str:
    if not isinstance(given, Tensor):
        return "None" if given is None else type(given).__name__
    dtype = str(given.dtype).removeprefix("torch.")
    return f"a {dtype} gradient of shape {tuple(given.shape)} on {given.device}"
