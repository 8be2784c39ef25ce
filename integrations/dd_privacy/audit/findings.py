"""The strongest attacks of an audit, and their findings in a sentence."""

from collections.abc import Iterable, Sequence

from dd_privacy.audit.results import MEMBER_GROUPS, Audit, MemberGroup, ResultRow
from dd_privacy.audit.statistics.figures import Figure

__all__ = ["GROUPS", "headline", "shown", "strongest_first"]

GROUPS: dict[MemberGroup, str] = {
    "initial_members": "members that the released images started from",
    "other_members": "other members",
    "canaries": "members with a wrong label",
}
"""What each group is, in words."""

_MISSING = Figure(None, None, "there is none")


def shown(figure: Figure, scale: float = 1.0) -> str:
    """Return a figure as text: the estimate and its interval.

    Args:
        figure: the figure.
        scale: 100 for per cent, otherwise 1.
    """
    if figure.estimate is None or figure.ci95 is None:
        return "withheld"
    digits = 3 if scale == 1 else 1
    low, high = (f"{scale * bound:.{digits}f}" for bound in figure.ci95)
    return f"{scale * figure.estimate:.{digits}f} ({low} to {high})"


def strongest_first(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Return rows by group, and in each group the strongest attack first.

    Strength is the lower end of an attack's interval: among few members a high rate may
    come by chance, but then its interval is wide. True-positive rates are compared
    first, then areas under the ROC curve.
    """
    given = list(rows)
    rate = _compared_rate(given)

    def place(row: ResultRow) -> tuple[float, ...]:
        strength = (*_strength(_at(row, rate)), *_strength(row.auc))
        return MEMBER_GROUPS.index(row.group), *(-each for each in strength)

    return sorted(given, key=place)


def headline(found: Audit) -> str:
    """Return the finding of the strongest attack on the audited mechanism.

    A sentence on its meaning follows. Attacks on the comparisons do not count.
    """
    name = found.mechanisms[0].name
    rows = [row for row in found.rows if row.mechanism == name]
    rate = _compared_rate(rows)
    figures = [(row, row.auc if rate is None else _at(row, rate)) for row in rows]
    figures = [(row, figure) for row, figure in figures if figure.ci95 is not None]
    if not figures:
        return f"No attack on {name} has a figure."
    row, figure = max(figures, key=lambda each: _strength(each[1]))
    group = GROUPS[row.group]
    if rate is None:
        chance = 0.5
        told = (
            f"has an area under the ROC curve of {shown(figure)} for {group}; guessing "
            "has 0.5"
        )
    else:
        chance = rate
        estimate, interval = shown(figure, 100).split(" ", 1)
        told = (
            f"finds {estimate} % {interval} of the {group} at {100 * rate:g} % false "
            f"positives; guessing finds {100 * rate:g} %"
        )
    count = len({each.attack for each in rows})
    strongest = f"The strongest of {count} attacks" if count > 1 else "The attack"
    return f"{strongest}, {row.attack}, {told}. {_meaning(figure, chance)}"


def _meaning(figure: Figure, chance: float) -> str:
    """Return the meaning of an interval above, below or around chance."""
    assert figure.ci95 is not None
    low, high = figure.ci95
    if low > chance:
        return "So the release reveals who is a member."
    if high < chance:
        return "So none of these attacks is better than guessing; others may be."
    return "The interval includes guessing: these attacks found no leak; others may."


def _compared_rate(rows: Sequence[ResultRow]) -> float | None:
    """Return the lowest positive false-positive rate at which all rows have figures.

    Rows without a figure at any rate do not count; None if no row has one.
    """
    lowest = [
        min(rates)
        for row in rows
        if (rates := [rate for rate in row.tpr_at_fpr if rate and _at(row, rate).ci95])
    ]
    return max(lowest, default=None)


def _at(row: ResultRow, rate: float | None) -> Figure:
    """Return the true-positive rate at a false-positive rate."""
    return _MISSING if rate is None else row.tpr_at_fpr.get(rate, _MISSING)


def _strength(figure: Figure) -> tuple[float, float]:
    """Return the lower end of the interval, and the estimate."""
    if figure.estimate is None or figure.ci95 is None:
        return -1.0, -1.0
    return figure.ci95[0], figure.estimate
