"""Published and short settings of trajectory matching, by the size of the set."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Self, TypeVar

from pydantic import NonNegativeInt, PositiveInt, model_validator

from dd_plugins.run import Task
from dd_plugins.spec import Record, record

__all__ = ["Settings", "Window", "paper_run", "short_run"]

Value = TypeVar("Value")


@record
class Window(Record):
    """Where students start, by snapshot: ``window(0, 10, grows_to=20, steps=1000)``.

    Early snapshots of an expert teach easy patterns, later ones hard ones. A small set
    can hold the easy ones alone (Guo et al., arXiv 2310.05773, section 3.2).

    Args:
        first: the earliest starting snapshot of a student, from 0.
        last: the latest starting snapshot of a student.
        grows_to: the latest starting snapshot once the window has grown; None for no
            growth.
        steps: steps of the run until the window has grown, linearly; given with
            ``grows_to``.
    """

    name = "window"
    positional = ("first", "last")

    first: NonNegativeInt = 0
    last: NonNegativeInt
    grows_to: NonNegativeInt | None = None
    steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        """Refuse a window that ends before it starts, or shrinks."""
        if self.last < self.first:
            raise ValueError(f"last must be at least {self.first}, got {self.last}")
        if self.grows_to is not None and self.grows_to < self.last:
            raise ValueError(
                f"grows_to must be at least {self.last}, got {self.grows_to}"
            )
        if (self.grows_to is None) != (self.steps is None):
            raise ValueError("grows_to and steps go together: give both, or neither")
        return self

    @property
    def latest(self) -> int:
        """The latest snapshot ever in the window."""
        return self.last if self.grows_to is None else self.grows_to

    def at(self, step: int) -> tuple[int, int]:
        """Return the first and the last snapshot of the window at a step."""
        if self.grows_to is None or self.steps is None:
            return self.first, self.last
        grown = min(step, self.steps) * (self.grows_to - self.last) // self.steps
        return self.first, self.last + grown


@dataclass(frozen=True)
class Settings:
    """The options that depend on the size of the set.

    Attributes:
        student_steps: number N of the student's steps.
        target_distance: number M of snapshots from the start to the target.
        difficulty: the snapshots at which students start.
        learning_rate: learning rate of SGD on the images.
        step_size: step size of the student at the start of the run.
        step_size_learning_rate: learning rate of SGD on the step size.
        batch_size: synthetic images in a student's step; None for all.
    """

    student_steps: int
    target_distance: int
    difficulty: Window
    learning_rate: float
    step_size: float
    step_size_learning_rate: float
    batch_size: int | None = None


# The table of DC-BENCH, given by MTT's author, by classes and images per class. A
# window ends before the published ``max_start_epoch``.
_PAPER = {
    10: {
        1: Settings(50, 2, Window(last=1), 100.0, 0.01, 1e-7),
        10: Settings(30, 2, Window(last=19), 100.0, 0.001, 1e-5),
        50: Settings(30, 2, Window(last=39), 1000.0, 0.001, 1e-5),
    },
    100: {
        1: Settings(20, 3, Window(last=19), 1000.0, 0.01, 1e-5),
        10: Settings(20, 2, Window(last=19), 1000.0, 0.01, 1e-5),
        50: Settings(80, 2, Window(last=39), 1000.0, 0.01, 1e-5, 125),
    },
    200: {
        1: Settings(10, 2, Window(last=9), 10_000.0, 0.01, 1e-4),
        10: Settings(20, 2, Window(last=39), 10_000.0, 0.01, 1e-4, 200),
        50: Settings(20, 2, Window(last=39), 10_000.0, 0.01, 1e-4, 300),
    },
}

# Measured on CIFAR-10 at width 32: see docs/benchmarks/methods.md.
_SHORT = {
    1: Settings(20, 2, Window(last=1), 100.0, 0.02, 1e-6),
    10: Settings(20, 2, Window(last=4), 100.0, 0.02, 1e-6, 25),
}


def paper_run(task: Task) -> Settings:
    """Return the published settings, for CIFAR-10, CIFAR-100 or Tiny-ImageNet.

    They are those of the nearest numbers of classes and images per class in the table.
    """
    return _nearest(_nearest(_PAPER, task.num_classes), task.images_per_class)


def short_run(task: Task) -> Settings:
    """Return the settings of runs of minutes on a CPU."""
    return _nearest(_SHORT, task.images_per_class)


def _nearest(table: Mapping[int, Value], number: int) -> Value:
    return table[min(table, key=lambda key: abs(log(key / number)))]
