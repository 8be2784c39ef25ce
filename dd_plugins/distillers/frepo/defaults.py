"""FRePo's default options: the paper's, and those of short runs by data set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

from dd_plugins.networks.base import (
    AbstractNetwork,
)
from dd_plugins.networks.conv import Conv
from dd_plugins.run import Task

__all__ = [
    "LONG_RUN",
    "ON_CPU",
    "PAPER",
    "PAPER_STEPS",
    "Loss",
    "Settings",
    "ShortRun",
    "short_run",
]

Loss = Literal["squared-error", "cross-entropy"]
"""The loss of the regression's predictions."""


@dataclass(frozen=True)
class Settings:
    """The options set by a preset; the defaults are the paper's."""

    pool_size: int = 10
    max_online_updates: int = 100
    real_batch_size: int = 1024
    updates_per_batch: int = 1
    online_steps: int = 1
    learning_rate: float = 3e-4
    last_learning_rate: float = 0.1
    online_learning_rate: float = 3e-4
    augment: bool = False
    augmented_copies: int = 0
    ridge: float = 1e-6
    loss: Loss = "squared-error"
    average: float = 0.0

    def with_given(self, options: Mapping[str, Any]) -> Self:
        """Return these settings, with the given options in their place.

        Augmented copies, given or by default, set augmentation and a larger ridge,
        unless these are given.

        Args:
            options: options of FRePo; None stands for an option not given.
        """
        names = {field.name for field in fields(self)}
        given = {
            name: value
            for name, value in options.items()
            if name in names and value is not None
        }
        wanted = 0 if given.get("augment") is False else self.augmented_copies
        if given.setdefault("augmented_copies", wanted):
            given.setdefault("augment", True)
            given.setdefault("ridge", _RIDGE_OF_COPIES)
        return replace(self, **given)


@dataclass(frozen=True)
class ShortRun:
    """The defaults of a run of minutes on a CPU; the paper's run has 500,000 steps.

    Attributes:
        steps: the number of steps.
        settings: the options.
        flip_up_to: flipped copies are used up to this many images per class; 0 for
            never.
        network: the architecture; None for the paper's, narrower on a CPU.
        rate_of_few: the learning rate for up to 50 images in all; None for the rate in
            the settings.
    """

    steps: int
    settings: Settings
    flip_up_to: float
    network: AbstractNetwork | None = None
    rate_of_few: float | None = None

    def settings_for(self, images: int) -> Settings:
        """Return the options of a short run of this many images in all."""
        copies = next((each for most, each in _COPIES if images <= most), 0)
        settings = replace(self.settings, augmented_copies=copies)
        if images > _MANY:
            settings = replace(settings, real_batch_size=PAPER.real_batch_size)
        if self.rate_of_few is not None and images <= _FEW:
            return replace(settings, learning_rate=self.rate_of_few)
        return settings


PAPER = Settings()
PAPER_STEPS = 500_000
# The ridge with augmented copies: a network trained on them does not fit them exactly.
_RIDGE_OF_COPIES = 1e-2
# Pairs: the most images in all, and the augmented copies of a short run for up to so
# many. Measured for 10, 100 and 500 images; copies of many images are costly.
_FEW = 50
_MANY = 500
_COPIES = ((_FEW, 7), (200, 3), (_MANY, 1))
# Runs of at least this many steps take the paper's learning rate. The number is our
# guess: nothing between 1,000 and 500,000 steps was measured.
LONG_RUN = 50_000

# The data-set-dependent defaults. ``flip`` is the released code's; the rest was
# measured for digits, mnist, fashion-mnist and cifar10 and carried over to their
# neighbours: docs/benchmarks/defaults.md and frepo.md. Up to 500 images, augmented
# copies gain two to five points at one image per class, up to two at ten and fifty.
# Above, one augmented view replaces colour images alone, for a gain of one to two
# points; grey images would lose two to five. There the set takes most of a step, so a
# larger real batch costs little: ten images per class of CIFAR-100 gain by the paper's.
_DIGITS = Settings(learning_rate=1e-2, loss="cross-entropy")
_GREY = replace(_DIGITS, real_batch_size=256)
_COLOUR = replace(_GREY, learning_rate=5e-3, augment=True, online_learning_rate=1e-3)
# One image per class of CIFAR-10 gains 1.0 to 1.5 points by twice the rate: docs/lab.
_RATE_OF_FEW = 1e-2
_SHORT_RUNS = {
    "digits": ShortRun(500, _DIGITS, 0, network=Conv(width=32, depth=2)),
    "mnist": ShortRun(800, _GREY, 0),
    "fashion-mnist": ShortRun(800, _GREY, 0),
    "cifar10": ShortRun(800, _COLOUR, math.inf, rate_of_few=_RATE_OF_FEW),
    "cifar100": ShortRun(800, _COLOUR, 1),
    "tiny-imagenet": ShortRun(800, _COLOUR, 1),
}
ON_CPU = Conv(width=32)  # a sixteenth of the work of the paper's width of 128


def short_run(task: Task) -> ShortRun:
    """Return the defaults of a short run, for a known data set or others like it."""
    if task.dataset in _SHORT_RUNS:
        return _SHORT_RUNS[task.dataset]
    flip_up_to = 10 if task.mirror else 0
    if task.image_shape[0] == 3:
        return ShortRun(800, _COLOUR, flip_up_to, rate_of_few=_RATE_OF_FEW)
    settings = replace(_GREY, learning_rate=5e-3)
    return ShortRun(800, settings, flip_up_to)
