"""Draw the members of each run, for a mechanism or for a finished set."""

from typing import get_args

import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import (
    DataError,
    Images,
    OptionError,
    generator_for,
    one_of,
    whole_number,
)
from dd_privacy.audit.choices import NonMembers
from dd_privacy.audit.membership import Examples, Membership
from dd_privacy.audit.shadow_members import shadow_members

__all__ = ["membership_for_artifact", "membership_for_mechanism"]

_POPULATION = 1_000  # the most images withheld from all runs
_MOST_RUNS = 1_000  # audited runs, and shadow runs; LiRA's authors take 256


def membership_for_mechanism(
    data: dd_plugins.RealData,
    *,
    members: int,
    canaries: int = 0,
    targets: int = 1,
    shadows: int = 0,
    non_members: NonMembers = "train",
    seed: int = 0,
) -> Membership:
    """Draw members for the runs of a mechanism.

    With non-members from the training data, twice as many images are drawn as a run has
    members, and a fair coin makes each a member of an audited run. With the test set,
    as in FRePo's protocol, the audited runs get disjoint chunks of the training images,
    and all test images are non-members.

    Args:
        data: the data set.
        members: the number of members of a run, on average.
        canaries: the number of examples with a wrong label, drawn at random.
        targets: the number of audited runs.
        shadows: the number of shadow runs; each example is a member of equally many.
        non_members: the source of non-members.
        seed: the seed of every draw.

    Raises:
        OptionError: an option is out of its range, or there are too few images.
        DataError: training images and other images differ in dtype.
    """
    members, canaries, targets, shadows, seed = _checked_counts(
        members, canaries, targets, shadows, seed
    )
    by_coin = _is_by_coin(non_members, canaries)
    wanted = members * (2 if by_coin else targets)
    order = _order(data, members, wanted, seed, 1 if by_coin else targets)
    candidates = _at(data.train, order[:wanted])
    if not by_coin:
        candidates = _joined(candidates, _all(data.read_test()))
    labels, wrong = _mislabelled(
        candidates.labels, canaries, data.num_classes, wanted, seed
    )
    count = len(labels)
    if by_coin:
        inside, scored = _by_coins(targets, count, seed)
    else:
        inside, scored = _in_chunks(targets, members, count)
    return _membership(
        data,
        Examples(candidates.images, labels),
        _some_validation_images(data, seed),
        always=_at(data.train, order[:0]),
        canaries=wrong,
        initial=torch.zeros(count, dtype=torch.bool),
        targets=inside,
        scored=scored,
        shadows=shadow_members(shadows, count, members / count, seed),
        by_coin=by_coin,
        seed=seed,
    )


def membership_for_artifact(
    data: dd_plugins.RealData,
    initial: Tensor | None,
    *,
    members: int,
    shadows: int = 0,
    seed: int = 0,
) -> Membership:
    """Choose the scored examples of a set made from all training images.

    The scored examples are training images, first of all the initial real images of the
    set, and as many test images, if there are enough. A shadow run gets all other
    training images, and as many of the scored examples as are training images.

    The population is validation images. If there are none, as behind a private set, it
    is test images: those that are not scored, at least a tenth of all.

    Args:
        data: the data behind the set.
        initial: int64: the indices of the initial real images of the set, in the
            training data before the validation split; or None.
        members: the number of scored members.
        shadows: the number of shadow runs.
        seed: the seed of every draw.

    Raises:
        OptionError: an option is out of its range, or there are too few images.
        DataError: training images and other images differ in dtype.
    """
    members, _, _, shadows, seed = _checked_counts(members, 0, 1, shadows, seed)
    order = _order(data, members, members, seed)
    if initial is not None:
        # The images that the set started from are most at risk, so they come first.
        first = torch.isin(data.train_indices[order], initial)
        order = torch.cat([order[first], order[~first]])
    test = _all(data.read_test())
    chosen = torch.randperm(
        len(test.labels), generator=generator_for(seed, "non-members")
    )
    population, others = _some_validation_images(data, seed), members
    if not len(population.labels):
        others = min(members, len(chosen) - len(chosen) // 10)
        population = _at(test, chosen[others:][:_POPULATION])
    candidates = _joined(_at(data.train, order[:members]), _at(test, chosen[:others]))
    count = len(candidates.labels)
    started_from = torch.zeros(count, dtype=torch.bool)
    if initial is not None:
        started_from[:members] = torch.isin(
            data.train_indices[order[:members]], initial
        )
    target = torch.zeros(1, count, dtype=torch.bool)
    target[0, :members] = True
    return _membership(
        data,
        candidates,
        population,
        always=_at(data.train, order[members:]),
        canaries=torch.zeros(count, dtype=torch.bool),
        initial=started_from,
        targets=target,
        scored=torch.ones_like(target),
        shadows=shadow_members(shadows, count, members / count, seed),
        by_coin=False,
        seed=seed,
    )


def _membership(
    data: dd_plugins.RealData,
    candidates: Examples,
    population: Examples,
    *,
    always: Examples,
    canaries: Tensor,
    initial: Tensor,
    targets: Tensor,
    scored: Tensor,
    shadows: Tensor,
    by_coin: bool,
    seed: int,
) -> Membership:
    """Append the population to the candidates; only its own mask is True for it."""
    examples = _joined(candidates, population)
    count, total = len(candidates.labels), len(examples.labels)

    def padded(mask: Tensor) -> Tensor:
        return torch.nn.functional.pad(mask, (0, total - count))

    return Membership(
        images=examples.images,
        labels=examples.labels,
        always=always,
        canaries=padded(canaries),
        population=torch.arange(total) >= count,
        initial=padded(initial),
        targets=padded(targets),
        scored=padded(scored),
        shadows=padded(shadows),
        by_coin=by_coin,
        class_names=data.class_names,
        name=data.name,
        preprocessing=data.preprocessing,
        mirror=data.mirror,
        seed=seed,
    )


def _checked_counts(
    members: int, canaries: int, targets: int, shadows: int, seed: int
) -> tuple[int, int, int, int, int]:
    """Return the counts as Python numbers, after checking their ranges."""
    members = whole_number("members", members)
    canaries = whole_number("canaries", canaries)
    targets = whole_number("targets", targets)
    shadows = whole_number("shadows", shadows)
    seed = whole_number("seed", seed)
    if members < 1 or targets < 1:
        raise OptionError(
            f"members and targets must be at least 1, got {members} and {targets}"
        )
    if shadows < 0 or shadows == 1:
        raise OptionError(f"shadows must be 0, or 2 or more, got {shadows}")
    if not 0 <= canaries <= members:
        raise OptionError(
            f"canaries must be between 0 and the {members} members, got {canaries}"
        )
    if max(targets, shadows) > _MOST_RUNS:
        raise OptionError(
            f"targets and shadows must be at most {_MOST_RUNS}, got {targets} and "
            f"{shadows}"
        )
    return members, canaries, targets, shadows, seed


def _is_by_coin(non_members: str, canaries: int) -> bool:
    """Return whether coins decide membership; refuse options unfit for the source."""
    one_of("non_members", non_members, get_args(NonMembers))
    if canaries and non_members == "test":
        raise OptionError(
            "canaries are training images, and the test set has none to compare them "
            f"with: expected 0 with non_members='test', got {canaries}; draw "
            "non-members from the training images"
        )
    return non_members == "train"


def _order(
    data: dd_plugins.RealData, members: int, wanted: int, seed: int, runs: int = 1
) -> Tensor:
    """Return the training images in random order.

    Args:
        data: the data set.
        members: the number of members of a run, for the error.
        wanted: the number of images of all runs.
        seed: the seed of the draw.
        runs: the number of audited runs with members of their own.

    Raises:
        OptionError: there are fewer than wanted.
    """
    available = len(data.train.labels)
    if wanted > available:
        each, advice = "", "lower the number of members"
        if runs > 1:
            each, advice = f" in each of {runs} audited runs", "lower either"
        raise OptionError(
            f"{members} members{each} need {wanted} training images, {data.name!r} has "
            f"{available}; {advice}"
        )
    return torch.randperm(available, generator=generator_for(seed, "audited images"))


def _by_coins(targets: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return masks of the members and of the scored examples, a row for each run."""
    inside = torch.stack(
        [
            torch.rand(count, generator=generator_for(seed, "membership", target)) < 0.5
            for target in range(targets)
        ]
    )
    return inside, torch.ones_like(inside)


def _in_chunks(targets: int, members: int, count: int) -> tuple[Tensor, Tensor]:
    """Return masks of the members and of the scored examples, a row for each run.

    Each run scores its own chunk and the test images, placed after all chunks.
    """
    inside = torch.zeros(targets, count, dtype=torch.bool)
    for target in range(targets):
        inside[target, target * members : (target + 1) * members] = True
    return inside, inside | (torch.arange(count) >= targets * members)


def _all(source: Images) -> Examples:
    return Examples(source.images[:], source.labels)


def _at(source: Images | Examples, indices: Tensor) -> Examples:
    return Examples(source.images[indices], source.labels[indices])


def _joined(first: Examples, second: Examples) -> Examples:
    if first.images.dtype != second.images.dtype:
        raise DataError(
            "expected one dtype of images, got training images of "
            f"{first.images.dtype} and others of {second.images.dtype}"
        )
    return Examples(
        torch.cat([first.images, second.images]),
        torch.cat([first.labels, second.labels]),
    )


def _some_validation_images(data: dd_plugins.RealData, seed: int) -> Examples:
    """Return validation images, used by no run, as the population."""
    count = len(data.validation.labels)
    order = torch.randperm(count, generator=generator_for(seed, "population"))
    return _at(data.validation, order[:_POPULATION])


def _mislabelled(
    labels: Tensor, canaries: int, classes: int, candidates: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the labels, wrong for canaries, and the mask of canaries."""
    generator = generator_for(seed, "canaries")
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(candidates, generator=generator)[:canaries]] = True
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return torch.where(wrong, (labels + shift) % classes, labels), wrong
