"""Audits: membership-inference attacks on mechanisms, with confidence intervals."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dd_plugins.api import (
    DataError,
    OptionError,
    described,
    library_versions,
    number,
    split_specs,
    whole_number,
)
from dd_privacy.audit.attacks import AbstractAttack, get_attack
from dd_privacy.audit.choices import DEFAULT_ATTACKS, DELTA, RATES
from dd_privacy.audit.mechanism_audit import MechanismAudit
from dd_privacy.audit.mechanisms import AbstractMechanism
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.results import Audit, AuditedMechanism, OneRun, ResultRow
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.statistics import Array
from dd_privacy.audit.workers import Job, threads_of_a_worker

__all__ = ["audit_runs"]

_MOST_OVERLAP = 0.01  # of the non-members; real data has a few duplicates


class _Attacks(NamedTuple):
    """The attacks of an audit.

    Attributes:
        usable: attacks to carry out.
        broken: spec of each attack unable to state its needs, and the reason.
        shadowed: whether a usable attack needs shadow runs.
    """

    usable: list[AbstractAttack]
    broken: list[tuple[str, str]]
    shadowed: bool


class _Findings(NamedTuple):
    """The findings about one mechanism.

    Attributes:
        summary: accuracies, epsilon and times of its runs.
        rows: a row for each attack and group.
        one_run: the lower bound on epsilon, if there is one.
        skipped: mechanism, attack and reason of attacks without figures.
    """

    summary: AuditedMechanism
    rows: list[ResultRow]
    one_run: list[OneRun]
    skipped: list[tuple[str, str, str]]


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
    """Make the missing runs of the mechanisms, and attack all runs.

    Thresholds are chosen on one half of the examples, whose membership the attacker
    knows, and scored on the other half. A failing attack does not affect the others:
    each gets its own copy of the evidence.

    Args:
        runs: the membership game, and where runs are kept.
        mechanisms: the audited mechanism first, then its comparisons.
        attacks: specs of attacks; by default those of
            :data:`~dd_privacy.audit.choices.DEFAULT_ATTACKS` with enough shadow runs.
        rates: false-positive rates, in [0, 1), for which true-positive rates are given.
        delta: the delta of the lower bounds on epsilon.
        processes: the number of processes for making runs.
        about: further entries of the audit's record.
        on_plan: called with the number of missing runs, of all runs, and the estimated
            seconds of the missing ones. Without it the time is not estimated. The
            estimate makes a few steps of one run of each kind.
        on_progress: called with the number of finished runs, and of all runs.

    Raises:
        OptionError: an option is out of its range, or an attack needs more shadow runs.
        UnknownNameError: no plugin registers an attack.
        DataError: too many non-members equal members, or a run lacks a class.
        FileError: a run cannot be written, or is damaged.
        RunError: a run failed, or a process was killed.
    """
    processes, delta = whole_number("processes", processes), number("delta", delta)
    rates = [number("a false-positive rate", rate) for rate in rates]
    membership = runs.membership
    chosen = _chosen_attacks(attacks, len(membership.shadows))
    _check_ranges(rates, delta)
    overlap = _checked_overlap(membership)
    # Shadow runs are most of the work: they are made only if an attack needs them.
    shadows = len(membership.shadows) if chosen.shadowed else 0
    count = len(membership.targets) + shadows
    # Checked now, because a later run would fail after long work on the first ones.
    membership.check_classes(count)
    wanted = [(each, run) for each in mechanisms for run in range(count)]
    if on_plan is not None:
        on_plan(*_plan(runs, wanted, processes))
    runs.make_all(
        wanted,
        processes=processes,
        on_done=lambda done: on_progress(done, len(wanted)),
    )
    findings: list[_Findings] = []
    shown = None
    for mechanism in mechanisms:
        finished = [runs.load(mechanism, run) for run in range(count)]
        audit = MechanismAudit(membership, mechanism, finished)
        # Comparisons are not shown.
        shown = shown if findings else audit.nearest()
        findings.append(_attacked(audit, chosen, rates, delta))
    return Audit(
        _about(membership, shadows, overlap) | (about or {}),
        _with_match([each.summary for each in findings]),
        tuple(row for each in findings for row in each.rows),
        tuple(bound for each in findings for bound in each.one_run),
        tuple(skipped for each in findings for skipped in each.skipped),
        shown,
    )


def _attacked(
    audit: MechanismAudit, attacks: _Attacks, rates: Sequence[float], delta: float
) -> _Findings:
    """Carry out attacks on one mechanism."""
    name = audit.mechanism.name
    rows: list[ResultRow] = []
    skipped = [(name, spec, reason) for spec, reason in attacks.broken]
    scores_of: list[tuple[AbstractAttack, list[Array]]] = []
    for attack in attacks.usable:
        try:
            scores = audit.scores(attack)
            own_rows = audit.rows(attack, scores, rates)
        # A plugin's attack may do anything; the figures of the others must survive.
        except (Exception, SystemExit) as error:
            skipped.append((name, repr(attack), described(error)))
            continue
        rows += own_rows
        scores_of.append((attack, scores))
    bounds = audit.one_run(scores_of, delta)
    return _Findings(audit.summary(), rows, bounds, skipped)


def _about(
    membership: Membership, shadows: int, overlap: Sequence[int]
) -> dict[str, Any]:
    """Return the data set, counts, seed and versions of an audit."""
    return {
        "data": membership.name,
        "examples": int((~membership.population).sum()),
        "members": [int(mask.sum()) for mask in membership.targets],
        "always_members": len(membership.always.labels),
        "canaries": int(membership.canaries.sum()),
        "population": int(membership.population.sum()),
        "targets": len(membership.targets),
        "shadows": shadows,
        "by_coin": membership.by_coin,
        "non_members_that_equal_a_member": overlap,
        "seed": membership.seed,
        "versions": library_versions(),
    }


def _check_ranges(rates: Sequence[float], delta: float) -> None:
    for rate in rates:
        if not 0 <= rate < 1:
            raise OptionError(f"a false-positive rate must be in [0, 1), got {rate}")
    if not 0 <= delta < 1:
        raise OptionError(f"delta must be in [0, 1), got {delta}")


def _checked_overlap(membership: Membership) -> list[int]:
    """Return how many non-members of each audited run equal a member.

    Raises:
        DataError: more than a few do.
    """
    overlaps = [membership.overlap(run) for run in range(len(membership.targets))]
    for overlap, scored, members in zip(
        overlaps, membership.scored, membership.targets, strict=True
    ):
        others = int((scored & ~members).sum())
        if overlap > _MOST_OVERLAP * others:
            raise DataError(
                f"at most {_MOST_OVERLAP:.0%} of non-members may have the pixels of a "
                f"member, got {overlap} of {others}: no attack can tell them apart; "
                "remove duplicates from the data"
            )
    return overlaps


def _plan(runs: Runs, wanted: Sequence[Job], processes: int) -> tuple[int, int, float]:
    """Return the numbers of missing and all runs, and seconds for the missing ones."""
    missing = [job for job in wanted if not runs.is_done(*job)]
    # One run of each kind is timed: audited runs and shadow runs may differ.
    kinds = [(id(each), run < len(runs.membership.targets)) for each, run in missing]
    examples = dict(zip(kinds, missing, strict=True))
    processes = max(1, min(processes, len(missing)))
    with threads_of_a_worker(processes):
        seconds = {kind: runs.expected_seconds(*job) for kind, job in examples.items()}
    one_by_one = sum(seconds[kind] for kind in kinds)
    return len(missing), len(wanted), one_by_one / processes


def _chosen_attacks(attacks: Sequence[str] | None, shadows: int) -> _Attacks:
    """Return the attacks of an audit.

    Args:
        attacks: specs; None for the default ones with enough shadow runs.
        shadows: the number of shadow runs.

    Raises:
        OptionError: a named attack needs more shadow runs, or no attack is named.
    """
    specs = split_specs(attacks) if isinstance(attacks, str) else attacks
    if specs is not None and not specs:
        raise OptionError(
            "expected at least one attack, got none; leave them out for the default"
        )
    asked = [get_attack(spec) for spec in (DEFAULT_ATTACKS if specs is None else specs)]
    usable: list[AbstractAttack] = []
    broken, shadowed = [], False
    for attack in {repr(each): each for each in asked}.values():
        try:
            needed = whole_number("references_needed", attack.references_needed)
        except (Exception, SystemExit) as error:
            broken.append((repr(attack), described(error)))
            continue
        if needed <= shadows:
            usable.append(attack)
            shadowed = shadowed or needed > 0
        elif specs is not None:
            raise OptionError(
                f"{attack!r} needs at least {needed} shadow runs, got {shadows}"
            )
    return _Attacks(usable, broken, shadowed)


def _with_match(
    summaries: Sequence[AuditedMechanism],
) -> tuple[AuditedMechanism, ...]:
    """Mark the private mechanism nearest in accuracy to the audited one."""
    wanted = summaries[0].accuracy
    private = [each for each in summaries[1:] if each.epsilon is not None]
    private = [each for each in private if each.accuracies]
    if wanted is None or not private:
        return tuple(summaries)
    nearest = min(private, key=lambda each: abs((each.accuracy or 0) - wanted))
    return tuple(replace(each, matched=each is nearest) for each in summaries)
