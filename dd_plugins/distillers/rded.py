"""RDED: crops of real images, chosen and labelled by a teacher."""

import math
from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field, PositiveInt

from dd_plugins.distillers.base import check_several_classes
from dd_plugins.distillers.taught import AbstractTaught, TaughtState
from dd_plugins.distillers.unmoved import AbstractUnmoved
from dd_plugins.errors import OptionError
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.views import Views
from dd_plugins.training.patches import PatchChoice, Realism
from dd_plugins.training.recipes import post_training_recipe

__all__ = ["RDED"]

_EPOCHS = 300
_TEMPERATURE = 20.0
_BATCHES = ((1, 10), (10, 50), (math.inf, 100))  # by images per class, as published


@record
class RDED(AbstractUnmoved[TaughtState], AbstractTaught):
    """Crops of real images, chosen by a teacher: no image is optimised.

    The teacher's loss scores a few crops of each of many images. The best crops are put
    together, ``factor`` x ``factor`` to an image. Every method with a teacher's labels
    has to beat these crops.

    Args:
        factor: crops along each side of an image; it must divide height and width. With
            1, each image is one crop.
        candidates: number of real images of each class to score.
        crops: number of crops of each scored image.
        smallest: area of the smallest crop, in (0, 1] of the image.
        realism: ``"best"`` for the crops with the least loss, ``"medium"`` for crops
            around the median.

    The options of teachers and labels are those of
    :class:`~dd_plugins.distillers.taught.AbstractTaught`.

    Reference: Sun et al., "On the Diversity and Realism of Distilled Dataset" (RDED),
    CVPR 2024, arXiv 2312.03526, and its released code.

    Differences: networks learn from crops of at least ``1/factor`` of the area as
    there, but patches are not shuffled; images are not rounded to 8 bits; the network
    of the last step is scored, not the best on test images.
    """

    name = "rded"

    factor: Annotated[int, Field(ge=1, le=8)] = 1
    candidates: PositiveInt = 300
    crops: PositiveInt = 5
    smallest: Annotated[float, Field(gt=0, le=1)] = 0.08
    realism: Realism = "best"

    @property
    def classes_apart(self) -> bool:
        """The teacher learns from all classes."""
        return False

    def for_task(self, task: Task) -> Self:
        """Settle the views, and how networks are trained.

        Raises:
            OptionError: there is a single class; the factor does not divide height and
                width; or the student has another temperature than the labels.
        """
        check_several_classes(self.name, task)
        _, height, width = task.image_shape
        if height % self.factor or width % self.factor:
            raise OptionError(
                f"rded: factor must divide the {height}x{width} of the images, got "
                f"{self.factor}"
            )
        count = task.synthetic_images
        views = Views(count=_EPOCHS, smallest=1 / self.factor, mix="cutmix")
        largest = next(
            batch for limit, batch in _BATCHES if task.images_per_class <= limit
        )
        batch_size = min(largest, count)
        student = post_training_recipe(
            count,
            epochs=_EPOCHS,
            batch_size=batch_size,
            temperature=self.temperature or _TEMPERATURE,
            decay="half-cosine",
        )
        whole = replace(
            self,
            views=self.views or views,
            temperature=self.temperature or _TEMPERATURE,
            student=self.student or student,
            group=self.group or 0,
        )
        whole.check_student()
        return whole

    def patch_choice(self, run: Run) -> PatchChoice:
        """Return the choice of crops, by the options."""
        return PatchChoice(
            self.factor,
            self.candidates,
            self.crops,
            self.smallest,
            self.realism,
            run.seed,
        )
