"""Audits: what attackers learn of a mechanism's members, with intervals."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dd_plugins.api import (
    DataError,
    DDError,
    OptionError,
    derive,
    get_record,
    library_versions,
    mean_interval,
    record_names,
    split_specs,
    whole_number,
)
from dd_privacy.attacks import (
    HOOK,
    AbstractAttack,
    Evidence,
    Reference,
    ThreatModel,
)
from dd_privacy.game import Game
from dd_privacy.mechanisms import AbstractMechanism
from dd_privacy.runs import Done, Runs, threads_of_one
from dd_privacy.statistics import (
    RATES,
    Figure,
    Scores,
    advantage,
    area,
    balanced_accuracy,
    one_run_epsilon,
    true_positive_rate,
)
from dd_privacy.validation import number

__all__ = [
    "DEFAULT_ATTACKS",
    "DELTA",
    "Audit",
    "AuditedMechanism",
    "Group",
    "OneRun",
    "Row",
    "attack_names",
    "audit_runs",
    "get_attack",
]

Group = Literal["initial_members", "other_members", "canaries"]
"""Whom a figure is of: members that the released images began as, other members, and
members with a wrong label; each against the non-members, mislabelled ones for the
last."""

GROUPS: tuple[Group, ...] = ("initial_members", "other_members", "canaries")

DEFAULT_ATTACKS = (
    "loss",
    "modified_entropy",
    "logistic_regression(threat='both')",
    "pixel_distance",
    "feature_distance",
    "lira",
    "lira(online=False)",
    "rmia",
)
"""The attacks of an audit if nobody says; those that need shadow runs if there are."""

DELTA = 1e-5
_MOST_OVERLAP = 0.01  # of the non-members; real data sets have a few duplicates

Array = NDArray[np.float64]


def get_attack(spec: str) -> AbstractAttack:
    """Return the attack that a spec stands for.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: no plugin registers the name.
    """
    return get_record(spec, hook=HOOK, kind="attack", base=AbstractAttack)  # type: ignore[type-abstract]


def attack_names() -> list[str]:
    """Return the names of all attacks, sorted."""
    return record_names(hook=HOOK, kind="attack", base=AbstractAttack)


@dataclass(frozen=True)
class Row:
    """What one attack learns of one group.

    Attributes:
        mechanism: its name.
        attack: a spec.
        threat_model: what the attacker sees: ``"images"``, ``"model"`` or ``"both"``.
        group: whom the figures are of.
        members: examples of the group, over all audited runs.
        non_members: those that they are compared with, each counted once.
        auc: area under the ROC curve.
        advantage: the greatest difference of true- and false-positive rate.
        balanced_accuracy: of the guess at that threshold.
        tpr_at_fpr: by false-positive rate.
        curves: scores of each audited run, for a plot; not in the JSON file.
    """

    mechanism: str
    attack: str
    threat_model: str
    group: Group
    members: int
    non_members: int
    auc: Figure
    advantage: Figure
    balanced_accuracy: Figure
    tpr_at_fpr: dict[float, Figure]
    curves: tuple[Scores, ...] = field(repr=False, default=())

    def as_dict(self) -> dict[str, Any]:
        """Return the form that stands in a JSON file."""
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
    """The lower bound on epsilon that one run of a mechanism gives.

    Attributes:
        mechanism: its name.
        attack: a spec: the one that does best on the half whose membership is known.
        examples: which were members by fair coins.
        guesses: for how many the attacker guessed, by thresholds from the other half.
        correct: how many of these rightly.
        delta: of the guarantee.
        epsilon: no guarantee with a smaller one holds, at 95 % confidence.
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
    """A mechanism of an audit.

    Attributes:
        name: its name.
        accuracies: of the models of its audited runs, on images that no run has seen.
        epsilon: spent under differential privacy, the greatest; None without.
        seconds: of a run, in the mean.
        shadows: its shadow runs.
        about: everything but members and seed that its runs are a function of.
        matched: whether it is the private one nearest in accuracy to what is audited.
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
        """Return the form that stands in a JSON file."""
        interval = mean_interval(self.accuracies)
        return asdict(self) | {
            "accuracy_mean": self.accuracy,
            "accuracy_ci95": None if interval is None else list(interval),
        }


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        about: what was audited: data set, counts, seed, versions.
        mechanisms: what is audited first, then what it is compared with.
        rows: one for each mechanism, attack and group.
        one_run: lower bounds on epsilon; empty unless members were drawn by coins.
        skipped: attacks that could not be made, or that failed, with the reason.
        shown: released images, and the nearest members of each; for a report.
    """

    about: dict[str, Any]
    mechanisms: tuple[AuditedMechanism, ...]
    rows: tuple[Row, ...]
    one_run: tuple[OneRun, ...]
    skipped: tuple[tuple[str, str, str], ...] = ()
    shown: "Nearest | None" = field(repr=False, default=None)

    def as_dict(self) -> dict[str, Any]:
        """Return the form that ``--json`` writes."""
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
class Nearest:
    """Released images, and the member that each is nearest to.

    Attributes:
        images: float32 ``(n, channels, height, width)`` in [0, 1].
        members: the same, of the members.
        distances: float32 ``(n,)``, between the two of each pair, pixels in [0, 1].
        typical: float32 ``(n,)``: from that member to the nearest other member.
    """

    images: Tensor
    members: Tensor
    distances: Tensor
    typical: Tensor


def audit_runs(
    runs: Runs,
    mechanisms: Sequence[AbstractMechanism],
    attacks: Sequence[str] | None = None,
    *,
    rates: Sequence[float] = RATES,
    delta: float = DELTA,
    processes: int = 1,
    about: dict[str, Any] | None = None,
    on_plan: Callable[[int, int, float], None] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audit:
    """Make the runs of mechanisms that are not there, and attack them.

    Thresholds are chosen on one half of the examples, whose membership the attacker
    knows, and scored on the other. An attack that fails leaves the others as they are,
    and each gets evidence of its own.

    Args:
        runs: the game, and where runs are kept.
        mechanisms: what is audited first, then what it is compared with.
        attacks: specs; by default all that the shadow runs allow of
            :data:`DEFAULT_ATTACKS`.
        rates: false-positive rates, in [0, 1), at which true positives are counted.
        delta: for lower bounds on epsilon.
        processes: in which runs are made.
        about: what stands in the audit's record besides.
        on_plan: called with how many runs are missing, of how many, and the seconds
            that they will take, from a few steps of one; only then is this estimated.
        on_progress: called with how many runs are done, and of how many.

    Raises:
        OptionError: an option is out of its range, or an attack needs more shadow runs.
        UnknownNameError: no plugin registers an attack.
        DataError: non-members are members too, or a run has no member of a class.
        FileError: a run cannot be written, or is damaged.
        RunError: a run failed, or a process was killed.
    """
    processes, delta = whole_number("processes", processes), number("delta", delta)
    rates = [number("a false-positive rate", rate) for rate in rates]
    chosen, broken = _chosen_attacks(attacks, len(runs.game.shadows))
    for rate in rates:
        if not 0 <= rate < 1:
            raise OptionError(f"a false-positive rate must be in [0, 1), got {rate}")
    if not 0 <= delta < 1:
        raise OptionError(f"delta must be in [0, 1), got {delta}")
    overlap = _checked_overlap(runs.game)
    total = len(runs.game.targets) + len(runs.game.shadows)
    shadowed = any(needed for _, needed in chosen)
    count = total if shadowed else len(runs.game.targets)
    runs.game.check_classes(count)
    wanted = [(each, run) for each in mechanisms for run in range(count)]
    if on_plan is not None:
        on_plan(*_plan(runs, wanted, processes))
    runs.make_all(
        wanted,
        processes=processes,
        on_done=lambda done: on_progress(done, len(wanted)),
    )
    found, rows, one_run, skipped, shown = [], [], [], [], None
    for mechanism in mechanisms:
        done = [runs.load(mechanism, run) for run in range(count)]
        audited = _Audited(runs.game, mechanism, done)
        found.append(audited.summary())
        if shown is None:
            shown = audited.nearest()
        skipped += [(mechanism.name, attack, reason) for attack, reason in broken]
        found_by: list[tuple[AbstractAttack, list[Array]]] = []
        for attack, _ in chosen:
            try:
                scores = audited.scores(attack)
                of_attack = audited.rows(attack, scores, rates)
            # The others are not lost by what a stranger's attack does.
            except (Exception, SystemExit) as error:
                skipped.append((mechanism.name, repr(attack), _reason(error)))
                continue
            rows += of_attack
            found_by.append((attack, scores))
        one_run += audited.one_run(found_by, delta)
    return Audit(
        {
            "data": runs.game.name,
            "examples": int((~runs.game.population).sum()),
            "members": [int(mask.sum()) for mask in runs.game.targets],
            "always_members": len(runs.game.always.labels),
            "canaries": int(runs.game.canaries.sum()),
            "population": int(runs.game.population.sum()),
            "targets": len(runs.game.targets),
            "shadows": len(runs.game.shadows) if shadowed else 0,
            "by_coin": runs.game.by_coin,
            "non_members_that_equal_a_member": overlap,
            "seed": runs.game.seed,
            "versions": library_versions(),
        }
        | (about or {}),
        _with_match(found),
        tuple(rows),
        tuple(one_run),
        tuple(skipped),
        shown,
    )


def _checked_overlap(game: Game) -> list[int]:
    """Return how many non-members equal a member; refuse more than a few."""
    found = [game.overlap(target) for target in range(len(game.targets))]
    for overlap, scored, members in zip(found, game.scored, game.targets, strict=True):
        others = int((scored & ~members).sum())
        if overlap > _MOST_OVERLAP * others:
            raise DataError(
                f"{overlap} of {others} non-members are members too, by their pixels: "
                "no attack could tell them apart; remove duplicates from the data"
            )
    return found


def _plan(
    runs: Runs, wanted: Sequence[tuple[AbstractMechanism, int]], processes: int
) -> tuple[int, int, float]:
    """Return how many runs are missing, of how many, and how long they will take."""
    missing = [job for job in wanted if not runs.is_done(*job)]
    # One run of each kind is tried: audited ones and shadows may differ.
    kinds = [(id(each), run < len(runs.game.targets)) for each, run in missing]
    examples = dict(zip(kinds, missing, strict=True))
    processes = max(1, min(processes, len(missing)))
    with threads_of_one(processes):
        seconds = {kind: runs.expected_seconds(*job) for kind, job in examples.items()}
    in_turn = sum(seconds[kind] for kind in kinds)
    return len(missing), len(wanted), in_turn / processes


def _chosen_attacks(
    attacks: Sequence[str] | None, shadows: int
) -> tuple[list[tuple[AbstractAttack, int]], list[tuple[str, str]]]:
    """Return the attacks with the shadow runs they need, and those that are broken.

    Args:
        attacks: specs; None for the default ones that the shadow runs allow.
        shadows: how many shadow runs there are.

    Returns:
        Each attack with what it needs; the spec of each broken one with the reason.

    Raises:
        OptionError: there are too few shadow runs for an attack, or there is none.
    """
    specs = split_specs(attacks) if isinstance(attacks, str) else attacks
    if specs is not None and not specs:
        raise OptionError("name one attack or more; by default several are made")
    asked = [get_attack(spec) for spec in DEFAULT_ATTACKS if specs is None]
    asked += [get_attack(spec) for spec in specs or ()]
    chosen, broken = [], []
    for attack in {repr(each): each for each in asked}.values():
        try:
            needed = whole_number("references_needed", attack.references_needed)
        except (Exception, SystemExit) as error:
            broken.append((repr(attack), _reason(error)))
            continue
        if needed <= shadows:
            chosen.append((attack, needed))
        elif specs is not None:
            raise OptionError(
                f"{attack!r} needs {needed} shadow runs or more, there are {shadows}"
            )
    return chosen, broken


def _reason(error: BaseException) -> str:
    """Return why an attack could not be made, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DDError) else f"{type(error).__name__}: {text}"


def _with_match(found: Sequence[AuditedMechanism]) -> tuple[AuditedMechanism, ...]:
    """Mark the private mechanism that is nearest in accuracy to the audited one."""
    wanted = found[0].accuracy
    private = [each for each in found if each.epsilon is not None and each.accuracies]
    if wanted is None or not private:
        return tuple(found)
    nearest = min(private, key=lambda each: abs((each.accuracy or 0) - wanted))
    return tuple(
        AuditedMechanism(**{**vars(each), "matched": each is nearest}) for each in found
    )


@dataclass(frozen=True)
class _Audited:
    """The runs of one mechanism: the audited ones first, then the shadows."""

    game: Game
    mechanism: AbstractMechanism
    done: Sequence[Done]

    @property
    def name(self) -> str:
        return self.mechanism.name

    @property
    def targets(self) -> Sequence[Done]:
        return self.done[: len(self.game.targets)]

    @property
    def shadows(self) -> Sequence[Done]:
        return self.done[len(self.game.targets) :]

    def summary(self) -> AuditedMechanism:
        accuracies = [each.accuracy for each in self.targets]
        spent = [each.epsilon for each in self.done if each.epsilon is not None]
        return AuditedMechanism(
            self.name,
            tuple(value for value in accuracies if value is not None),
            max(spent, default=None),
            float(np.mean([each.seconds for each in self.done])),
            len(self.shadows),
            self.mechanism.description(),
        )

    def nearest(self) -> Nearest | None:
        """Return the first released images, and the nearest members of each."""
        distilled = self.targets[0].distilled
        if distilled is None:
            return None
        images = distilled.pixels()[:30].cpu()
        pixels = torch.cat(
            [self.game.images[self.game.targets[0]], self.game.always.images]
        )
        pixels = pixels / 255 if pixels.dtype == torch.uint8 else pixels
        flat = pixels.flatten(1).float()
        distances, places = torch.cdist(images.flatten(1), flat).min(dim=1)
        among = torch.cdist(flat[places], flat)
        others = among.topk(2, dim=1, largest=False).values[:, 1]
        return Nearest(images, pixels[places].float(), distances, others)

    @property
    def known(self) -> Tensor:
        """The examples whose membership the attacker knows: one half, by coins."""
        coins = torch.rand(len(self.game), generator=derive(self.game.seed, "known"))
        return (coins < 0.5) & ~self.game.population

    def _halves(self, attack: AbstractAttack) -> tuple[Tensor, Tensor]:
        """Return on which examples thresholds are chosen, and on which they count.

        Scores of examples that a classifier has learned from are those of other
        classifiers, by cross-validation: a threshold on these may miss its rate on
        fresh ones by far, so it is chosen on a half of the fresh ones.
        """
        if not attack.learns_from_known:
            return self.known, ~self.known
        coins = torch.rand(len(self.game), generator=derive(self.game.seed, "halves"))
        return ~self.known & (coins < 0.5), ~self.known & (coins >= 0.5)

    def scores(self, attack: AbstractAttack) -> list[Array]:
        """Return the scores of all examples, for each audited run; without ties.

        Raises:
            OptionError: the attack cannot be made on this mechanism.
        """
        threat_model = attack.threat_model
        if threat_model not in get_args(ThreatModel):
            raise OptionError(
                f"threat model {threat_model!r} must be one of "
                f"{', '.join(get_args(ThreatModel))}"
            )
        if threat_model != "model" and self.targets[0].distilled is None:
            raise OptionError("no images are released")
        found = []
        for target, run in enumerate(self.targets):
            scored = self.game.scored[target]
            known = self.known & scored
            evidence = Evidence(
                run.seen,
                self.game.labels,
                known,
                self.game.targets[target] & known,
                self.game.population,
                [
                    Reference(each.seen, members)
                    for each, members in zip(
                        self.shadows, self.game.shadows, strict=False
                    )
                ],
                self.game.seed,
                scored,
            )
            # A copy: what an attack does to its evidence is no other's concern.
            given: object = attack.scores(copy.deepcopy(evidence))
            scores = torch.as_tensor(given).detach().cpu().double()
            if scores.shape != self.game.labels.shape or not bool(
                scores.isfinite().all()
            ):
                raise OptionError(
                    f"{attack!r} must give each of {len(self.game)} examples a finite "
                    f"score; got shape {tuple(scores.shape)}"
                )
            found.append(self._ranks(scores))
        return found

    def _ranks(self, scores: Tensor) -> Array:
        """Return ranks in place of scores; ties are broken at random."""
        generator = derive(self.game.seed, "ties")
        order = torch.randperm(len(scores), generator=generator)
        places = order[scores[order].argsort(stable=True)]
        ranks = torch.empty(len(scores), dtype=torch.float64)
        ranks[places] = torch.arange(len(scores), dtype=torch.float64)
        return ranks.numpy()

    def rows(
        self, attack: AbstractAttack, scores: Sequence[Array], rates: Sequence[float]
    ) -> list[Row]:
        """Return a row for each group that has members."""
        rows = []
        chosen_on, counted_on = self._halves(attack)
        fresh = ~self.known if attack.learns_from_known else ~self.game.population
        for group in GROUPS:
            masks = [self._group(group, target) for target in range(len(scores))]
            if not any(bool(members.any()) for members, _ in masks):
                continue
            whole, halves, compared = [], [], []
            for values, (members, others) in zip(scores, masks, strict=True):
                whole.append(_scores(values, members & fresh, others & fresh))
                compared.append(others & fresh)
                halves.append(
                    (
                        _scores(values, members & chosen_on, others & chosen_on),
                        _scores(values, members & counted_on, others & counted_on),
                    )
                )
            shared = all(torch.equal(others, masks[0][1]) for _, others in masks)
            gained = advantage(halves, shared_non_members=shared)
            rows.append(
                Row(
                    self.name,
                    repr(attack),
                    attack.threat_model,
                    group,
                    sum(len(each.members) for each in whole),
                    int(torch.stack(compared).any(dim=0).sum()),
                    area(whole, seed=self.game.seed, shared_non_members=shared),
                    gained,
                    balanced_accuracy(gained),
                    {rate: true_positive_rate(halves, rate) for rate in rates},
                    tuple(whole),
                )
            )
        return rows

    def _group(self, group: Group, target: int) -> tuple[Tensor, Tensor]:
        """Return the members of a group, and the non-members they are compared with."""
        game = self.game
        scored, members = game.scored[target], game.targets[target]
        if group == "canaries":
            return scored & members & game.canaries, scored & ~members & game.canaries
        initial = self.targets[target].initial
        chosen = initial if group == "initial_members" else ~initial
        plain = scored & ~game.canaries
        return plain & members & chosen, plain & ~members

    def one_run(
        self, found: Sequence[tuple[AbstractAttack, Sequence[Array]]], delta: float
    ) -> list[OneRun]:
        """Return the lower bound on epsilon of the first audited run.

        The attack and its thresholds are those that do best on the known half: the
        greatest of several bounds would not hold at their level.
        """
        if not (self.game.by_coin and found):
            return []
        scored = self.game.scored[0]
        if bool(self.game.canaries.any()):
            scored = scored & self.game.canaries
        members = self.game.targets[0].numpy()
        known = (scored & self.known).numpy()
        other = (scored & ~self.known).numpy()
        (_, high, low), attack, values = max(
            (
                (
                    _guessing_thresholds(scores[0][known], members[known], delta),
                    attack,
                    scores[0][other],
                )
                for attack, scores in found
            ),
            key=lambda candidate: candidate[0][0],
        )
        truth = members[other]
        called, cleared = values > high, values < low
        guesses = int(called.sum() + cleared.sum())
        correct = int((called & truth).sum() + (cleared & ~truth).sum())
        epsilon = one_run_epsilon(
            examples=len(values), guesses=guesses, correct=correct, delta=delta
        )
        return [
            OneRun(
                self.name, repr(attack), len(values), guesses, correct, delta, epsilon
            )
        ]


def _scores(values: Array, members: Tensor, non_members: Tensor) -> Scores:
    return Scores(values[members.numpy()], values[non_members.numpy()])


def _guessing_thresholds(
    values: Array, truth: NDArray[np.bool_], delta: float
) -> tuple[float, float, float]:
    """Return the best bound on this half, and above and below which to guess for it."""
    order = np.argsort(values)
    count = len(values)
    best, high, low = -1.0, math.inf, -math.inf
    for part in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        guesses = max(1, round(part * count / 2))
        if 2 * guesses > count:
            continue
        top, bottom = order[-guesses:], order[:guesses]
        for calls, clears in ((top, bottom), (top, order[:0])):
            found = one_run_epsilon(
                examples=count,
                guesses=len(calls) + len(clears),
                correct=int(truth[calls].sum() + (~truth[clears]).sum()),
                delta=delta,
            )
            if found > best:
                # Scores as high or low as the last guessed one are guessed too.
                best, high = found, float(np.nextafter(values[calls].min(), -math.inf))
                low = -math.inf
                if len(clears):
                    low = float(np.nextafter(values[clears].max(), math.inf))
    return best, high, low
