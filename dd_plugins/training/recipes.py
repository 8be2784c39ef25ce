"""Recipes: how a network is trained, and the recipes of the field's protocols."""

import math
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dd_plugins.functional.augment import (
    crop_and_flip,
    random_augmentation,
    siamese_augmentation,
    siamese_parameters,
    with_box,
)
from dd_plugins.spec import Record, read, record
from dd_plugins.synthetic.labels import LabelKind

__all__ = [
    "Recipe",
    "classic_recipe",
    "default_recipe",
    "expert_recipe",
    "frepo_recipe",
    "get_recipe",
    "post_training_recipe",
    "real_data_recipe",
    "squeeze_recipe",
    "training_steps",
]

_LAST_LEARNING_RATE = 0.01  # of the first, at the end of the cosine
_WEIGHT_DECAY = {"adam": 0.0, "adamw": 0.01, "sgd": 5e-4}

# FRePo's steps by the number of synthetic images. Its 20,000 for 200 images, between
# 2,000 for 100 and 5,000 for 400, is taken for a typing error and left out.
_STEPS = {10: 1_000, 100: 2_000, 400: 5_000, 500: 5_000, 1_000: 10_000, 2_000: 40_000}

_TORCH_MOMENTUM = 0.1  # of BatchNorm, where a network names none
_SQUEEZE_WARM_UP = 300  # steps
# The protocol of DC, DSA, DM and MTT: a thousand epochs.
_CLASSIC_EPOCHS = 1_000
_CLASSIC_BATCH = 256


@record
class Recipe(Record):
    """How a network is trained; its spec is ``recipe(steps=..., learning_rate=...)``.

    Args:
        steps: the number of training steps.
        learning_rate: the peak learning rate.
        batch_size: the number of images in a step; all images if there are fewer.
        warm_up: steps of a linear rise of the learning rate, at most half of all.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"``.
        momentum: the momentum of SGD, in [0, 1).
        weight_decay: the weight decay; None for the optimizer's own: 0 for Adam, 0.01
            for AdamW, 5e-4 for SGD.
        decay: the decay of the learning rate: ``"cosine"`` to a hundredth; or
            ``"half-cosine"``, the first half of a cosine, down to a half; or
            ``"halfway"``, to a tenth after half of the steps; or ``"none"``.
        augmentation: ``"frepo"`` (:func:`~dd_plugins.functional.augment.\
random_augmentation`) or ``"dsa"``, with stronger operations, or ``"crop"``
            (:func:`~dd_plugins.functional.augment.crop_and_flip`), each with separate
            parameters for each image; or ``"none"``.
        temperature: the divisor of logits before the loss; labels that are
            probabilities come from a teacher at this temperature.
        scale_loss: whether the loss is multiplied by the square of the temperature, to
            keep the size of its gradient (Hinton et al., arXiv 1503.02531, section 2).
        loss: ``"labels"``, the loss for the kind of labels; or ``"cross-entropy"``,
            with regression targets turned into probabilities first
            (:func:`~dd_plugins.synthetic.labels.as_probabilities`). Some architectures,
            such as transformers, learn little from squared error.
        mix: ``"cutmix"`` or ``"mixup"`` pairs the images of a batch (Yun et al., arXiv
            1905.04899; Zhang et al., arXiv 1710.09412), with a share drawn
            uniformly from [0, 1]; or ``"none"``.
        stop_after: training ends after this number of steps, though the learning rate
            follows its schedule for ``steps``; None for all. Teachers stopped early
            distil better (Yin et al., arXiv 2306.13092).
        average: the decay of an exponential mean of the weights after each step, in
            [0, 1); training returns the mean (Tarvainen, Valpola, arXiv 1703.01780);
            0 for the last weights.
        norm_momentum: the share of a new batch in BatchNorm's running statistics, in
            (0, 1]; None for the network's own momentum.
    """

    name = "recipe"
    positional = ("steps", "learning_rate", "batch_size")

    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    batch_size: PositiveInt = 256
    warm_up: NonNegativeInt = 0
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat | None = None
    decay: Literal["cosine", "half-cosine", "halfway", "none"] = "cosine"
    augmentation: Literal["frepo", "dsa", "crop", "none"] = "frepo"
    temperature: PositiveFloat = 1.0
    scale_loss: bool = True
    loss: Literal["labels", "cross-entropy"] = "labels"
    mix: Literal["none", "mixup", "cutmix"] = "none"
    stop_after: PositiveInt | None = None
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm_momentum: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def steps_done(self) -> int:
        """The number of steps done: all, or those before an early stop."""
        return min(self.steps, self.stop_after or self.steps)

    @property
    def effective_weight_decay(self) -> float:
        """The weight decay: the given one, or the optimizer's own."""
        given = self.weight_decay
        return _WEIGHT_DECAY[self.optimizer] if given is None else given

    def __repr__(self) -> str:
        """Return the spec, with every option named."""
        return f"{self.name}({', '.join(self.named_options())})"

    def make_optimizer(
        self, parameters: Iterable[nn.Parameter]
    ) -> torch.optim.Optimizer:
        """Return the optimizer of a network."""
        rate, decay = self.learning_rate, self.effective_weight_decay
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                parameters, lr=rate, momentum=self.momentum, weight_decay=decay
            )
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(parameters, lr=rate, weight_decay=decay)

    def scale(self, step: int) -> float:
        """Return the learning rate at a step, in units of the peak."""
        warm_up = min(self.warm_up, self.steps // 2)
        if step < warm_up:
            return step / warm_up
        if self.decay == "none":
            return 1.0
        done = (step - warm_up) / (self.steps - warm_up)
        if self.decay == "halfway":
            return 1.0 if done < 0.5 else 0.1
        if self.decay == "half-cosine":
            return 0.5 * (1 + math.cos(math.pi * done / 2))
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return _LAST_LEARNING_RATE + (1 - _LAST_LEARNING_RATE) * cosine

    def augment(
        self, images: Tensor, generator: torch.Generator, mirror: bool
    ) -> Tensor:
        """Return augmented images; unchanged if the augmentation is ``"none"``."""
        if self.augmentation == "none":
            return images
        if self.augmentation == "frepo":
            return random_augmentation(images, generator=generator, mirror=mirror)
        if self.augmentation == "crop":
            return crop_and_flip(images, generator=generator, mirror=mirror)
        parameters = siamese_parameters(generator, images=len(images), mirror=mirror)
        return siamese_augmentation(images, parameters)

    def mixed(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return a batch with each image mixed with another, and the mixed labels.

        Args:
            images: shape ``(b, channels, height, width)``.
            labels: float ``(b, classes)``; mixed in the same shares as the pixels.
            generator: a CPU generator.
        """
        if self.mix == "none":
            return images, labels
        other = torch.randperm(len(images), generator=generator).to(images.device)
        share = float(torch.rand((), generator=generator))
        if self.mix == "mixup":
            mixed = share * images + (1 - share) * images[other]
        else:
            centre = torch.rand(2, generator=generator).tolist()
            mixed, share = with_box(images, images[other], share, centre)
        return mixed, share * labels + (1 - share) * labels[other]


def get_recipe(spec: str) -> Recipe:
    """Build the recipe described by a spec.

    Raises:
        OptionError: the spec is no recipe, or an option is out of its range.

    Example:
        >>> get_recipe("recipe(steps=300, optimizer='sgd')").momentum
        0.9
    """
    return read(Recipe, spec, "recipe(steps=300)")


def training_steps(images: int) -> int:
    """Return the number of training steps for a number of synthetic images.

    It is from FRePo's table, interpolated on logarithmic scales.
    """
    known, steps = np.log(list(_STEPS)), np.log(list(_STEPS.values()))
    return round(float(np.exp(np.interp(math.log(images), known, steps))))


def frepo_recipe(images: int) -> Recipe:
    """Return FRePo's protocol for a number of synthetic images.

    Adam with a warm-up and FRePo's augmentation (arXiv 2206.00719, section 4, and the
    released evaluation script).
    """
    return Recipe(
        steps=training_steps(images), learning_rate=3e-4, batch_size=500, warm_up=500
    )


def classic_recipe(images: int) -> Recipe:
    """Return the protocol of DC, DSA, DM and MTT for a number of synthetic images.

    1,000 epochs of SGD with DSA's augmentation (arXiv 2102.08259, section 4.1, and its
    released code).
    """
    return Recipe(
        steps=_CLASSIC_EPOCHS * math.ceil(images / _CLASSIC_BATCH),
        learning_rate=0.01,
        batch_size=_CLASSIC_BATCH,
        optimizer="sgd",
        decay="halfway",
        augmentation="dsa",
    )


def default_recipe(kind: LabelKind, images: int) -> Recipe:
    """Return FRePo's protocol for regression targets, else the classic one."""
    return frepo_recipe(images) if kind == "regression" else classic_recipe(images)


def real_data_recipe(steps: int) -> Recipe:
    """Return the recipe for networks on all real images.

    Its learning rate is ten times that of the protocol for distilled sets. Accuracy on
    digits levels off within 1,000 steps, a short training for larger data sets.
    """
    return Recipe(steps=steps, learning_rate=3e-3, batch_size=128, warm_up=steps // 10)


def expert_recipe(steps: int, learning_rate: float = 0.05) -> Recipe:
    """Return the recipe of MTT's experts, without their last partial batch.

    Plain SGD at a constant rate, under DSA's augmentation (arXiv 2203.11932, appendix
    A.4, and its released code). The paper's rate is 0.01; short runs have a higher one.
    """
    return Recipe(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=256,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        decay="none",
        augmentation="dsa",
    )


def squeeze_recipe(steps: int, stop_after: int | None = None) -> Recipe:
    """Return SRe2L's recipe for a teacher: the data are squeezed into a network.

    SGD with crops and flips, as in the released code for CIFAR-100; its 200 epochs of
    50,000 images are 78,000 steps.

    Args:
        steps: the number of steps of the schedule.
        stop_after: see :class:`Recipe`.
    """
    return Recipe(
        steps=steps,
        learning_rate=0.1,
        batch_size=128,
        optimizer="sgd",
        augmentation="crop",
        norm_momentum=_TORCH_MOMENTUM,
        stop_after=stop_after,
        warm_up=min(steps // 10, _SQUEEZE_WARM_UP),
    )


def post_training_recipe(
    images: int,
    *,
    epochs: int = 300,
    batch_size: int = 16,
    temperature: float = 20.0,
    decay: Literal["cosine", "half-cosine"] = "cosine",
) -> Recipe:
    """Return the recipe for learning from a teacher's labels of views.

    AdamW on the divergence from the teacher, without the square of the temperature, as
    in the released code of SRe2L (CIFAR-100), RDED and CV-DD.

    Args:
        images: the number of images of the set.
        epochs: the number of passes over the images.
        batch_size: the number of images in a step.
        temperature: the temperature of the labels.
        decay: the decay of the learning rate; RDED's ends at a half.
    """
    return Recipe(
        steps=epochs * max(1, images // batch_size),
        learning_rate=1e-3,
        batch_size=batch_size,
        optimizer="adamw",
        decay=decay,
        augmentation="none",
        temperature=temperature,
        scale_loss=False,
        norm_momentum=_TORCH_MOMENTUM,
    )
