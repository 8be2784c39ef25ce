"""Rotated images as classes of their own, for sets in class-incremental learning."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from dd_plugins.data.sampler import Batch, RealSampler
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.errors import OptionError
from dd_plugins.run import Run, Task
from dd_plugins.spec import record, refuse_without_effect
from dd_plugins.synthetic.labels import LABEL_KINDS, LabelKind
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.training.teacher import Teacher
from dd_plugins.wrappers.base import AbstractWrapper, WrappedState, base_of

__all__ = ["Rotated", "RotatedState", "rotated_labels"]


@dataclass
class RotatedState(WrappedState):
    """The base's state, and the upright real images."""

    real: RealSampler


@record
class Rotated(AbstractWrapper):
    """Distil with rotated copies of the images as further classes.

    A set distilled from two classes alone captures only the difference between them.
    Beside further classes it is worse than real images. Here the base sees each image,
    synthetic or real, under several rotations, and each rotation of a class is a class
    of its own. To distinguish all rotations, the images must show more of their class.
    The stored set does not grow.

    This is meant for streams of experiences (``dd_avalanche``) with few classes each.

    There a network trains on a memory together with many real images of the current
    classes. It can then separate old classes from new ones by the difference between
    learned and real images alone. With ``current_turns`` the base meets such a mixture
    during distillation: at each step, in some rotations drawn at random, real images
    replace synthetic ones. This helps a base that fits all classes at once, such as
    ``frepo``; a base that matches each class alone only sees fewer rotations.

    Args:
        base: any distiller.
        turns: the number of rotations: 4 quarter turns, for square images; or 2 half
            turns.
        current_turns: the number of rotations with real images at each step, from 0 to
            ``turns - 1``.
        current_images: the number of real images of each class in a rotation with real
            images.

    Reference: the labels are those of Lee, Hwang, Shin, "Self-supervised label
    augmentation via input transformations", ICML 2020, arXiv 1910.05872, section 3.1;
    distilling with them is ours.
    """

    name = "rotated"
    aliases = ("turned",)  # its name in 0.1

    turns: Literal[2, 4] = 4
    current_turns: NonNegativeInt = 0
    current_images: PositiveInt = 10

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        """Refuse a number of real images where no turn has any."""
        if not self.current_turns:
            why = "no rotation has real images without current_turns"
            refuse_without_effect(self, ["current_images"], why)
        return self

    def for_task(self, task: Task) -> Self:
        """Settle the base's options for the number of classes it will see.

        Raises:
            OptionError: images are not square, as quarter turns require; or no turn is
                left for the synthetic images; or a teacher labels the base's views; or
                the base moves no image.
        """
        if self.current_turns >= self.turns:
            raise OptionError(
                f"rotated: current_turns must be below turns={self.turns}, got "
                f"{self.current_turns}"
            )
        if type(base_of(self)).teacher is not AbstractDistiller.teacher:
            raise self._no_teacher()
        self.check_base_moves_images()
        _, height, width = task.image_shape
        if self.turns == 4 and height != width:
            raise OptionError(
                f"rotated: quarter turns need square images, got {height}x{width} "
                "pixels; use turns=2"
            )
        return replace(self, base=self.base.for_task(self._more(task)))

    def images_in_graph(self, task: Task) -> int:
        """Return the number of images in the graph, in all turns, and real ones."""
        synthetic = self.base.images_in_graph(self._more(task))
        more = self.current_turns * self.current_images * task.num_classes
        return synthetic + more

    def setup(self, run: Run, real: RealSampler) -> RotatedState:
        """Return the base's state, for a run with more classes, and the real images."""
        more = replace(run, task=self._more(run.task))
        classes = run.task.num_classes
        base = super().setup(more, self._rotated(more, real, classes))
        return RotatedState(more, base, real)

    def inner(self, state: AbstractState) -> AbstractState:
        """Return the base's state."""
        assert isinstance(state, RotatedState)
        return state.base

    def accumulate(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the base's gradient on all turns, carried back to the images."""
        learns_labels = step == 0 and self._labels_of_base(state, leaves) is not None
        if learns_labels and self.current_turns:
            raise OptionError(
                f"{self.name}: with current_turns the base sees other images at each "
                f"step, but {self.base!r} learns a label for each image; leave out one "
                "of the two"
            )
        seen = self._seen(state, leaves, step)
        # The base adds to the ``grad`` of leaves, which rotated tensors are not. So it
        # gets detached copies, and their gradients go back through the rotation below.
        copies = seen.detached()
        copies.pixels.requires_grad_()
        copies.labels.requires_grad_(leaves.labels.requires_grad)
        for other in copies.others.values():
            other.requires_grad_()
        metrics = super().accumulate(
            state, copies, self._rotated(state.run, real, leaves.labels.shape[1]), step
        )
        pairs = [
            (seen.pixels, copies.pixels),
            (seen.labels, copies.labels),
            *zip(seen.others.values(), copies.others.values(), strict=True),
        ]
        for tensor, copy in pairs:
            if copy.grad is not None:
                torch.autograd.backward(tensor, copy.grad)
        return metrics

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Change nothing further."""
        return {}

    def advance(self, state: AbstractState, leaves: Leaves, step: int) -> None:
        """Advance the base on the images it saw in this step."""
        seen = self._seen(state, leaves, step)
        super().advance(state, seen.detached(), step)

    def predictor(
        self, state: AbstractState, leaves: Leaves
    ) -> Callable[[Tensor], Tensor] | None:
        """Return the base's predictor, for the classes of upright images."""
        found = super().predictor(state, self._all_turns(state, leaves))
        classes = leaves.labels.shape[1]
        return None if found is None else lambda images: found(images)[:, :classes]

    def teacher(self, state: AbstractState, leaves: Leaves) -> Teacher | None:
        """Return None: a teacher of rotated images knows other classes.

        Raises:
            OptionError: the base has a teacher.
        """
        if super().teacher(state, self._all_turns(state, leaves)) is not None:
            raise self._no_teacher()
        return None

    def _no_teacher(self) -> OptionError:
        return OptionError(
            f"{self.name}: expected a distiller without a teacher of views, got "
            f"{self.base!r}"
        )

    def _more(self, task: Task) -> Task:
        return replace(
            task,
            num_classes=self.turns * task.num_classes,
            context_images=self.turns * task.context_images,
            context_classes=self.turns * task.context_classes,
            unequal_counts=task.unequal_counts and self.turns * task.unequal_counts,
        )

    def _rotated(self, run: Run, real: RealSampler, classes: int) -> RealSampler:
        return _RotatedSampler(real, run, self.turns, classes)

    def _all_turns(self, state: AbstractState, leaves: Leaves) -> Leaves:
        """Return the set in every turn: its context, then all else."""
        return _joined(
            [self._turned(leaves, turn) for turn in range(self.turns)],
            _held(state, self.turns),
        )

    def _seen(self, state: AbstractState, leaves: Leaves, step: int) -> Leaves:
        """Return the images for the base in a step, with real ones in some rotations.

        They depend on the seed and the step alone: a resumed run sees the same ones. So
        do all processes, whose networks are then trained alike.
        """
        assert isinstance(state, RotatedState)
        generator = state.run.generator("current turns", step)
        drawn = torch.randperm(self.turns, generator=generator)
        current = drawn[: self.current_turns].tolist()
        return _joined(
            [
                self._current(state.real, leaves, turn, step)
                if turn in current
                else self._turned(leaves, turn)
                for turn in range(self.turns)
            ],
            _held(state, self.turns),
        )

    def _turned(self, leaves: Leaves, turn: int) -> Leaves:
        """Return the set in one turn."""
        return Leaves(
            _rotate(leaves.pixels, turn, self.turns),
            rotated_labels(leaves.labels, turn, self.turns, self.label_kind),
            leaves.classes + turn * leaves.labels.shape[1],
            leaves.others,
            leaves.fixed,
        )

    def _current(
        self, real: RealSampler, leaves: Leaves, turn: int, step: int
    ) -> Leaves:
        """Return one turn of the set's classes, with real images of all that have any.

        The others keep the set's images.
        """
        present = real.classes
        parts = [
            self._real_class(real, leaves, label, turn, step)
            if label in present
            else self._turned(_of_class(leaves, label), turn)
            for label in sorted(set(leaves.classes.tolist()))
        ]
        return _joined(parts, 0)

    def _real_class(
        self, real: RealSampler, leaves: Leaves, label: int, turn: int, step: int
    ) -> Leaves:
        """Return real images of a class in one turn, labelled like the set's.

        They require no gradient, and do not move.
        """
        classes = leaves.labels.shape[1]
        batch = real.class_batch(step, label, self.current_images, shared=True)
        first = self.initial_labels(batch.labels, classes).to(leaves.labels)
        return Leaves(
            _rotate(batch.images, turn, self.turns),
            rotated_labels(first, turn, self.turns, self.label_kind),
            (batch.labels + turn * classes).to(leaves.classes),
            leaves.others,
            torch.ones_like(batch.labels, dtype=torch.bool),
        )

    def labels(self, state: AbstractState, leaves: Leaves) -> Tensor:
        """Return the base's labels of the upright images, for their classes alone."""
        found = self._labels_of_base(state, leaves)
        if found is None:
            return leaves.labels
        count, classes = leaves.labels.shape
        held = _held(state, self.turns)
        others = found[self.turns * held :][: count - held]
        upright = torch.cat([found[:held], others])[:, :classes]
        if self.label_kind == "probabilities":  # given that the image is upright
            return upright / upright.sum(dim=1, keepdim=True)
        offset = LABEL_KINDS[self.label_kind].offset
        return upright - offset(self.turns * classes) + offset(classes)

    def _labels_of_base(self, state: AbstractState, leaves: Leaves) -> Tensor | None:
        """Return the labels learned by the base, in every turn; None without any."""
        seen = self._all_turns(state, leaves)
        found = super().labels(state, seen)
        return None if found is seen.labels else found


def _held(state: AbstractState, turns: int) -> int:
    """Return the number of context images in one turn."""
    return state.run.task.context_images // turns


def _of_class(leaves: Leaves, label: int) -> Leaves:
    """Return the images of one class."""
    chosen = leaves.classes == label
    return Leaves(
        leaves.pixels[chosen],
        leaves.labels[chosen],
        leaves.classes[chosen],
        leaves.others,
        None if leaves.fixed is None else leaves.fixed[chosen],
    )


def _joined(parts: Sequence[Leaves], held: int) -> Leaves:
    """Return several parts as one set: the first images of each, then all else.

    Args:
        parts: the parts; the further learned tensors are those of the first.
        held: the number of first images: those of a context, which a distiller
            expects at the front.
    """
    fixed = [
        torch.zeros_like(part.classes, dtype=torch.bool)
        if part.fixed is None
        else part.fixed
        for part in parts
    ]
    return Leaves(
        _in_order([part.pixels for part in parts], held),
        _in_order([part.labels for part in parts], held),
        _in_order([part.classes for part in parts], held),
        parts[0].others,
        _in_order(fixed, held),
    )


def _in_order(tensors: Sequence[Tensor], held: int) -> Tensor:
    """Join tensors: the first ``held`` rows of each, then all others."""
    if not held:
        return torch.cat(list(tensors))
    first, others = [each[:held] for each in tensors], [each[held:] for each in tensors]
    return torch.cat([*first, *others])


def rotated_labels(
    labels: Tensor, turn: int, turns: int, label_kind: LabelKind
) -> Tensor:
    """Return the labels of images in a turn.

    The classes of turn t are numbered from ``t * classes``. Regression targets stay
    centred; probabilities and scores of other turns are 0.

    Args:
        labels: of the images as they are, float of shape ``(n, classes)``.
        turn: the number of the turn, from 0.
        turns: the number of turns.
        label_kind: the kind of the labels.

    Returns:
        Shape ``(n, turns * classes)``.

    Example:
        >>> rotated_labels(torch.tensor([[0.5, -0.5]]), 1, 2, "regression")
        tensor([[-0.2500, -0.2500,  0.7500, -0.2500]])
    """
    classes = labels.shape[1]
    before, after = turn * classes, (turns - 1 - turn) * classes
    return LABEL_KINDS[label_kind].among(labels, before, after)


def _rotate(images: Tensor, turn: int, turns: int) -> Tensor:
    """Rotate images ``(n, channels, height, width)`` by a fraction of a whole turn."""
    rotated = torch.rot90(images, turn * 4 // turns, (-2, -1))
    return rotated.contiguous(memory_format=torch.channels_last)


class _RotatedSampler(RealSampler):
    """Draws of real images in every turn; each turn of a class is its own class."""

    def __init__(self, real: RealSampler, run: Run, turns: int, classes: int) -> None:
        self._real, self._run, self._turns = real, run, turns
        self._classes = classes
        self.content = real.content and f"{real.content} in {turns} turns"

    @property
    def labels(self) -> Tensor:
        """The labels of all images in all turns, int64 on the CPU."""
        labels = self._real.labels
        turns = range(self._turns)
        return torch.cat([labels + turn * self._classes for turn in turns])

    @property
    def classes(self) -> list[int]:
        """The classes with real images, of every turn."""
        own, turns = self._real.classes, range(self._turns)
        return [label + turn * self._classes for turn in turns for label in own]

    def read(self, indices: Tensor) -> Batch:
        """Return the images of these indices, numbered one rotation after another."""
        count = len(self._real.labels)
        return self._seen(self._real.read(indices % count), indices // count)

    def pixels(self, indices: Tensor) -> Tensor:
        """Return the images of these indices as pixels, each in its turn."""
        count = len(self._real.labels)
        pixels = self._real.pixels(indices % count)
        return self._rotated(pixels, (indices // count).to(pixels.device))

    def close(self) -> None:
        """Stop the processes for reading ahead, if there are any."""
        self._real.close()

    def batch(self, step: int, size: int) -> Batch:
        """Draw images of any class, each in a turn of its own."""
        batch = self._real.batch(step, size)
        generator = self._run.own_generator("turns", step)
        return self._seen(
            batch,
            torch.randint(self._turns, (len(batch.labels),), generator=generator),
        )

    def class_batch(
        self, step: int, label: int, size: int, *, shared: bool = False
    ) -> Batch:
        """Draw images of one class, all in one turn."""
        turn, label = divmod(label, self._classes)
        batch = self._real.class_batch(step, label, size, shared=shared)
        return self._seen(batch, torch.full((len(batch.labels),), turn))

    def _seen(self, batch: Batch, turns: Tensor) -> Batch:
        """Return a batch, each image in its turn (int64, on any device)."""
        turns = turns.to(batch.labels.device)
        return Batch(
            self._rotated(batch.images, turns), batch.labels + turns * self._classes
        )

    def _rotated(self, images: Tensor, turns: Tensor) -> Tensor:
        """Return images, each in its turn (int64, on their device)."""
        rotated = images.clone()
        for turn in range(1, self._turns):
            chosen = turns == turn
            rotated[chosen] = _rotate(images[chosen], turn, self._turns)
        return rotated
