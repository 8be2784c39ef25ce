"""The findings of an audit: records, and their form in a JSON file."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from dd_plugins.api import mean_interval
from dd_privacy.audit.statistics.figures import Figure, Scores

__all__ = [
    "MEMBER_GROUPS",
    "Audit",
    "AuditedMechanism",
    "MemberGroup",
    "NearestMembers",
    "OneRun",
    "ResultRow",
]

MemberGroup = Literal["initial_members", "other_members", "canaries"]
"""The members of a figure: the initial real images of the released set, other members,
or canaries. Each group is compared with the non-members; canaries with mislabelled
non-members."""

MEMBER_GROUPS: tuple[MemberGroup, ...] = (
    "initial_members",
    "other_members",
    "canaries",
)
"""All groups, in the order of a report."""


@dataclass(frozen=True)
class ResultRow:
    """The figures of one attack on one group of members.

    Attributes:
        mechanism: the name of the mechanism.
        attack: the spec of the attack.
        threat_model: the attacker's access: ``"images"``, ``"model"`` or ``"both"``.
        group: the group of members.
        members: members of the group, summed over audited runs.
        non_members: non-members compared with them, each counted once.
        auc: the area under the ROC curve.
        advantage: the difference between true- and false-positive rate, at the
            threshold where it is greatest on the known half; it may be negative.
        balanced_accuracy: the balanced accuracy at the same threshold.
        tpr_at_fpr: true-positive rates by false-positive rate.
        curves: ranks of the scores of each audited run, for a plot; ties are broken at
            random; not in the JSON file.
    """

    mechanism: str
    attack: str
    threat_model: str
    group: MemberGroup
    members: int
    non_members: int
    auc: Figure
    advantage: Figure
    balanced_accuracy: Figure
    tpr_at_fpr: dict[float, Figure]
    curves: tuple[Scores, ...] = field(repr=False, default=())

    def as_dict(self) -> dict[str, Any]:
        """Return the form of a JSON file."""
        return {
            "mechanism": self.mechanism,
            "attack": self.attack,
            "threat_model": self.threat_model,
            "group": self.group,
            "members": self.members,
            "non_members": self.non_members,
            "auc": self.auc.as_dict(),
            "advantage": self.advantage.as_dict(),
            "balanced_accuracy": self.balanced_accuracy.as_dict(),
            "tpr_at_fpr": {
                f"{rate:g}": figure.as_dict()
                for rate, figure in self.tpr_at_fpr.items()
            },
        }


@dataclass(frozen=True)
class OneRun:
    """A lower bound on epsilon from one run of a mechanism.

    Attributes:
        mechanism: the name of the mechanism.
        attack: the spec of the best attack on the known half.
        examples: examples of the other half, members by fair coins.
        guesses: guesses about them; the known half fixes their number.
        correct: right guesses.
        delta: the delta of the guarantee.
        epsilon: no guarantee with a smaller epsilon holds, at 95 % confidence.
    """

    mechanism: str
    attack: str
    examples: int
    guesses: int
    correct: int
    delta: float
    epsilon: float


@dataclass(frozen=True)
class AuditedMechanism:
    """A mechanism in an audit.

    Attributes:
        name: the name of the mechanism.
        accuracies: accuracy of each audited run's model on the population.
        epsilon: the greatest epsilon stated by its runs; None without one.
        seconds: seconds per run, on average.
        shadows: the number of its shadow runs.
        about: everything its runs depend on, besides members and seed.
        matched: whether it is the private mechanism nearest in accuracy to the audited
            one.
    """

    name: str
    accuracies: tuple[float, ...]
    epsilon: float | None
    seconds: float
    shadows: int
    about: dict[str, object]
    matched: bool = False

    @property
    def accuracy(self) -> float | None:
        """The mean accuracy."""
        return float(np.mean(self.accuracies)) if self.accuracies else None

    def as_dict(self) -> dict[str, Any]:
        """Return the form of a JSON file."""
        interval = mean_interval(self.accuracies)
        return asdict(self) | {
            "accuracy_mean": self.accuracy,
            "accuracy_ci95": None if interval is None else list(interval),
        }


@dataclass(frozen=True)
class Audit:
    """The findings of an audit.

    Attributes:
        about: data set, counts, seed, versions.
        mechanisms: the audited mechanism first, then its comparisons.
        rows: a row for each mechanism, attack and group.
        one_run: lower bounds on epsilon; empty unless coins decided the membership.
        skipped: mechanism, attack and reason, for inapplicable or failed attacks.
        shown: images released by the audited mechanism and the member nearest to each,
            for a report; None without images, or if the mechanism states an epsilon.
    """

    about: dict[str, Any]
    mechanisms: tuple[AuditedMechanism, ...]
    rows: tuple[ResultRow, ...]
    one_run: tuple[OneRun, ...]
    skipped: tuple[tuple[str, str, str], ...] = ()
    shown: "NearestMembers | None" = field(repr=False, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``."""
        return {
            "format_version": 1,
            "about": self.about,
            "mechanisms": [each.as_dict() for each in self.mechanisms],
            "results": [row.as_dict() for row in self.rows],
            "one_run": [asdict(each) for each in self.one_run],
            "skipped": [
                {"mechanism": mechanism, "attack": attack, "reason": reason}
                for mechanism, attack, reason in self.skipped
            ],
        }


@dataclass(frozen=True, eq=False)
class NearestMembers:
    """Released images, and the member nearest to each.

    Attributes:
        images: float32 ``(n, channels, height, width)`` in [0, 1].
        members: the nearest members, of the same shape and range.
        distances: float32 ``(n,)``: from each image to its member.
        typical: float32 ``(n,)``: from this member to the nearest other member.
    """

    images: Tensor
    members: Tensor
    distances: Tensor
    typical: Tensor
