"""SRe2L: images recovered from the statistics of a trained network."""

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.subsets import by_class
from dd_plugins.distillers.base import (
    InitialImages,
    add_gradient,
    check_several_classes,
)
from dd_plugins.distillers.state import Metrics
from dd_plugins.distillers.taught import AbstractTaught, TaughtState
from dd_plugins.errors import OptionError
from dd_plugins.functional.augment import crop_sides
from dd_plugins.functional.batch_norm import statistics_distance, watched_statistics
from dd_plugins.functional.resample import resample
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.synthetic.views import Views
from dd_plugins.training.patches import PatchChoice
from dd_plugins.training.recipes import post_training_recipe

__all__ = ["SRe2L"]

_LARGE = 64  # pixels a side; the published runs take crops of images so large
_STEPS, _PAPER_STEPS, _PAPER_STEPS_LARGE = 500, 1_000, 4_000
_EPOCHS, _PAPER_EPOCHS, _PAPER_EPOCHS_LARGE = 300, 400, 100
_CANDIDATES, _CROPS = 300, 5  # scored images of a class, and crops of each
_FIRST_LAYER = 10.0
_SMALLEST = 0.08
_TEMPERATURE, _PAPER_TEMPERATURE = 20.0, 30.0


@record
class SRe2L(AbstractTaught):
    """Images optimised for a trained network's classes and BatchNorm statistics.

    A network is *squeezed* from the real data. Images are *recovered*: the network is
    to classify them correctly, with means and variances at its BatchNorm layers like
    those of the real data. Its labels for each view *relabel* them. The images of a
    group, one of every class, are recovered together; each step updates all groups.

    Several ``teachers`` take turns from step to step, and the mean of their logits
    labels the views; only one is on the device at a time. If several processes share a
    run, each recovers some of the groups.

    The preset settles all options not given.

    Args:
        preset: ``"plus"`` for SRe2L++: images start from real crops, labels take the
            BatchNorm statistics of small groups, networks learn in small batches.
            ``"paper"`` for the method as published for CIFAR-100, or, from 64 pixels a
            side, for Tiny-ImageNet.
        learning_rate: learning rate of Adam on the images, with betas 0.5 and 0.9; it
            falls to 0 by a cosine.
        statistics_weight: weight of the distance between BatchNorm statistics.
        first_layer: weight of the first BatchNorm layer; the others have weight one.
        normalize: ``"layer"`` divides the distance of each layer's means by the spread
            of the data there, and the distance of its variances by their norm, and
            takes the mean over the layers, so one weight serves all architectures;
            ``"none"`` adds the distances up, as published.
        jitter: most pixels by which images are rolled, redrawn at each step.
        flip: whether images are mirrored in half of the steps, where the data allow it.
        crop: whether each step sees a random crop of the images, scaled up; all images
            of a group share it.
        smallest: area of the smallest crop, in (0, 1] of the image.
        curriculum: whether crops shrink from whole images to ``smallest`` by a cosine
            (CDA).
        group_size: most images in a group, for data of many classes.

    The options of teachers and labels are those of
    :class:`~dd_plugins.distillers.taught.AbstractTaught`.

    References: Yin, Xing, Shen, "Squeeze, Recover and Relabel" (SRe2L), NeurIPS 2023,
    arXiv 2306.13092; Yin, Shen, "Dataset Distillation via Curriculum Data Synthesis"
    (CDA), TMLR 2024, arXiv 2311.18838; Cui et al., "Dataset Distillation via
    Committee Voting" (CV-DD, SRe2L++), arXiv 2501.07575; Shao et al. (G-VBSM: teachers
    in turn), CVPR 2024, arXiv 2311.17950; and their released codes.

    Differences: images are rolled by 0 to ``jitter`` pixels, for Tiny-ImageNet too,
    where the code rolls either way; ``curriculum`` keeps the learning rate and weight
    of the preset (0.4 and 0.05 in CDA); images are not rounded to 8 bits; runs are
    shorter by default; views are addressed by number, and in each every image has its
    own partner and share; teachers in turn have equal votes.
    """

    name = "sre2l"
    needs_batch_norm: ClassVar[bool] = True

    preset: Literal["plus", "paper"] = "plus"
    learning_rate: PositiveFloat | None = None
    statistics_weight: NonNegativeFloat | None = None
    first_layer: NonNegativeFloat = _FIRST_LAYER
    normalize: Literal["layer", "none"] | None = None
    jitter: NonNegativeInt = 4
    flip: bool | None = None
    crop: bool | None = None
    smallest: Annotated[float, Field(gt=0, le=1)] = _SMALLEST
    curriculum: bool = False
    group_size: Annotated[int, Field(ge=2)] = 100

    def for_task(self, task: Task) -> Self:
        """Settle the options by the preset and the size of the images.

        Raises:
            OptionError: there is a single class; a curriculum is to run without crops;
                or an option has no effect; or the student has another temperature than
                the labels.
        """
        check_several_classes(self.name, task)
        if self.curriculum and self.crop is False:
            raise OptionError("sre2l: a curriculum is one of crops, got crop=False")
        large = min(task.image_shape[1:]) >= _LARGE
        usual = self._paper(task, large) if self.preset == "paper" else self._plus(task)
        settled = {
            name: value for name, value in usual.items() if getattr(self, name) is None
        }
        whole = replace(self, **settled)
        if not whole.crop and whole.smallest != _SMALLEST:
            raise OptionError(
                "sre2l: without crops there is no smallest one, got "
                f"smallest={whole.smallest}; take crop=True"
            )
        if whole.statistics_weight == 0 and whole.first_layer != _FIRST_LAYER:
            raise OptionError(
                "sre2l: statistics of weight 0 have no first layer, got "
                f"first_layer={whole.first_layer}; take another statistics_weight"
            )
        whole.check_student()
        return whole

    def _paper(self, task: Task, large: bool) -> dict[str, Any]:
        """Return the published settings."""
        count = task.synthetic_images
        if large:
            temperature = self.temperature or _TEMPERATURE
            student = replace(
                post_training_recipe(
                    count,
                    epochs=_PAPER_EPOCHS_LARGE,
                    batch_size=256,
                    temperature=temperature,
                ),
                optimizer="sgd",
                learning_rate=0.2,
                weight_decay=1e-4,
                scale_loss=True,
            )
            return {
                "learning_rate": 0.1,
                "statistics_weight": 1.0,
                "normalize": "none",
                "flip": True,
                "crop": True,
                "views": Views(count=_PAPER_EPOCHS_LARGE),
                "temperature": temperature,
                "student": replace(student, warm_up=student.steps // 20),
            }
        temperature = self.temperature or _PAPER_TEMPERATURE
        return {
            "learning_rate": 0.25,
            "statistics_weight": 0.01,
            "normalize": "none",
            "flip": False,
            "crop": self.curriculum,
            "views": Views(count=_PAPER_EPOCHS, crop="padded", mix="mixup", alpha=0.8),
            "temperature": temperature,
            "group": min(128, count) if count > 1 else 0,
            "student": post_training_recipe(
                count, epochs=_PAPER_EPOCHS, batch_size=128, temperature=temperature
            ),
        }

    def _plus(self, task: Task) -> dict[str, Any]:
        """Return the settings of SRe2L++, with statistics by layer, for short runs."""
        count, batch_size = task.synthetic_images, 16
        temperature = self.temperature or _TEMPERATURE
        return {
            "learning_rate": 0.1,
            "statistics_weight": 10.0,
            "normalize": "layer",
            "flip": True,
            "crop": True,
            "views": Views(count=_EPOCHS, smallest=_SMALLEST, mix="cutmix"),
            "temperature": temperature,
            "group": min(batch_size // 2, count) if count > 1 else 0,
            "student": post_training_recipe(
                count, epochs=_EPOCHS, batch_size=batch_size, temperature=temperature
            ),
        }

    def default_steps(self, task: Task) -> int:
        """Return 500 steps; by the paper's preset 1,000, or 4,000 for large images."""
        if self.preset == "plus":
            return _STEPS
        large = min(task.image_shape[1:]) >= _LARGE
        return _PAPER_STEPS_LARGE if large else _PAPER_STEPS

    @property
    def initial_images(self) -> InitialImages:
        """Images start from real crops, or from noise by the paper's preset."""
        return "noise" if self.preset == "paper" else "real"

    @property
    def bounded(self) -> bool:
        """Images are kept within [0, 1], as published."""
        return True

    def images_in_graph(self, task: Task) -> int:
        """Return the images of the largest group of one image of every class."""
        groups = -(-task.num_classes // self.group_size)
        return -(-task.num_classes // groups)

    def accumulate(
        self, state: TaughtState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of each group's loss."""
        del real
        run = state.run
        teacher = state.teachers[step % len(state.teachers)]
        gradient = torch.zeros_like(leaves.pixels)
        groups = _groups(leaves.classes.cpu(), self.group_size)
        own = list(enumerate(groups))[run.rank :: run.ranks]
        zero = leaves.pixels.new_zeros(())
        class_loss, distance = zero.clone(), zero.clone()
        for number, indices in own:
            pixels = leaves.pixels.detach()[indices].requires_grad_()
            losses = self._losses(
                run, teacher, pixels, leaves.classes[indices], step, number
            )
            loss = losses[0] + self._weight * losses[1]
            (gradient[indices],) = torch.autograd.grad(loss, [pixels])
            # Metrics are averaged over the processes, as gradients are.
            class_loss += run.ranks * losses[0].detach() / len(groups)
            distance += run.ranks * losses[1].detach() / len(groups)
        # Gradients are averaged over the processes, and each has groups of its own.
        add_gradient(leaves.pixels, gradient * run.ranks)
        return {
            "loss": class_loss + self._weight * distance,
            "class_loss": class_loss,
            "statistics": distance,
        }

    @property
    def _weight(self) -> float:
        assert self.statistics_weight is not None
        return self.statistics_weight

    def _losses(
        self,
        run: Run,
        teacher: FeatureNetwork,
        pixels: Tensor,
        classes: Tensor,
        step: int,
        group: int,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss for the classes, and the distance of the statistics."""
        generator = run.generator(f"recovery of group {group}", step)
        view = self._view(run, pixels, generator, step)
        view = view.contiguous(memory_format=torch.channels_last)
        with watched_statistics(teacher) as layers, run.autocast():
            logits = teacher(view)
        distance = statistics_distance(
            layers, first=self.first_layer, by_layer=self.normalize == "layer"
        )
        return F.cross_entropy(logits.float(), classes), distance

    def _view(
        self, run: Run, images: Tensor, generator: torch.Generator, step: int
    ) -> Tensor:
        """Return the images of a group under one crop, flip and roll."""
        draws = torch.rand(5, generator=generator).tolist()
        down, right, area, shape, flipped = draws
        if self.crop:
            smallest = self._smallest(step, run.steps)
            area = smallest + area * (1 - smallest)
            images = _cropped(images, area, shape, down, right)
        if self.flip and run.task.mirror and flipped < 0.5:
            images = images.flip(-1)
        if self.jitter:
            rolls = torch.randint(self.jitter + 1, (2,), generator=generator).tolist()
            images = images.roll(rolls, dims=(-2, -1))
        return images

    def _smallest(self, step: int, steps: int) -> float:
        """Return the area of the smallest crop at a step (CDA's curriculum)."""
        if not self.curriculum:
            return self.smallest
        left = 0.5 * (1 + math.cos(math.pi * step / steps))
        return self.smallest + (1 - self.smallest) * left

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return Adam with the published betas."""
        assert self.learning_rate is not None
        return torch.optim.Adam(parameters, lr=self.learning_rate, betas=(0.5, 0.9))

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the cosine to 0."""
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def patch_choice(self, run: Run) -> PatchChoice:
        """Return the choice of the first images: real crops of a medium loss."""
        return PatchChoice(1, _CANDIDATES, _CROPS, _SMALLEST, "medium", run.seed)


def _groups(classes: Tensor, most: int) -> list[Tensor]:
    """Return the indices of the images of each group, one of every class.

    Args:
        classes: int64, the class of each image.
        most: most images in a group; a larger group is cut into even parts.
    """
    rank = torch.empty_like(classes)  # how many images of its class come before it
    for members in by_class(classes):
        rank[members] = torch.arange(len(members))
    found: list[Tensor] = []
    for group in by_class(rank):
        found += group.tensor_split(-(-len(group) // most))
    return found


def _cropped(
    images: Tensor, area: float, shape: float, down: float, right: float
) -> Tensor:
    """Return one crop of all images, scaled to their size.

    Args:
        images: shape ``(n, channels, height, width)``.
        area: area of the crop, in (0, 1] of the image.
        shape: its shape, from narrow (0) to wide (1).
        down: vertical position, in [0, 1] of the room left by the crop.
        right: horizontal position, likewise.
    """
    tall, wide = (min(1.0, side) for side in crop_sides(area, shape))
    top, left = (2 * down - 1) * (1 - tall), (2 * right - 1) * (1 - wide)
    matrix = torch.tensor([[wide, 0.0, left], [0.0, tall, top]], device=images.device)
    grid = F.affine_grid(
        matrix.expand(len(images), -1, -1), list(images.shape), align_corners=False
    )
    return resample(images, grid, "border")
