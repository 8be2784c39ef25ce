"""Subsets of a data set: by class, drawn at random, and held out for validation."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from dd_plugins.data.checks import check_numbering
from dd_plugins.errors import DataError, DDWarning, OptionError
from dd_plugins.runtime.randomness import generator_for

__all__ = [
    "balanced_subset",
    "by_class",
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
    class_names: Sequence[str] = (),
) -> Tensor:
    """Draw ``images_per_class`` random images of each class; return indices by class.

    Args:
        labels: int64 of shape ``(n,)``.
        images_per_class: one number for all classes; or a number for each class.
        generator: the source of the random draws.
        each: the number of real images in an image that the user asked for.
        class_names: the names of all classes, for the error; by default their numbers.

    Raises:
        OptionError: a class has fewer images.
    """
    members = class_members(
        labels, images_per_class, each=each, class_names=class_names
    )
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
    labels: Tensor,
    least: int | Sequence[int] = 0,
    *,
    each: int = 1,
    class_names: Sequence[str] = (),
) -> list[Tensor]:
    """Return the indices of each class's images.

    Args:
        labels: int64 of shape ``(n,)``.
        least: the smallest allowed number of images of a class; or a number for each,
            also for classes without an image.
        each: the number of real images in an image that the user asked for.
        class_names: the names of all classes, for the error; by default their numbers.

    Raises:
        OptionError: a class has fewer images.
    """
    found = by_class(labels, 0 if isinstance(least, int) else len(least))
    wanted = _counts(least, len(found))
    smallest = min(range(len(found)), key=lambda n: len(found[n]) - wanted[n])
    if len(found[smallest]) < wanted[smallest]:
        name = f"class {smallest}, counted from 0,"
        if class_names:
            name = f"class {class_names[smallest]!r}"
        raise _too_few(smallest, len(found[smallest]), wanted, each, name)
    return found


def by_class(labels: Tensor, num_classes: int = 0) -> list[Tensor]:
    """Return the indices of each class's images, in order; empty for absent classes.

    Args:
        labels: int64 of shape ``(n,)``, not negative.
        num_classes: the smallest number of classes in the result.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    return list(torch.split(labels.argsort(stable=True), counts.tolist()))


def _too_few(
    label: int, found: int, wanted: list[int], each: int, name: str
) -> OptionError:
    """Return the error of a class with fewer images than wanted."""
    asked, most = wanted[label] // each, found // each
    images = f"{asked} {'image' if asked == 1 else 'images'}"
    if len(set(wanted)) == 1:
        request, owner = f"{images} per class", name
    else:
        request, owner = f"{images} of {name}", "it"
    made = f", made of {each} real ones each" if each > 1 else ""
    advice = f"choose at most {most}" if most else "too few for one"
    return OptionError(
        f"{request} asked for{made}, but {owner} has only {found} training images, "
        f"without those held out for validation; {advice}"
    )


def _counts(counts: int | Sequence[int], classes: int) -> list[int]:
    return [counts] * classes if isinstance(counts, int) else list(counts)


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
    for label, members in enumerate(by_class(labels)):
        generator = generator_for(_SPLIT_SEED, "validation split", label)
        order = torch.randperm(len(members), generator=generator)
        held_out.append(members[order[: int(part * len(members))]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return mask.nonzero().flatten(), (~mask).nonzero().flatten()


def every_fifth(
    labels: Sequence[int], class_names: Sequence[str] | None, what: str
) -> Tensor:
    """Return a mask of every fifth image of each class, in their order.

    These are the test set of data without one. A class of two to four images gives its
    last one; a class of one image gives none, with a warning.

    Args:
        labels: the class of each image.
        class_names: a name for each class; by its number if there are none.
        what: the name of the data set, for the warning.

    Returns:
        bool of shape ``(n,)``.

    Raises:
        DataError: a label is negative, or not below the number of images.
    """
    if (least := min(labels, default=0)) < 0:
        raise DataError(f"{what}: labels must not be negative, got {least}")
    largest = max(labels, default=-1)
    check_numbering(largest, len(labels))
    if not class_names:
        class_names = list(map(str, range(largest + 1)))
    mask = torch.zeros(len(labels), dtype=torch.bool)
    untested = []
    members_of = by_class(torch.tensor(labels, dtype=torch.int64), len(class_names))
    # Labels without a name are refused when the images are checked.
    for name, members in zip(class_names, members_of, strict=False):
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
