"""Who is a member of which run: the membership-inference game."""

import hashlib
import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import (
    DataError,
    Images,
    OptionError,
    Preprocessing,
    derive,
    whole_number,
)

__all__ = ["Examples", "Game", "NonMembers", "game_for_artifact", "game_for_mechanism"]

NonMembers = Literal["train", "test"]
"""Where non-members come from: training images left out, or the test set."""

_POPULATION = 1_000  # images that no run ever sees, at most
_MOST_RUNS = 1_000  # audited ones, and shadows; LiRA's authors take 256
_LARGEST_RATIO = 1.25  # of the members of a shadow run to those of an audited one


class Examples(NamedTuple):
    """Images in memory, and their labels.

    Attributes:
        images: ``(n, channels, height, width)``, uint8 or float in [0, 1].
        labels: int64 ``(n,)``.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Game:
    """The examples of an audit, and which of them are members of each run.

    Attributes:
        images: ``(n, channels, height, width)``, uint8 or float in [0, 1]: those that
            may be members, then those of the population.
        labels: int64 ``(n,)``; those of canaries are wrong, in every run.
        always: members of every run besides, which are not scored.
        canaries: bool ``(n,)``.
        population: bool ``(n,)``: members of no run.
        began: bool ``(n,)``: the examples that an audited artifact began as.
        targets: bool ``(targets, n)``: the members of each audited run.
        scored: bool ``(targets, n)``: the examples that each is audited on.
        shadows: bool ``(shadows, n)``: the members of each shadow run.
        by_coin: whether each member of an audited run is one by a fair coin of its own.
        class_names: one for each class.
        name: of the data set.
        preprocessing: what is done with this kind of images.
        mirror: whether a mirror image is still of its class.
        seed: of every draw.
    """

    images: Tensor
    labels: Tensor
    always: Examples
    canaries: Tensor
    population: Tensor
    began: Tensor
    targets: Tensor
    scored: Tensor
    shadows: Tensor
    by_coin: bool
    class_names: tuple[str, ...]
    name: str
    preprocessing: Preprocessing
    mirror: bool
    seed: int

    def __post_init__(self) -> None:
        """Refuse memberships that contradict each other.

        Raises:
            OptionError: they do.
        """
        count = len(self.labels)
        for name in ("targets", "scored", "shadows"):
            if getattr(self, name).shape[1:] != (count,):
                raise OptionError(f"{name} must be of {count} examples")
        inside = torch.cat([self.targets, self.shadows]).any(dim=0)
        if bool((inside & self.population).any()):
            raise OptionError("members and the population overlap")

    def __len__(self) -> int:
        return len(self.labels)

    def overlap(self, target: int) -> int:
        """Return how many non-members of an audited run are members by their pixels."""
        members = self.images[self.targets[target]]
        inside = {image.tobytes() for image in members.numpy()}
        inside |= {image.tobytes() for image in self.always.images.numpy()}
        others = self.images[self.scored[target] & ~self.targets[target]]
        return sum(image.tobytes() in inside for image in others.numpy())

    def check_classes(self, runs: int) -> None:
        """Refuse memberships that leave a run without members of a class.

        Args:
            runs: how many are to be made, the audited ones first.

        Raises:
            DataError: a run has none of a class.
        """
        inside = torch.cat([self.targets, self.shadows])[:runs]
        for label, name in enumerate(self.class_names):
            if bool((self.always.labels == label).any()):
                continue
            chosen = self.labels == label
            lacking = (~inside[:, chosen].any(dim=1)).nonzero().flatten().tolist()
            if lacking:
                raise DataError(
                    f"class {name!r} has {int((chosen & ~self.population).sum())} of "
                    f"the images that are drawn, and {len(lacking)} of {len(inside)} "
                    f"runs have none of them as a member (the first is run "
                    f"{lacking[0]}); ask for more members (--members), for another "
                    "seed, or leave the rare class out of the data"
                )

    def members(self, run: int) -> Tensor:
        """Return the members of a run: the audited ones come first, then the shadows.

        Returns:
            bool ``(n,)``.
        """
        return torch.cat([self.targets, self.shadows])[run]

    def data(self, run: int) -> dd_plugins.RealData:
        """Return the data on which a run works: its members, and no validation images.

        Raises:
            DataError: a class has no member.
        """
        chosen = self.members(run)
        return dd_plugins.RealData.from_tensors(
            torch.cat([self.always.images, self.images[chosen]]),
            torch.cat([self.always.labels, self.labels[chosen]]),
            class_names=self.class_names,
            name=self.name,  # recipes go by it
            preprocessing=self.preprocessing,
            mirror=self.mirror,
            validation=0,
        )

    def content(self, run: int) -> str:
        """Return a SHA-256 over all that a run is given, and is looked at on."""
        digest = self._examples.copy()
        digest.update(self.members(run).numpy().data)
        return str(digest.hexdigest())

    @cached_property
    def _examples(self) -> Any:
        """A SHA-256 over all but memberships: hashed once."""
        kind = (self.name, self.class_names, self.preprocessing, self.mirror)
        digest = hashlib.sha256(str(kind).encode())
        for tensor in (*self.always, self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest

    def __getstate__(self) -> dict[str, Any]:
        """Leave the hash out: it cannot be sent to another process."""
        return {
            name: value for name, value in vars(self).items() if name != "_examples"
        }


def game_for_mechanism(
    data: dd_plugins.RealData,
    *,
    members: int,
    canaries: int = 0,
    targets: int = 1,
    shadows: int = 0,
    non_members: NonMembers = "train",
    seed: int = 0,
) -> Game:
    """Return the game in which a mechanism is run on members that are drawn for it.

    With non-members from the training data, twice as many images are drawn as there are
    to be members, and each is a member of an audited run by a fair coin. With the test
    set, as in FRePo's protocol, the audited runs get chunks of the training images that
    do not overlap, and all test images are non-members.

    Args:
        data: the data set.
        members: of a run, in the mean.
        canaries: examples among these with a wrong label, drawn at random.
        targets: audited runs.
        shadows: shadow runs; of each example's membership they are balanced.
        non_members: where they come from.
        seed: of every draw.

    Raises:
        OptionError: an option is out of its range, or there are too few images.
    """
    members, canaries, targets, shadows, seed = _checked_counts(
        members, canaries, targets, shadows, seed
    )
    if non_members not in get_args(NonMembers):
        raise OptionError(
            f"non_members must be one of {', '.join(get_args(NonMembers))}, "
            f"got {non_members!r}"
        )
    available = len(data.train.labels)
    if canaries and non_members == "test":
        raise OptionError(
            "canaries are training images, and none of the test set to compare them "
            "with; draw non-members from the training images"
        )
    wanted = members * (2 if non_members == "train" else targets)
    if wanted > available:
        raise OptionError(
            f"{members} members ask for {wanted} training images, {data.name!r} has "
            f"{available}; lower the number of members"
        )
    order = torch.randperm(available, generator=derive(seed, "audited images"))
    drawn = _taken(data.train, order[:wanted])
    if non_members == "test":
        test = data.read_test()
        drawn = _joined(drawn, _all(test))
    labels, wrong = _mislabelled(drawn.labels, canaries, data.num_classes, wanted, seed)
    population = _population(data, seed)
    count = len(drawn.labels)
    everything = _joined(Examples(drawn.images, labels), population)
    target_members = torch.zeros(targets, len(everything.labels), dtype=torch.bool)
    scored = torch.zeros_like(target_members)
    for target in range(targets):
        if non_members == "train":
            coins = torch.rand(count, generator=derive(seed, "membership", target))
            target_members[target, :count] = coins < 0.5
            scored[target, :count] = True
        else:
            chunk = slice(target * members, (target + 1) * members)
            target_members[target, chunk] = True
            scored[target, chunk] = True
            scored[target, wanted:count] = True
    return Game(
        images=everything.images,
        labels=everything.labels,
        always=_taken(data.train, order[:0]),
        canaries=_padded(wrong, len(everything.labels)),
        population=_rest(count, len(everything.labels)),
        began=torch.zeros(len(everything.labels), dtype=torch.bool),
        targets=target_members,
        scored=scored,
        shadows=_balanced(
            shadows, count, members / count, len(everything.labels), seed
        ),
        by_coin=non_members == "train",
        class_names=data.class_names,
        name=data.name,
        preprocessing=data.preprocessing,
        mirror=data.mirror,
        seed=seed,
    )


def game_for_artifact(
    data: dd_plugins.RealData,
    initial: Tensor | None,
    *,
    members: int,
    shadows: int = 0,
    seed: int = 0,
) -> Game:
    """Return the game in which a finished set is audited: all training images made it.

    Scored are some of these, all those that the set began as, and as many images held
    out or of the test set. Shadow runs get half of the scored ones, and the other
    training images.

    Args:
        data: the data that the set was distilled from.
        initial: int64, the places in the training data, before the validation split, of
            the images that the set began as; or None.
        members: how many are scored.
        shadows: shadow runs.
        seed: of every draw.

    Raises:
        OptionError: an option is out of its range, or there are too few images.
    """
    members, _, _, shadows, seed = _checked_counts(members, 0, 1, shadows, seed)
    available = len(data.train.labels)
    if members > available:
        raise OptionError(
            f"{members} members asked for, {data.name!r} has {available} training "
            "images"
        )
    order = torch.randperm(available, generator=derive(seed, "audited images"))
    if initial is not None:
        first = torch.isin(data.train_indices[order], initial)
        order = torch.cat([order[first], order[~first]])
    inside = _taken(data.train, order[:members])
    population = _population(data, seed)
    test = data.read_test()
    outside = _all(test)
    chosen = torch.randperm(len(outside.labels), generator=derive(seed, "non-members"))
    outside = _taken(outside, chosen[:members])
    drawn = _joined(inside, outside)
    everything = _joined(drawn, population)
    count = len(drawn.labels)
    began = torch.zeros(len(everything.labels), dtype=torch.bool)
    if initial is not None:
        began[:members] = torch.isin(data.train_indices[order[:members]], initial)
    target = torch.zeros(1, len(everything.labels), dtype=torch.bool)
    target[0, :members] = True
    scored = torch.zeros_like(target)
    scored[0, :count] = True
    return Game(
        images=everything.images,
        labels=everything.labels,
        always=_taken(data.train, order[members:]),
        canaries=torch.zeros(len(everything.labels), dtype=torch.bool),
        population=_rest(count, len(everything.labels)),
        began=began,
        targets=target,
        scored=scored,
        shadows=_balanced(shadows, count, 0.5, len(everything.labels), seed),
        by_coin=False,
        class_names=data.class_names,
        name=data.name,
        preprocessing=data.preprocessing,
        mirror=data.mirror,
        seed=seed,
    )


def _checked_counts(
    members: int, canaries: int, targets: int, shadows: int, seed: int
) -> tuple[int, int, int, int, int]:
    """Return them as numbers of Python, if they are in their range."""
    members, canaries = (
        whole_number("members", members),
        whole_number("canaries", canaries),
    )
    targets, shadows = (
        whole_number("targets", targets),
        whole_number("shadows", shadows),
    )
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
            f"there can be {_MOST_RUNS} audited runs, and as many shadow runs, at "
            f"most; got {targets} and {shadows}"
        )
    return members, canaries, targets, shadows, seed


def _all(source: Images) -> Examples:
    return Examples(source.images[:], source.labels)


def _taken(source: Images | Examples, places: Tensor) -> Examples:
    return Examples(source.images[places], source.labels[places])


def _joined(first: Examples, second: Examples) -> Examples:
    if first.images.dtype != second.images.dtype:
        raise DataError(
            f"training images are {first.images.dtype}, others {second.images.dtype}"
        )
    return Examples(
        torch.cat([first.images, second.images]),
        torch.cat([first.labels, second.labels]),
    )


def _population(data: dd_plugins.RealData, seed: int) -> Examples:
    """Return images held out of the training data: no run ever sees them."""
    count = len(data.validation.labels)
    order = torch.randperm(count, generator=derive(seed, "population"))
    return _taken(data.validation, order[:_POPULATION])


def _mislabelled(
    labels: Tensor, canaries: int, classes: int, candidates: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the labels with those of the canaries changed, and who these are."""
    generator = derive(seed, "canaries")
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(candidates, generator=generator)[:canaries]] = True
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return torch.where(wrong, (labels + shift) % classes, labels), wrong


def _padded(mask: Tensor, count: int) -> Tensor:
    return torch.cat([mask, torch.zeros(count - len(mask), dtype=torch.bool)])


def _rest(first: int, count: int) -> Tensor:
    return torch.arange(count) >= first


def _balanced(shadows: int, count: int, part: float, total: int, seed: int) -> Tensor:
    """Return memberships of shadow runs: each example is in the same number of them."""
    if shadows == 0:
        return torch.zeros(0, total, dtype=torch.bool)
    if not _fits(shadows, part):
        fewer = next((n for n in range(shadows - 1, 1, -1) if _fits(n, part)), None)
        more = next(n for n in itertools.count(shadows + 1) if _fits(n, part))
        raise OptionError(
            f"{shadows} shadow runs cannot have about as many members as the audited "
            "ones and each example in equally many; ask for "
            f"{more if fewer is None else f'{fewer} or for {more}'} shadow runs, or "
            "for none"
        )
    inside = _inside(shadows, part)
    ranks = torch.rand(shadows, count, generator=derive(seed, "shadow membership"))
    chosen = ranks.argsort(dim=0).argsort(dim=0) < inside
    return torch.cat(
        [chosen, torch.zeros(shadows, total - count, dtype=torch.bool)], dim=1
    )


def _inside(shadows: int, part: float) -> int:
    """Return in how many shadow runs each example is."""
    return min(shadows - 1, max(1, round(part * shadows)))


def _fits(shadows: int, part: float) -> bool:
    """Tell whether shadow runs have about as many members as they should."""
    ratio = _inside(shadows, part) / (part * shadows)
    return 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO
