"""The strongest attacks of an audit, and their findings in a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from dd_privacy.audit.results import MEMBER_GROUPS, Audit, MemberGroup, ResultRow
from dd_privacy.audit.statistics.figures import Figure

__all__ = ["GROUPS", "headline", "rate_title", "shown", "strongest_first"]

GROUPS: dict[MemberGroup, str] = {
    "initial_members": "members that the released images started from",
    "other_members": "other members",
    "canaries": "members with a wrong label",
}
"""What each group is, in words."""

_ERROR = 0.05  # the probability that a stated leak is none
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


def rate_title(rate: float) -> str:
    """Return the title of a column of true-positive rates."""
    if rate == 0:
        return "members above all known non-members, %"
    return f"TPR at {100 * rate:g} % FPR"


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

    A sentence on its meaning follows. True-positive rates are compared first. If none
    is above guessing, or some attacks have none, areas under the ROC curve are compared
    too. The best of many figures may be above guessing by chance: an interval must
    exclude guessing after it is widened for their number. Attacks on the comparisons do
    not count.
    """
    name = found.mechanisms[0].name
    rows = [row for row in found.rows if row.mechanism == name]
    rate = _compared_rate(rows)
    rates = _compared([(row, _at(row, rate)) for row in rows], rate or 0.0)
    areas = _compared([(row, row.auc) for row in rows], 0.5)
    figures = len(rates) + len(areas)
    if not figures:
        return f"No attack on {name} has a figure."
    by_area = not rates
    strongest = max(rates or areas, key=lambda each: each.strength)
    if rates and areas and not strongest.reveals(figures):
        other = max(areas, key=lambda each: each.strength)
        if other.reveals(figures):
            strongest, by_area = other, True
    if by_area:
        told = (
            f"has an area under the ROC curve of {shown(strongest.figure)} for "
            f"{GROUPS[strongest.row.group]}; guessing has 0.5"
        )
    else:
        estimate, interval = shown(strongest.figure, 100).split(" ", 1)
        told = (
            f"finds {estimate} % {interval} of the {GROUPS[strongest.row.group]} at "
            f"{100 * strongest.chance:g} % false positives; guessing finds "
            f"{100 * strongest.chance:g} %"
        )
    count = len({each.attack for each in rows})
    subject = f"The strongest of {count} attacks" if count > 1 else "The attack"
    meaning = strongest.meaning(figures)
    return f"{subject}, {strongest.row.attack}, {told}. {meaning}"


@dataclass(frozen=True)
class _Compared:
    """A figure of an attack beside guessing."""

    row: ResultRow
    figure: Figure
    chance: float

    @property
    def strength(self) -> tuple[float, float]:
        """The lower end of the interval, and the estimate."""
        return _strength(self.figure)

    def reveals(self, figures: int) -> bool:
        """Tell whether the interval, widened for so many figures, excludes guessing.

        It is widened as if the estimate were normal (Bonferroni).
        """
        assert self.figure.estimate is not None
        assert self.figure.ci95 is not None
        normal = NormalDist()
        widened = normal.inv_cdf(1 - _ERROR / (2 * figures)) / normal.inv_cdf(
            1 - _ERROR / 2
        )
        below = self.figure.estimate - self.figure.ci95[0]
        return self.figure.estimate - widened * below > self.chance

    def meaning(self, figures: int) -> str:
        """Return the meaning of the interval: above, below or around guessing."""
        assert self.figure.ci95 is not None
        low, high = self.figure.ci95
        if self.reveals(figures):
            return "So the release reveals who is a member."
        if low > self.chance:
            return (
                f"The interval excludes guessing, but one of {figures} figures may do "
                "so by chance: more members would tell."
            )
        if high < self.chance:
            return "So none of these attacks is better than guessing; others may be."
        return (
            "The interval includes guessing: these attacks found no leak; others may."
        )


def _compared(
    figures: Iterable[tuple[ResultRow, Figure]], chance: float
) -> list[_Compared]:
    """Return the figures that are there."""
    return [
        _Compared(row, figure, chance)
        for row, figure in figures
        if figure.estimate is not None and figure.ci95 is not None
    ]


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
