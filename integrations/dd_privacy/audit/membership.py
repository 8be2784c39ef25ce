"""The membership game: the members of each run."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import DataError, OptionError, Preprocessing

__all__ = ["Examples", "Membership"]


class Examples(NamedTuple):
    """Images in memory, and their labels.

    Attributes:
        images: ``(n, channels, height, width)``, uint8 or float in [0, 1].
        labels: int64 ``(n,)``.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Membership:
    """The examples of an audit, and the members of each run.

    Attributes:
        images: ``(n, channels, height, width)``, uint8 or float in [0, 1]: first the
            possible members, then the population.
        labels: int64 ``(n,)``; labels of canaries are wrong in every run.
        always: further members of every run; they are not scored.
        canaries: bool ``(n,)``: the examples with a wrong label.
        population: bool ``(n,)``: members of no run.
        initial: bool ``(n,)``: the initial real images of an audited artifact.
        targets: bool ``(targets, n)``: the members of each audited run.
        scored: bool ``(targets, n)``: the examples scored in each audited run.
        shadows: bool ``(shadows, n)``: the members of each shadow run.
        by_coin: whether a fair coin per example decided its membership.
        class_names: one for each class.
        name: the name of the data set.
        preprocessing: the preprocessing of the data set.
        mirror: whether a mirrored image keeps its class.
        seed: the seed of every draw.
    """

    images: Tensor
    labels: Tensor
    always: Examples
    canaries: Tensor
    population: Tensor
    initial: Tensor
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
        """Refuse contradictory masks.

        Raises:
            OptionError: a mask of runs has another length, or a member is in the
                population.
        """
        count = len(self.labels)
        for name in ("targets", "scored", "shadows"):
            if getattr(self, name).shape[1:] != (count,):
                raise OptionError(
                    f"{name} must be of {count} examples, got shape "
                    f"{tuple(getattr(self, name).shape)}"
                )
        inside = torch.cat([self.targets, self.shadows]).any(dim=0)
        if bool((inside & self.population).any()):
            overlap = int((inside & self.population).sum())
            raise OptionError(
                "members and the population overlap: expected no common example, got "
                f"{overlap}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def overlap(self, target: int) -> int:
        """Return how many non-members of an audited run have the pixels of a member."""
        members = self.images[self.targets[target]]
        inside = {image.tobytes() for image in members.numpy()}
        inside |= {image.tobytes() for image in self.always.images.numpy()}
        others = self.images[self.scored[target] & ~self.targets[target]]
        return sum(image.tobytes() in inside for image in others.numpy())

    def check_classes(self, runs: int) -> None:
        """Refuse a run without a member of a class.

        Args:
            runs: the number of runs, audited runs first.

        Raises:
            DataError: a run has no member of a class.
        """
        inside = torch.cat([self.targets, self.shadows])[:runs]
        for label, name in enumerate(self.class_names):
            if bool((self.always.labels == label).any()):
                continue
            chosen = self.labels == label
            lacking = (~inside[:, chosen].any(dim=1)).nonzero().flatten().tolist()
            if lacking:
                raise DataError(
                    f"each run needs a member of class {name!r}, got none in "
                    f"{len(lacking)} of {len(inside)} runs (the first is run "
                    f"{lacking[0]}): {int((chosen & ~self.population).sum())} of its "
                    "images are drawn; ask for more members (--members), for another "
                    "seed, or leave the rare class out of the data"
                )

    def members(self, run: int) -> Tensor:
        """Return the members of a run; audited runs come first, then shadow runs.

        Returns:
            bool ``(n,)``.
        """
        return torch.cat([self.targets, self.shadows])[run]

    def data(self, run: int) -> dd_plugins.RealData:
        """Return the data of a run: its members, without validation images.

        Raises:
            DataError: a class has no member.
        """
        chosen = self.members(run)
        return dd_plugins.RealData.from_tensors(
            torch.cat([self.always.images, self.images[chosen]]),
            torch.cat([self.always.labels, self.labels[chosen]]),
            class_names=self.class_names,
            name=self.name,  # recipes depend on it
            preprocessing=self.preprocessing,
            mirror=self.mirror,
            validation=0,
        )

    def content(self, run: int) -> str:
        """Return a SHA-256 over the members of a run and over all examples."""
        digest = self._examples.copy()
        digest.update(self.members(run).numpy().data)
        return str(digest.hexdigest())

    @cached_property
    def _examples(self) -> Any:
        """A SHA-256 over all examples, computed once."""
        kind = (self.name, self.class_names, self.preprocessing, self.mirror)
        digest = hashlib.sha256(str(kind).encode())
        for tensor in (*self.always, self.images, self.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest

    def __getstate__(self) -> dict[str, Any]:
        """Leave the hash out: it cannot be pickled for another process."""
        return {
            name: value for name, value in vars(self).items() if name != "_examples"
        }
