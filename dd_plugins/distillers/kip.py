"""KIP: kernel regression with the kernel of an infinitely wide network."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import (
    AbstractDistiller,
    add_gradient,
    check_several_classes,
)
from dd_plugins.distillers.state import Metrics, NoState
from dd_plugins.functional.kernel_predictor import (
    MEMORY,
    RIDGE,
    check_kernel,
    kernel_predictor,
    parts_that_fit,
    regression_weights,
)
from dd_plugins.functional.kernel_regression import (
    centred_targets,
    kernel_ridge_coefficients,
)
from dd_plugins.functional.ntk import KERNELS, AbstractKernel, FullyConnected
from dd_plugins.run import Run, Task
from dd_plugins.runtime.device import in_float64
from dd_plugins.spec import record, refuse_without_effect
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.leaves import Leaves, Parameters

__all__ = ["KIP"]

_SHORT_RUN = 300  # steps
_PAPER_RUN = 50_000  # of the released sets
_SMALL_BATCH, _PAPER_BATCH = 1_024, 5_000
_SOLVE_RIDGE = 1e-9  # relative, of the least squares for labels


@dataclass
class KIPState(NoState):
    """The state of KIP, where nothing changes but the set.

    Attributes:
        run: the run.
        real: real images, for solving labels at the end.
    """

    real: RealSampler


@record
class KIP(AbstractDistiller[KIPState]):
    """Kernel inducing points: no network takes part.

    Kernel ridge regression from the synthetic to real images predicts the real labels,
    with the kernel of an infinitely wide network. Its squared error is differentiated
    back to the images, and to the labels if they are learned. Everything runs in
    float64.

    Args:
        preset: ``"fast"`` for runs of minutes on a CPU; ``"paper"`` for 50,000 steps
            with 5,000 real images at each.
        kernel: the kernel, such as ``fc(depth=1)``, ``conv(depth=3)``,
            ``conv(depth=3, pooling=True)`` or ``gap(depth=3)``;
            :mod:`dd_plugins.functional.ntk` gives the cost of each.
        real_batch_size: real images in a step; 1,024 by default, 5,000 in the paper.
        ridge: ridge relative to the mean eigenvalue of the kernel.
        learning_rate: learning rate of Adam on the images, and on learned labels.
        learn_labels: whether labels are learned with the images.
        label_solve: whether the labels of the finished set are the best fit to the real
            images, in closed form; then no labels are learned.
        memory: gigabytes for the kernel of the real images processed at a time. It
            changes the result by rounding alone.

    Reference: Nguyen, Chen, Lee, "Dataset Meta-Learning from Kernel Ridge-Regression",
    ICLR 2021, arXiv 2011.00050, algorithm 1; Nguyen, Novak, Xiao, Lee, "Dataset
    Distillation with Infinitely Wide Convolutional Networks", NeurIPS 2021, arXiv
    2107.13034; and the released notebook.

    Differences: real batches are drawn without replacement from a whole permutation
    (balanced by class there); labels are solved on 5,000 real images; the result is the
    set of the last step (the best checkpoint on validation images there).
    """

    name = "kip"
    parts: ClassVar = {"kernel": KERNELS}

    preset: Literal["fast", "paper"] = "fast"
    kernel: AbstractKernel = FullyConnected()
    real_batch_size: PositiveInt | None = None
    ridge: NonNegativeFloat = RIDGE
    learning_rate: PositiveFloat = 0.04
    learn_labels: bool = False
    label_solve: bool = False
    memory: PositiveFloat = MEMORY

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        """Refuse learned labels that are thrown away at the end."""
        if self.label_solve:
            why = "label_solve=True replaces the labels at the end"
            refuse_without_effect(self, ["learn_labels"], why)
        return self

    def for_task(self, task: Task) -> "KIP":
        """Refuse a kernel that cannot take the images, or is too large for memory.

        Raises:
            OptionError: there is one class, or the images are too small for the
                poolings, or the kernel of the set does not fit into memory; the message
                gives the estimate.
        """
        check_several_classes(self.name, task)
        self._check_kernel(task, torch.device("cpu"))
        return self

    def default_steps(self, task: Task) -> int:
        """Return 300 steps, or 50,000 by the paper's preset."""
        del task
        return _PAPER_RUN if self.preset == "paper" else _SHORT_RUN

    def preprocessing(self, task: Task) -> Preprocessing | None:
        """Return the data's own, or standardisation by the paper's preset."""
        del task
        return "standardize" if self.preset == "paper" else None

    @property
    def uses_network(self) -> bool:
        """No network takes part."""
        return False

    @property
    def label_kind(self) -> LabelKind:
        """Labels are centred regression targets."""
        return "regression"

    @property
    def learns_labels(self) -> bool:
        """Whether labels are moved by the optimizer."""
        return self.learn_labels

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return centred one-hot labels: one-hot less 1/C."""
        return centred_targets(labels, num_classes)

    def setup(self, run: Run, real: RealSampler) -> KIPState:
        """Return the state; it does not change.

        Raises:
            OptionError: the kernel of the set does not fit into the memory of the
                device.
        """
        self._check_kernel(run.task, run.device)
        return KIPState(run, real)

    def accumulate(
        self, state: KIPState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the squared error of the regression."""
        batch = real.batch(step, self._batch_size)
        targets = in_float64(centred_targets(batch.labels, state.run.task.num_classes))
        pixels = in_float64(leaves.pixels.detach()).requires_grad_()
        labels = in_float64(leaves.labels.detach()).requires_grad_(self.learn_labels)
        solution = regression_weights(self.kernel, pixels, labels, self.ridge)
        # Predictions depend on the set through their kernel with it and the solution.
        # So they are made in parts, and the graph of the set is walked once.
        inner = solution.detach().requires_grad_()
        to_pixels, to_inner = torch.zeros_like(pixels), torch.zeros_like(inner)
        loss, right = targets.new_zeros(()), targets.new_zeros(())
        for part in parts_that_fit(self.kernel, len(targets), pixels, self.memory):
            predictions = self.kernel(in_float64(batch.images[part]), pixels) @ inner
            wanted = targets[part]
            error = (predictions - wanted).square().sum() / (2 * targets.numel())
            found = torch.autograd.grad(error, [pixels, inner])
            to_pixels += found[0]
            to_inner += found[1]
            loss += error.detach()
            right += (predictions.argmax(dim=1) == wanted.argmax(dim=1)).sum()
        learned = [pixels, labels] if self.learn_labels else [pixels]
        through = torch.autograd.grad(solution, learned, to_inner)
        add_gradient(leaves.pixels, (to_pixels + through[0]).to(leaves.pixels))
        if self.learn_labels:
            add_gradient(leaves.labels, through[1].to(leaves.labels))
        return {"loss": loss, "batch_accuracy": right / len(targets)}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    def labels(self, state: KIPState, leaves: Leaves) -> Tensor:
        """Return the labels, or the best fit to up to 5,000 real images."""
        if not self.label_solve:
            return leaves.labels
        run, count = state.run, len(state.real.labels)
        order = torch.randperm(count, generator=run.generator("label solve"))
        batch = state.real.read(order[:_PAPER_BATCH])  # the same in every process
        targets = in_float64(centred_targets(batch.labels, run.task.num_classes))
        pixels = in_float64(leaves.pixels.detach())
        with torch.no_grad():
            identity = torch.eye(len(pixels), dtype=pixels.dtype, device=pixels.device)
            # These weights map labels to coefficients.
            weights = regression_weights(self.kernel, pixels, identity, self.ridge)
            square = torch.zeros_like(identity)
            wanted = pixels.new_zeros(len(pixels), targets.shape[1])
            for part in parts_that_fit(self.kernel, len(targets), pixels, self.memory):
                rows = self.kernel(in_float64(batch.images[part]), pixels) @ weights
                square += rows.T @ rows
                wanted += rows.T @ targets[part]
            # Labels of a context are fixed; the others are fitted to the residual.
            held = run.task.context_images
            labels = in_float64(leaves.labels.detach()).clone()
            left = wanted[held:] - square[held:, :held] @ labels[:held]
            labels[held:] = kernel_ridge_coefficients(
                square[held:, held:], left, ridge=_SOLVE_RIDGE
            )
        return labels.to(leaves.labels)

    def predictor(self, state: KIPState, leaves: Leaves) -> Callable[[Tensor], Tensor]:
        """Return the predictor of the regression."""
        return kernel_predictor(
            self.kernel,
            leaves.pixels,
            self.labels(state, leaves),
            ridge=self.ridge,
            memory=self.memory,
        )

    def _check_kernel(self, task: Task, device: torch.device) -> None:
        """Refuse a kernel that does not suit the images or a device's memory."""
        _, height, width = task.image_shape
        images = task.synthetic_images
        check_kernel(self.name, self.kernel, images, height, width, device)

    @property
    def _batch_size(self) -> int:
        usual = _PAPER_BATCH if self.preset == "paper" else _SMALL_BATCH
        return self.real_batch_size or usual
