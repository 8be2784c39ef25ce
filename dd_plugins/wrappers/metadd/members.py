"""The base of MetaDD under further architectures, and gradients of equal length."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.state import AbstractState
from dd_plugins.functional.class_sums import class_sums
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.run import Run
from dd_plugins.runtime.processes import average
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.wrappers.base import WrappedState

__all__ = ["Member", "MembersState", "add_balanced", "member_of"]

_EPSILON = 1e-12
_SEEDS = 2**31


@dataclass
class Member:
    """The base's run under one further architecture.

    Attributes:
        state: the state of the base, in a run of its own.
        steps: the number of steps taken under this architecture; its run has no others.
    """

    state: AbstractState
    steps: int = 0

    def gradient(
        self,
        base: AbstractDistiller[Any],
        own: AbstractState,
        leaves: Leaves,
        real: RealSampler,
    ) -> Leaves:
        """Return a copy of the set with the gradients of the base's next step.

        Args:
            base: the distiller.
            own: the base's state under the run's own architecture.
            leaves: the set.
            real: draws of real images.
        """
        self.state.adopt(own)
        copy = leaves.map(lambda leaf: leaf.detach().requires_grad_(leaf.requires_grad))
        base.accumulate(self.state, copy, real, self.steps)
        return copy

    def advance(self, base: AbstractDistiller[Any], leaves: Leaves) -> None:
        """Finish the step with the updated set."""
        base.advance(self.state, leaves, self.steps)
        self.steps += 1


@dataclass
class MembersState(WrappedState):
    """The base's state, and its runs under the other architectures.

    Attributes:
        members: a run for each architecture.
    """

    members: list[Member]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all runs, and the steps of the members."""
        return {
            "base": super().state_dict(),
            "members": [each.state.state_dict() for each in self.members],
            "member_steps": [each.steps for each in self.members],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a result of :meth:`state_dict`.

        Raises:
            ValueError: a number of steps is below 0.
        """
        super().load_state_dict(state["base"])
        for number, member in enumerate(self.members):
            member.state.load_state_dict(state["members"][number])
            member.steps = state["member_steps"][number]
            if member.steps < 0:
                raise ValueError(
                    f"member_steps.{number} must be at least 0, got {member.steps}"
                )

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the states of all runs; the steps are equal in all processes."""
        return {
            "base": super().merge([part["base"] for part in parts]),
            "members": [
                member.state.merge([part["members"][number] for part in parts])
                for number, member in enumerate(self.members)
            ],
            "member_steps": parts[0]["member_steps"],
        }


def member_of(
    base: AbstractDistiller[Any],
    network: AbstractNetwork,
    number: int,
    run: Run,
    real: RealSampler,
    *,
    steps: int,
) -> Member:
    """Return the base's run under an architecture, with random draws of its own.

    Args:
        base: the distiller.
        network: the architecture.
        number: the number of the architecture; each has another seed.
        run: the run under its own architecture.
        real: all training images.
        steps: the number of steps under this architecture.
    """
    drawn = torch.randint(_SEEDS, (), generator=run.generator("metadd member", number))
    own = replace(run, network=network.for_distillation(), steps=steps, seed=int(drawn))
    return Member(base.setup(own, real))


def add_balanced(leaves: Leaves, others: Iterable[Leaves], weight: float) -> None:
    """Average the gradients of the set under several architectures.

    Each pixel gradient of ``others`` is scaled, class by class, to the length of the
    gradient of ``leaves``, so no architecture dominates. Gradients of labels and of
    other learned tensors are scaled as a whole. Fixed images count in no length. Under
    torchrun all gradients are first averaged over the processes, so lengths are as in a
    single process.

    .. math:: \\frac{g_0 + w\\,\\sum_m g_m\\,|g_0| / |g_m|}{1 + w M}

    Args:
        leaves: the set, with the gradients under the run's own architecture; these
            become the average.
        others: copies of it with the gradients under M other architectures.
        weight: the weight w of each copy.

    Reference: the rule of HMDC (ECCV 2024), which scales by the largest gradient of a
    class; ours scales by its length.
    """
    copies = list(others)
    _average_over_processes([leaves, *copies])
    for each in (leaves, *copies):
        for gradient in (each.pixels.grad, each.labels.grad):
            if gradient is not None:
                leaves.clear_fixed(gradient)
    own = _gradients(leaves)
    for name, gradient in own.items():
        classes = leaves.classes if name == "pixels" else None
        wanted = _lengths(gradient, classes)
        total = gradient.clone()
        for copy in copies:
            added = _gradients(copy).get(name)
            if added is not None:
                scale = wanted / (_lengths(added, classes) + _EPSILON)
                total += weight * scale * added
        gradient.copy_(total / (1 + weight * len(copies)))


def _average_over_processes(sets: list[Leaves]) -> None:
    """Overwrite each gradient with its mean over all processes."""
    gradients = [each for leaves in sets for each in _gradients(leaves).values()]
    for gradient, mean in zip(gradients, average(gradients), strict=True):
        gradient.copy_(mean)


def _gradients(leaves: Leaves) -> dict[str, Tensor]:
    """Return the existing gradients of a set, by name."""
    tensors = {"pixels": leaves.pixels, "labels": leaves.labels, **leaves.others}
    return {
        name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None
    }


def _lengths(gradient: Tensor, classes: Tensor | None) -> Tensor:
    """Return the length of a gradient, or for each image that of its class.

    The result broadcasts with the gradient.
    """
    if classes is None:
        whole: Tensor = gradient.norm()
        return whole
    squares = gradient.flatten(1).square().sum(dim=1)
    sums = class_sums(squares, classes, int(classes.max()) + 1)
    lengths: Tensor = sums.sqrt()[classes].view(-1, *[1] * (gradient.ndim - 1))
    return lengths
