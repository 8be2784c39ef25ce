"""Subsets of a data set: by class, drawn at random, and held out for validation."""

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
    labels: Tensor,
    images_per_class: int | Sequence[int],
    generator: torch.Generator,
    *,
    each: int = 1,
) -> Tensor:
    """Draw ``images_per_class`` random images of each class; return indices by class.

    Args:
        labels: int64 of shape ``(n,)``.
        images_per_class: one number for all classes; or a number for each class.
        generator: the source of the random draws.
        each: the number of real images in an image that the user asked for.

    Raises:
        OptionError: a class has fewer images.
    """
    members = class_members(labels, images_per_class, each=each)
    counts = _counts(images_per_class, len(members))
    return random_members(members, counts, generator)


def random_members(
    members: list[Tensor], counts: list[int], generator: torch.Generator
) -> Tensor:
    """Draw random images of each class, all if it has fewer; return their indices.

    Args:
        members: the indices of each class's images, from :func:`class_members`.
        counts: the number of images to draw of each class.
        generator: the source of the random draws.
    """
    chosen = []
    for indices, count in zip(members, counts, strict=True):
        order = torch.randperm(len(indices), generator=generator)
        chosen.append(indices[order[:count]])
    return torch.cat(chosen)


def class_members(
    labels: Tensor, least: int | Sequence[int] = 0, *, each: int = 1
) -> list[Tensor]:
    """Return the indices of each class's images.

    Args:
        labels: int64 of shape ``(n,)``.
        least: the smallest allowed number of images of a class; or a number for each.
        each: the number of real images in an image that the user asked for.

    Raises:
        OptionError: a class has fewer images.
    """
    found = [
        (labels == label).nonzero().flatten() for label in range(int(labels.max()) + 1)
    ]
    wanted = _counts(least, len(found))
    smallest = min(range(len(found)), key=lambda n: len(found[n]) - wanted[n])
    if len(found[smallest]) < wanted[smallest]:
        equal, asked = len(set(wanted)) == 1, wanted[smallest] // each
        named = f"class {smallest}, counted from 0,"
        noun = "image" if asked == 1 else "images"
        what = f"{noun} per class" if equal else f"{noun} of {named}"
        which = named if equal else "it"
        made = f", made of {each} real ones each" if each > 1 else ""
        most = len(found[smallest]) // each
        raise OptionError(
            f"{asked} {what} asked for{made}, but {which} has only "
            f"{len(found[smallest])} training images, without those held out for "
            f"validation; {f'choose at most {most}' if most else 'too few for one'}"
        )
    return found


def _counts(counts: int | Sequence[int], classes: int) -> list[int]:
    return [counts] * classes if isinstance(counts, int) else list(counts)[:classes]


def stratified_split(labels: Tensor, part: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the indices of held-out images and those of kept images, in order.

    A class of one image is kept; scikit-learn's stratified split refuses it.

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

    These are the test set of data without one. A class of two to four images gives its
    last one; a class of one image gives none, with a warning.

    Args:
        labels: the class of each image.
        class_names: a name for each class.
        what: the name of the data set, for the warning.

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
