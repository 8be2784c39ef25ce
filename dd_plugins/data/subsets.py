"""Parts of a data set: by class, drawn, and held out for validation."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dd_plugins.errors import DDWarning, OptionError
from dd_plugins.runtime.randomness import generator_for

__all__ = [
    "balanced_subset",
    "class_members",
    "every_fifth",
    "random_members",
    "stratified_split",
]

_TEST_EVERY = 5
_SPLIT_SEED = 0  # splits belong to the data set, not to a run: runs stay comparable


def balanced_subset(
    labels: Tensor, images_per_class: int | Sequence[int], generator: torch.Generator
) -> Tensor:
    """Draw the indices of ``images_per_class`` random images of each class, by class.

    Args:
        labels: int64 of shape ``(n,)``.
        images_per_class: how many; or how many of each class.
        generator: of the draws.

    Raises:
        OptionError: a class has fewer images.
    """
    members = class_members(labels, images_per_class)
    counts = _counts(images_per_class, len(members))
    return random_members(members, counts, generator)


def random_members(
    members: list[Tensor], counts: list[int], generator: torch.Generator
) -> Tensor:
    """Draw the indices of random images of each class; all of them if it has fewer.

    Args:
        members: the indices of each class's images, from :func:`class_members`.
        counts: how many to draw of each class.
        generator: of the draws.
    """
    chosen = []
    for indices, count in zip(members, counts, strict=True):
        order = torch.randperm(len(indices), generator=generator)
        chosen.append(indices[order[:count]])
    return torch.cat(chosen)


def class_members(labels: Tensor, least: int | Sequence[int] = 0) -> list[Tensor]:
    """Return the indices of each class's images.

    Args:
        labels: int64 of shape ``(n,)``.
        least: how many images a class must have; or how many each of them must.

    Raises:
        OptionError: a class has fewer.
    """
    found = [
        (labels == label).nonzero().flatten() for label in range(int(labels.max()) + 1)
    ]
    wanted = _counts(least, len(found))
    smallest = min(range(len(found)), key=lambda n: len(found[n]) - wanted[n])
    if len(found[smallest]) < wanted[smallest]:
        equal = len(set(wanted)) == 1
        what = "images per class" if equal else f"images of class {smallest}"
        which = f"class {smallest}" if equal else "it"
        raise OptionError(
            f"{wanted[smallest]} {what} asked for, but {which} has only "
            f"{len(found[smallest])} training images, without those held out for "
            f"validation; choose at most {len(found[smallest])}"
        )
    return found


def _counts(counts: int | Sequence[int], classes: int) -> list[int]:
    return [counts] * classes if isinstance(counts, int) else list(counts)[:classes]


def stratified_split(labels: Tensor, part: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the indices held out and those kept, in order.

    scikit-learn's stratified split refuses a class of one image; here it is kept.

    Args:
        labels: int64 of shape ``(n,)``.
        part: the held-out fraction of each class, rounded down.
        most: the largest number of held-out images in all.
    """
    part = min(part, most / len(labels))
    held_out = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        generator = generator_for(_SPLIT_SEED, "validation split", label)
        order = torch.randperm(len(members), generator=generator)
        held_out.append(members[order[: int(part * len(members))]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return mask.nonzero().flatten(), (~mask).nonzero().flatten()


def every_fifth(labels: Sequence[int], class_names: Sequence[str], what: str) -> Tensor:
    """Return a mask of every fifth image of each class, in their order.

    It is the test set of data without one. A class of two to four images gives its last
    one; a class of one image gives none, with a warning.

    Args:
        labels: the class of each image.
        class_names: a name for each class.
        what: the data set, for the warning.

    Returns:
        bool of shape ``(n,)``.
    """
    classes = torch.tensor(labels)
    mask = torch.zeros(len(classes), dtype=torch.bool)
    untested = []
    for label, name in enumerate(class_names):
        members = (classes == label).nonzero().flatten()
        if len(members) == 1:
            untested.append(name)
        elif len(members) >= _TEST_EVERY:
            mask[members[_TEST_EVERY - 1 :: _TEST_EVERY]] = True
        else:
            mask[members[-1:]] = True
    if untested:
        warnings.warn(
            f"{what}: the only image of class "
            f"{', '.join(map(repr, untested[:5]))} is trained on, so the class has no "
            f"test image ({len(untested)} such classes)",
            DDWarning,
            stacklevel=2,
        )
    return mask
