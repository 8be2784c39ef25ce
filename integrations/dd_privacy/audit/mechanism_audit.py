"""Attacks on the runs of one mechanism."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from dd_plugins.api import OptionError, generator_for, one_of
from dd_privacy.audit.attacks.base import (
    AbstractAttack,
    Evidence,
    Reference,
    ThreatModel,
)
from dd_privacy.audit.guessing import best_plan, bound_of, guess
from dd_privacy.audit.mechanisms.base import AbstractMechanism
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.results import (
    MEMBER_GROUPS,
    AuditedMechanism,
    MemberGroup,
    NearestMembers,
    OneRun,
    ResultRow,
)
from dd_privacy.audit.runs import FinishedRun
from dd_privacy.audit.statistics import (
    Array,
    Scores,
    advantage,
    area,
    balanced_accuracy,
    true_positive_rate,
)

__all__ = ["MechanismAudit"]

_SHOWN = 30  # released images in a report
_CHUNK = 1_000  # members compared with them at once

Masks = tuple[Tensor, Tensor]
"""Two masks of examples: members and non-members, or two halves."""


@dataclass(frozen=True)
class MechanismAudit:
    """The finished runs of one mechanism, and attacks on them.

    Attributes:
        membership: the members of each run.
        mechanism: the mechanism.
        runs: its runs, audited runs first, then shadow runs, if an attack needs them.
    """

    membership: Membership
    mechanism: AbstractMechanism
    runs: Sequence[FinishedRun]

    @property
    def targets(self) -> Sequence[FinishedRun]:
        """The audited runs."""
        return self.runs[: len(self.membership.targets)]

    @property
    def shadows(self) -> Sequence[FinishedRun]:
        """The shadow runs."""
        return self.runs[len(self.membership.targets) :]

    @property
    def known(self) -> Tensor:
        """The examples whose membership the attacker knows: about half, by coins."""
        return self._coins("known") & ~self.membership.population

    def summary(self) -> AuditedMechanism:
        """Return the accuracies, epsilon and times of the runs."""
        accuracies = [run.accuracy for run in self.targets]
        epsilons = [run.epsilon for run in self.runs if run.epsilon is not None]
        return AuditedMechanism(
            self.mechanism.name,
            tuple(value for value in accuracies if value is not None),
            max(epsilons, default=None),
            float(np.mean([run.seconds for run in self.runs])),
            len(self.shadows),
            self.mechanism.description(),
        )

    def nearest(self) -> NearestMembers | None:
        """Return the first released images and the member nearest to each.

        None if no images are released, or if an epsilon bounds what they reveal: the
        members would be shown by this alone.
        """
        distilled = self.targets[0].distilled
        if distilled is None or self.targets[0].epsilon is not None:
            return None
        images = distilled.pixels()[:_SHOWN].cpu()
        distances = torch.full((len(images),), torch.inf)
        nearest = torch.empty_like(images)
        for some in self._members_in_chunks():
            found = torch.cdist(images.flatten(1), some.flatten(1)).min(dim=1)
            closer = found.values < distances
            distances[closer] = found.values[closer]
            nearest[closer] = some[found.indices[closer]]
        # The smallest distance between members is that of a member to itself.
        smallest = torch.full((len(images), 2), torch.inf)
        for some in self._members_in_chunks():
            between = torch.cdist(nearest.flatten(1), some.flatten(1))
            both = torch.cat([smallest, between], dim=1)
            smallest = both.topk(2, dim=1, largest=False).values
        return NearestMembers(images, nearest, distances, smallest[:, 1])

    def scores(self, attack: AbstractAttack) -> list[Array]:
        """Return each audited run's scores of all examples, as ranks without ties.

        Raises:
            OptionError: the attack does not apply to this mechanism, or its scores are
                malformed.
        """
        self._check_threat_model(attack)
        return [
            # A copy of the evidence, because an attack may overwrite it.
            self._scores_as_ranks(
                attack, attack.scores(copy.deepcopy(self._evidence(target)))
            )
            for target in range(len(self.targets))
        ]

    def rows(
        self, attack: AbstractAttack, scores: Sequence[Array], rates: Sequence[float]
    ) -> list[ResultRow]:
        """Return a row of figures for each group with members.

        Args:
            attack: the attack.
            scores: its scores, an array for each audited run.
            rates: false-positive rates.
        """
        rows = []
        for group in MEMBER_GROUPS:
            masks = [self._group(group, target) for target in range(len(scores))]
            if any(bool(members.any()) for members, _ in masks):
                rows.append(self._row(attack, group, scores, masks, rates))
        return rows

    def one_run(
        self, scores_of: Sequence[tuple[AbstractAttack, Sequence[Array]]], delta: float
    ) -> list[OneRun]:
        """Bound epsilon from below by the first audited run, if coins drew its members.

        The attack and its number of guesses are the best ones on the known half. The
        greatest of several bounds on the other half would not hold at the stated
        confidence.

        Args:
            scores_of: attacks, and their scores of each audited run.
            delta: the delta of the guarantee.
        """
        membership = self.membership
        if not (membership.by_coin and scores_of):
            return []
        examples = membership.scored[0]
        if bool(membership.canaries.any()):
            examples = examples & membership.canaries
        truth = membership.targets[0].numpy()
        known = (examples & self.known).numpy()
        other = (examples & ~self.known).numpy()
        candidates = [
            (best_plan(scores[0][known], truth[known], delta), attack, scores[0])
            for attack, scores in scores_of
        ]
        plan, attack, scores = max(candidates, key=lambda each: each[0].epsilon)
        guesses = guess(scores[other], truth[other], plan)
        count = int(other.sum())
        epsilon = bound_of(guesses, count, delta)
        name = self.mechanism.name
        return [OneRun(name, repr(attack), count, *guesses, delta, epsilon)]

    def _members_in_chunks(self) -> Iterator[Tensor]:
        """Yield the members of the first audited run, some at a time.

        Each chunk is float32 ``(n, channels, height, width)`` in [0, 1], not empty.
        """
        membership = self.membership
        own = membership.targets[0].nonzero().flatten()
        for chunk in chain(
            (membership.images[some] for some in torch.split(own, _CHUNK)),
            torch.split(membership.always.images, _CHUNK),
        ):
            if len(chunk):
                yield chunk / 255 if chunk.dtype == torch.uint8 else chunk.float()

    def _coins(self, purpose: str) -> Tensor:
        """Return a mask of about half of all examples, by fair coins."""
        generator = generator_for(self.membership.seed, purpose)
        return torch.rand(len(self.membership), generator=generator) < 0.5

    def _check_threat_model(self, attack: AbstractAttack) -> None:
        """Refuse an unknown threat model, or missing images if it needs them."""
        threat_model = one_of(
            "threat_model", attack.threat_model, get_args(ThreatModel)
        )
        if threat_model != "model" and self.targets[0].distilled is None:
            raise OptionError(
                f"threat model {threat_model!r} needs released images, got none"
            )

    def _evidence(self, target: int) -> Evidence:
        """Return the attacker's evidence about an audited run."""
        membership = self.membership
        scored = membership.scored[target]
        known = self.known & scored
        # Shadow runs are loaded only if an attack needs them: there may be none.
        shadows = zip(self.shadows, membership.shadows, strict=False)
        return Evidence(
            target=self.targets[target].observations,
            labels=membership.labels,
            known=known,
            members=membership.targets[target] & known,
            population=membership.population,
            references=[
                Reference(run.observations, members) for run, members in shadows
            ],
            seed=membership.seed,
            scored=scored,
        )

    def _scores_as_ranks(self, attack: AbstractAttack, given: object) -> Array:
        """Return the ranks of an attack's scores; ties are broken at random."""
        scores = torch.as_tensor(given).detach().cpu().double()
        wanted = self.membership.labels.shape
        if scores.shape != wanted or not bool(scores.isfinite().all()):
            raise OptionError(
                f"{attack!r} must give each of {len(self.membership)} examples a "
                f"finite score; got shape {tuple(scores.shape)}"
            )
        generator = generator_for(self.membership.seed, "ties")
        order = torch.randperm(len(scores), generator=generator)
        indices = order[scores[order].argsort(stable=True)]
        ranks = torch.empty(len(scores), dtype=torch.float64)
        ranks[indices] = torch.arange(len(scores), dtype=torch.float64)
        return ranks.numpy()

    def _halves(self, attack: AbstractAttack) -> Masks:
        """Return the examples for choosing thresholds, and the examples to score.

        A trained classifier's own training examples get their scores by
        cross-validation, from other classifiers. A threshold on these scores may miss
        its rate on fresh examples by far, so both halves then hold fresh examples.
        """
        if not attack.learns_from_known:
            return self.known, ~self.known
        first = self._coins("halves")
        return ~self.known & first, ~self.known & ~first

    def _group(self, group: MemberGroup, target: int) -> Masks:
        """Return the members of a group, and the non-members to compare them with."""
        membership = self.membership
        scored, members = membership.scored[target], membership.targets[target]
        if group == "canaries":
            canaries = scored & membership.canaries
            return canaries & members, canaries & ~members
        initial = self.targets[target].initial
        chosen = initial if group == "initial_members" else ~initial
        plain = scored & ~membership.canaries
        return plain & members & chosen, plain & ~members

    def _row(
        self,
        attack: AbstractAttack,
        group: MemberGroup,
        scores: Sequence[Array],
        masks: Sequence[Masks],
        rates: Sequence[float],
    ) -> ResultRow:
        """Return the figures of one group."""
        # Areas need no threshold: all examples count, except those attacks trained on.
        fresh = ~self.known if attack.learns_from_known else ~self.membership.population
        chosen_on, counted_on = self._halves(attack)
        whole, halves = [], []
        for values, (members, others) in zip(scores, masks, strict=True):
            whole.append(_scores(values, members & fresh, others & fresh))
            halves.append(
                (
                    _scores(values, members & chosen_on, others & chosen_on),
                    _scores(values, members & counted_on, others & counted_on),
                )
            )
        compared = torch.stack([others & fresh for _, others in masks]).any(dim=0)
        shared = all(torch.equal(others, masks[0][1]) for _, others in masks)
        gained = advantage(halves, shared_non_members=shared)
        return ResultRow(
            mechanism=self.mechanism.name,
            attack=repr(attack),
            threat_model=attack.threat_model,
            group=group,
            members=sum(len(each.members) for each in whole),
            non_members=int(compared.sum()),
            auc=area(whole, seed=self.membership.seed, shared_non_members=shared),
            advantage=gained,
            balanced_accuracy=balanced_accuracy(gained),
            tpr_at_fpr={rate: true_positive_rate(halves, rate) for rate in rates},
            curves=tuple(whole),
        )


def _scores(values: Array, members: Tensor, non_members: Tensor) -> Scores:
    return Scores(values[members.numpy()], values[non_members.numpy()])
