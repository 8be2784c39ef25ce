"""FRePo: neural feature regression with a pool of online models."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor
from torch.profiler import record_function

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import (
    AbstractDistiller,
    add_gradient,
    check_several_classes,
)
from dd_plugins.distillers.frepo.defaults import (
    LONG_RUN,
    ON_CPU,
    PAPER,
    PAPER_STEPS,
    Loss,
    Settings,
    short_run,
)
from dd_plugins.distillers.frepo.regression import Regression
from dd_plugins.distillers.frepo.workspaces import FRePoState, Workspace
from dd_plugins.distillers.online_models import Pool
from dd_plugins.distillers.state import Metrics
from dd_plugins.errors import OptionError
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.functional.kernel_regression import centred_targets
from dd_plugins.functional.tangent_kernel import TangentKernel
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.conv import Conv
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.training.lamb import LAMB

__all__ = ["FRePo"]

_LARGEST_ONLINE_BATCH = 1000


@record
class FRePo(AbstractDistiller[FRePoState]):
    """Neural feature regression with pooling: the core distiller.

    One model of a pool gives features; kernel ridge regression from the synthetic to
    the real features predicts the real labels; the error is differentiated back to
    images and labels. The model then takes a training step on the synthetic set, or, if
    it has taken more than ``max_online_updates``, a fresh model replaces it. There is
    no unrolling: a step costs one forward pass of the real batch, and one forward and
    backward pass of the synthetic set.

    Under torchrun the processes share out the models of the pool and the images of a
    real batch; each process visits one of its own models at every step.

    The preset and the data set settle all options not given.

    Args:
        preset: ``"fast"`` is for runs of minutes, with the options measured as best for
            the data set; ``"paper"`` takes every option of the paper, 500,000 steps,
            and width 128. A fast run of 50,000 steps or more takes the paper's learning
            rate.
        pool_size: number of online models in the pool; at least one for each process.
        pool_networks: further architectures of the pool; its models take the run's own
            and these in turn. The paper's pool has one architecture.
        max_online_updates: training steps K of an online model; one with more steps is
            replaced by a fresh model.
        real_batch_size: number of real images in a batch.
        updates_per_batch: number of steps in a visit, with the same model, real batch
            and real features. The paper has 1.
        online_steps: training steps of the model at the end of a visit. The paper
            has 1.
        ridge: ridge relative to the mean eigenvalue of the kernel; by default the
            paper's 1e-6, or 1e-2 with augmented copies.
        learning_rate: learning rate of images and labels, relative to their norm
            (LAMB).
        last_learning_rate: learning rate at the end of the cosine, relative to the
            first; in [0, 1].
        online_learning_rate: learning rate of Adam on the online models.
        learn_labels: whether labels are learned.
        augment: whether a random augmentation, redrawn at each step, is applied to the
            synthetic images. The models are trained on augmented images. In the
            regression, augmented images replace the images, or join them as
            ``augmented_copies``. By default True with copies, and in a fast run for
            colour images. The paper has none.
        augmented_copies: number of random augmentations of each image, added to the
            regression, since networks trained on the set see them too; with 0 and
            ``augment``, one augmentation replaces the image. By default 7 in a fast run
            for up to 50 images in all, 3 for up to 200, 1 for up to 500, else 0. The
            paper has none.
        loss: loss of the regression's predictions of the real labels:
            ``"squared-error"``, the paper's, or ``"cross-entropy"``, at the best
            temperature for each real batch
            (:func:`~dd_plugins.functional.kernel_regression.calibrated_cross_entropy`);
            by default the latter in a fast run.
        average: decay of an exponential average of images and labels over the steps, in
            [0, 1); the run returns the average in place of the last set. 0, as in the
            paper, means no average. With an average, the learning rate may stay
            constant (``last_learning_rate=1``).
        flip: whether flipped copies join the synthetic images. By default True, as in
            the released code, for small sets of images with natural mirror images;
            False with augmented copies, for some of them are flipped.
        intercept: whether the regression has an intercept: features and labels are
            centred at their means over the synthetic set. By default True in a pool of
            several architectures, some of whose features are nearly constant. The paper
            has none.
        kernel: kernel of the regression; by default the kernel of the features, as in
            the paper. ``tangent()`` adds the tangent kernel of the body
            (:class:`~dd_plugins.functional.tangent_kernel.TangentKernel`), as if the
            whole network were trained on the set, not its head alone.
        chunk_size: number of images, copies included, with activations in memory at
            once; for more images the gradient is computed in chunks, at the cost of one
            more forward pass.

    Reference: Zhou, Nezhadarya, Ba, "Dataset Distillation using Neural Feature
    Regression", NeurIPS 2022, arXiv 2206.00719, algorithm 1, and its released code.

    Differences: pool draws are derived from the seed (unseeded there); features may be
    computed in bfloat16, Gram matrix and solve run in float64 (float32 there); real
    batches are drawn without replacement from a whole permutation (a shuffle buffer
    there); visits of several updates, pools of several architectures, augmentation
    while distilling, by augmented copies or without, cross-entropy as the loss,
    averages of the set, other kernels and the settings of the fast preset are ours.
    """

    name = "frepo"
    parts: ClassVar = {"kernel": (TangentKernel,)}

    preset: Literal["fast", "paper"] = "fast"
    pool_size: PositiveInt | None = None
    pool_networks: tuple[AbstractNetwork, ...] = ()
    max_online_updates: PositiveInt | None = None
    real_batch_size: PositiveInt | None = None
    updates_per_batch: PositiveInt | None = None
    online_steps: PositiveInt | None = None
    ridge: NonNegativeFloat | None = None
    learning_rate: PositiveFloat | None = None
    last_learning_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    online_learning_rate: PositiveFloat | None = None
    learn_labels: bool = True
    augment: bool | None = None
    augmented_copies: NonNegativeInt | None = None
    loss: Loss | None = None
    average: Annotated[float, Field(ge=0, lt=1)] | None = None
    flip: bool | None = None
    intercept: bool | None = None
    kernel: TangentKernel | None = None
    chunk_size: PositiveInt = 2_000

    def for_task(self, task: Task) -> Self:
        """Settle every option by the preset and the table of short runs.

        Raises:
            OptionError: there is one class.
        """
        check_several_classes(self.name, task)
        usual = short_run(task)
        short = usual.settings_for(task.synthetic_images)
        defaults = PAPER if self.preset == "paper" else short
        if (task.steps or usual.steps) >= LONG_RUN:
            defaults = replace(defaults, learning_rate=PAPER.learning_rate)
        settings = defaults.with_given(self.options())
        flip = (
            task.images_per_class <= usual.flip_up_to and not settings.augmented_copies
        )
        several = bool(self.pool_networks)
        intercept = several if self.intercept is None else self.intercept
        return replace(
            self,
            **vars(settings),
            flip=flip if self.flip is None else self.flip,
            intercept=intercept,
        )

    @cached_property
    def _settings(self) -> Settings:
        return PAPER.with_given(self.options())

    @cached_property
    def _regression(self) -> Regression:
        settings = self._settings
        return Regression(
            settings.ridge,
            settings.loss,
            bool(self.flip),
            self.learn_labels,
            self.chunk_size,
            bool(self.intercept),
            self.kernel,
        )

    def _pool(self, run: Run) -> Pool:
        others = (network.for_distillation() for network in self.pool_networks)
        return Pool((run.network, *others), self._settings.online_learning_rate)

    @property
    def _support_per_image(self) -> int:
        """The number of images in the support for each image of the set."""
        return (1 + self._settings.augmented_copies) * (2 if self.flip else 1)

    def images_in_graph(self, task: Task) -> int:
        """Return the images of the support, copies included, or of a chunk of it."""
        return min(self.chunk_size, self._support_per_image * task.synthetic_images)

    def default_steps(self, task: Task) -> int:
        """Return the number of steps of the preset for this data set."""
        return PAPER_STEPS if self.preset == "paper" else short_run(task).steps

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the network of the preset; for a short run on a CPU it is narrow."""
        if self.preset == "paper":
            return Conv()
        usual = short_run(task)
        return usual.network or (ON_CPU if device.type == "cpu" else Conv())

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """The architectures of the pool, besides the run's own."""
        return self.pool_networks

    @property
    def label_kind(self) -> LabelKind:
        """Labels are centred regression targets."""
        return "regression"

    @property
    def learns_labels(self) -> bool:
        """Whether labels are moved by the optimizer."""
        return self.learn_labels

    @property
    def averaging(self) -> float:
        """The decay of the average of images and labels."""
        return self._settings.average

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return centred one-hot labels, divided by ``sqrt(classes / 10)``."""
        return centred_targets(labels, num_classes) / math.sqrt(num_classes / 10)

    def setup(self, run: Run, real: RealSampler) -> FRePoState:
        """Fill the pool with fresh models of staggered ages.

        Ages start at 0, K/pool, 2K/pool, ..., so the models are replaced one at a time.

        Raises:
            OptionError: there are more processes or architectures than models, or
                augmented copies without augmentation; or the kernel cannot be computed
                for the network, or does not fit into memory.
        """
        settings = self._settings
        architectures = 1 + len(self.pool_networks)
        if settings.pool_size < run.ranks:
            raise OptionError(
                f"frepo: pool_size must be at least {run.ranks}, a model for each "
                f"process, got {settings.pool_size}"
            )
        if settings.pool_size < architectures:
            raise OptionError(
                f"frepo: pool_size must be at least {architectures}, a model for each "
                f"architecture, got {settings.pool_size}"
            )
        if settings.augmented_copies and not settings.augment:
            raise OptionError(
                f"frepo: augmented_copies={settings.augmented_copies} needs "
                f"augment=True, got {settings.augment}; leave out augment=False"
            )
        oldest, size = settings.max_online_updates, settings.pool_size
        pool = self._pool(run)
        models = {
            slot: pool.fresh_model(run, slot, -1, slot * oldest // size)
            for slot in range(run.rank, size, run.ranks)
        }
        if self.kernel is not None:
            own = -(-settings.real_batch_size // run.ranks)  # of this process
            images = own + self._support_per_image * run.task.synthetic_images
            for model in list(models.values())[:architectures]:  # one of each
                self.kernel.check(
                    "frepo",
                    model.network,
                    run.task.image_shape,
                    run.task.num_classes,
                    images,
                    run.device,
                )
        return FRePoState(run, models, architectures)

    def accumulate(
        self, state: FRePoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the regression error and of the labels' margin loss."""
        visit = step // self._settings.updates_per_batch
        workspace = state.workspace(state.slot_of(visit), self._regression)
        if state.visit is None or state.visit.number != visit:
            batch = real.batch(visit, self._settings.real_batch_size)
            state.visit = workspace.real_features(visit, batch)
        pixels, labels = leaves.pixels, leaves.labels
        view = support(self._settings, state.run, pixels, step)
        found = workspace.gradient(view, labels, state.visit)
        gradient = found.view
        if view is not pixels:
            (gradient,) = torch.autograd.grad(view, [pixels], gradient)
        add_gradient(pixels, gradient)
        metrics = {"loss": found.loss, "batch_accuracy": found.batch_accuracy}
        if self.learn_labels:
            add_gradient(labels, found.labels)
            metrics["margin_loss"] = found.margin_loss
        return metrics

    def advance(self, state: FRePoState, leaves: Leaves, step: int) -> None:
        """At the end of a visit, train the model on the set, or replace it."""
        settings = self._settings
        if (step + 1) % settings.updates_per_batch:
            return
        slot = state.slot_of(step // settings.updates_per_batch)
        with record_function("frepo: online step"):
            for number in range(settings.online_steps):
                if state.pool[slot].updates > settings.max_online_updates:
                    state.pool[slot] = self._pool(state.run).fresh_model(
                        state.run, slot, step, 0
                    )
                    return
                workspace = state.workspace(slot, self._regression)
                draw = step * settings.online_steps + number
                self._train(state, workspace, leaves, draw)

    def _train(
        self, state: FRePoState, workspace: Workspace, leaves: Leaves, draw: int
    ) -> None:
        """Train a model by one step, on the whole set or on images drawn from it."""
        pixels, labels = leaves.pixels.detach(), leaves.labels.detach()
        if len(pixels) >= _LARGEST_ONLINE_BATCH:
            generator = state.run.own_generator("online batch", draw)
            chosen = torch.randperm(len(pixels), generator=generator)
            chosen = chosen[:_LARGEST_ONLINE_BATCH].to(pixels.device)
            pixels, labels = pixels[chosen], labels[chosen]
        if self._settings.augment:
            generator = state.run.own_generator("online augmentation", draw)
            pixels = _augmented(state.run, pixels, generator)
        layers = state.run.own_generator("online layers", draw)
        with state.run.layers_drawing_from(layers):
            workspace.train(pixels, labels)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return LAMB, with one trust ratio for all images and one for all labels."""
        return LAMB(parameters, lr=self._settings.learning_rate)

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a cosine from the learning rate to the last one."""
        settings = self._settings
        return torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer,
            steps,
            eta_min=settings.last_learning_rate * settings.learning_rate,
        )

    def predictor(
        self, state: FRePoState, leaves: Leaves
    ) -> Callable[[Tensor], Tensor]:
        """Return the regression's predictor, on the oldest model of the pool."""
        oldest = max(state.pool.values(), key=lambda model: model.updates)
        return self._regression.predictor(
            state.run, oldest.network, leaves.pixels, leaves.labels
        )


def _augmented(run: Run, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images under one random operation."""
    view = random_augmentation(images, generator=generator, mirror=run.task.mirror)
    return view.contiguous(memory_format=torch.channels_last)


def support(settings: Settings, run: Run, pixels: Tensor, step: int) -> Tensor:
    """Return the support of the regression: the set, augmented or with copies."""
    if not settings.augment:
        return pixels
    generator = run.own_generator("augmentation", step)
    if not settings.augmented_copies:
        return _augmented(run, pixels, generator)
    views = [
        _augmented(run, pixels, generator) for _ in range(settings.augmented_copies)
    ]
    return torch.cat([pixels, *views])
