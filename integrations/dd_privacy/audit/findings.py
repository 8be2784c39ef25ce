"""The strongest attacks of an audit, and their findings in a sentence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from dd_privacy.audit.results import MEMBER_GROUPS, Audit, MemberGroup, ResultRow
from dd_privacy.audit.statistics.figures import Figure

__all__ = [
    "GROUPS",
    "headline",
    "rate_title",
    "rates_to_show",
    "shown",
    "strongest_first",
]

GROUPS: dict[MemberGroup, str] = {
    "initial_members": "members that the released images started from",
    "other_members": "other members",
    "canaries": "members with a wrong label",
}
"""What each group is, in words."""

_ERROR = 0.05  # the probability that a leak is stated where there is none
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


def rates_to_show(rows: Iterable[ResultRow]) -> list[float]:
    """Return the false-positive rates, largest first, withheld in some rows at most.

    One withheld in every row gets no column: the file has the reasons.
    """
    rates = {
        rate
        for row in rows
        for rate, figure in row.tpr_at_fpr.items()
        if figure.withheld is None
    }
    return sorted(rates, reverse=True)


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
    rates = _not_withheld(_Compared(row, _at(row, rate), rate) for row in rows)
    areas = _not_withheld(_Compared(row, row.auc, None) for row in rows)
    figures = len(rates) + len(areas)
    if not figures:
        return f"No attack on {name} has a figure."
    candidates = (
        [each for each in rates if each.reveals(figures)]
        or [each for each in areas if each.reveals(figures)]
        or rates
        or areas
    )
    strongest = max(candidates, key=lambda each: _strength(each.figure))
    count = len({each.attack for each in rows})
    subject = f"The strongest of {count} attacks" if count > 1 else "The attack"
    return (
        f"{subject}, {strongest.row.attack}, {strongest.in_words()}. "
        f"{strongest.meaning(figures)}"
    )


@dataclass(frozen=True)
class _Compared:
    """A figure of an attack: a true-positive rate, or the area under the ROC curve.

    Attributes:
        row: the row of the attack.
        figure: the figure.
        rate: the false-positive rate, which guessing has too; None for the area.
    """

    row: ResultRow
    figure: Figure
    rate: float | None

    @property
    def chance(self) -> float:
        """The figure of guessing."""
        return 0.5 if self.rate is None else self.rate

    def in_words(self) -> str:
        """Return the figure in words."""
        group = GROUPS[self.row.group]
        if self.rate is None:
            return (
                f"has an area under the ROC curve of {shown(self.figure)} for {group}; "
                "guessing has 0.5"
            )
        estimate, interval = shown(self.figure, 100).split(" ", 1)
        return (
            f"finds {estimate} % {interval} of the {group} at {100 * self.rate:g} % "
            f"false positives; guessing finds {100 * self.rate:g} %"
        )

    def reveals(self, figures: int) -> bool:
        """Tell whether the interval, widened for so many figures, excludes guessing.

        It is widened as if the estimate were normal (Bonferroni).
        """
        assert self.figure.estimate is not None
        assert self.figure.ci95 is not None
        quantile = NormalDist().inv_cdf
        wider = quantile(1 - _ERROR / (2 * figures)) / quantile(1 - _ERROR / 2)
        below = self.figure.estimate - self.figure.ci95[0]
        return self.figure.estimate - wider * below > self.chance

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


def _not_withheld(compared: Iterable[_Compared]) -> list[_Compared]:
    """Return those with a figure that is not withheld."""
    return [each for each in compared if each.figure.ci95 is not None]


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
