"""The strongest attacks of an audit, and what they found."""

from dataclasses import replace

import pytest
from privacy_data import audit_by_hand

from dd_privacy.audit.findings import headline, rate_title, shown, strongest_first
from dd_privacy.audit.results import Audit, ResultRow
from dd_privacy.audit.statistics import Figure

WITHHELD = Figure(None, None, "too few")


def row(attack: str, low: float, high: float, **changes: object) -> ResultRow:
    """Return a row of which 1 % and 0.1 % have this interval, and its middle."""
    figure = Figure((low + high) / 2, (low, high))
    given = {"attack": attack, "tpr_at_fpr": {0.01: figure, 0.001: figure}}
    return replace(audit_by_hand().rows[0], **given | changes)  # type: ignore[arg-type]


def audit(*rows: ResultRow) -> Audit:
    return replace(audit_by_hand(), rows=rows)


@pytest.mark.parametrize(
    ("figure", "scale", "text"),
    [
        (Figure(0.5, (0.25, 0.75)), 1, "0.500 (0.250 to 0.750)"),
        (Figure(0.5, (0.25, 0.75)), 100, "50.0 (25.0 to 75.0)"),
        (Figure(-0.1, (-1.0, 0.04)), 1, "-0.100 (-1.000 to 0.040)"),
        (WITHHELD, 1, "withheld"),
    ],
)
def test_a_figure_is_shown_with_its_interval(
    figure: Figure, scale: float, text: str
) -> None:
    assert shown(figure, scale) == text


def test_an_attack_is_as_strong_as_its_interval_begins() -> None:
    wide, sure = row("wide", 0.0, 0.9), row("sure", 0.1, 0.2)
    initial = row("initial", 0.0, 0.1, group="initial_members")
    ordered = strongest_first([wide, sure, initial])
    assert [each.attack for each in ordered] == ["initial", "sure", "wide"]


def test_attacks_without_rates_are_ordered_by_their_areas() -> None:
    rates = {0.01: WITHHELD, 0.0: Figure(0.5, (0.4, 0.6))}
    rows = [
        row(str(low), 0, 0, tpr_at_fpr=rates, auc=Figure(low, (low, 1.0)))
        for low in (0.4, 0.6, 0.5)
    ]
    assert [each.attack for each in strongest_first(rows)] == ["0.6", "0.5", "0.4"]


def test_the_headline_is_of_the_strongest_attack_on_what_is_audited() -> None:
    other = row("on another", 0.8, 1.0, mechanism="private")
    found = audit(row("weak", 0.0, 0.1), row("strong", 0.25, 0.35), other)
    assert headline(found) == (
        "The strongest of 2 attacks, strong, finds 30.0 % (25.0 to 35.0) of the other "
        "members at 0.1 % false positives; guessing finds 0.1 %. So the release "
        "reveals who is a member."
    )


@pytest.mark.parametrize(
    ("low", "high", "meaning"),
    [
        (0.0, 0.1, "The interval includes guessing: these attacks found no leak; "),
        (0.0, 0.0005, "So none of these attacks is better than guessing; "),
    ],
)
def test_the_headline_says_that_others_may_find_more(
    low: float, high: float, meaning: str
) -> None:
    told = headline(audit(row("alone", low, high)))
    assert told.startswith("The attack, alone, finds ")
    assert told.endswith(
        f"{meaning}others may be." if "none" in meaning else f"{meaning}others may."
    )


def test_a_rate_that_some_rows_lack_is_not_compared() -> None:
    some = row(
        "some", 0.3, 0.4, tpr_at_fpr={0.01: Figure(0.3, (0.2, 0.4)), 0.001: WITHHELD}
    )
    assert "finds 50.0 % (40.0 to 60.0)" in headline(audit(row("all", 0.4, 0.6), some))
    assert "at 1 % false positives" in headline(audit(row("all", 0.4, 0.6), some))


def test_without_rates_the_headline_has_the_area() -> None:
    rates = {0.01: WITHHELD, 0.0: Figure(0.5, (0.4, 0.6))}
    found = audit(row("mine", 0, 0, tpr_at_fpr=rates))
    assert headline(found) == (
        "The attack, mine, has an area under the ROC curve of 0.500 (0.400 to 0.600) "
        "for other members; guessing has 0.5. The interval includes guessing: these "
        "attacks found no leak; others may."
    )
    withheld = audit(row("mine", 0, 0, tpr_at_fpr=rates, auc=WITHHELD))
    assert headline(withheld) == headline(audit()) == "No attack on mine has a figure."


def test_a_leak_that_only_areas_show_is_told() -> None:
    classifier = row(
        "classifier",
        *(0, 0),
        tpr_at_fpr={0.01: WITHHELD, 0.001: WITHHELD},
        auc=Figure(0.927, (0.888, 0.959)),
    )
    found = audit(row("loss", 0.0, 0.16), classifier)
    assert headline(found) == (
        "The strongest of 2 attacks, classifier, has an area under the ROC curve of "
        "0.927 (0.888 to 0.959) for other members; guessing has 0.5. So the release "
        "reveals who is a member."
    )


def test_the_best_of_many_figures_must_exclude_guessing_by_more() -> None:
    def told(count: int) -> str:
        chance = [
            row(str(n), 0, 0, tpr_at_fpr={}, auc=Figure(0.5, (0.45, 0.55)))
            for n in range(count - 1)
        ]
        best = row("best", 0, 0, tpr_at_fpr={}, auc=Figure(0.56, (0.501, 0.619)))
        return headline(audit(best, *chance))

    assert told(1).endswith("So the release reveals who is a member.")
    assert told(12).endswith(
        "The interval excludes guessing, but one of 12 figures may do so by chance: "
        "more members would tell."
    )


def test_a_rate_of_zero_is_named_for_what_it_is() -> None:
    assert rate_title(0.0) == "members above all known non-members, %"
    assert rate_title(0.001) == "TPR at 0.1 % FPR"


def test_the_leak_that_is_told_is_one_that_excludes_guessing() -> None:
    """Of the two, the interval of the other begins higher."""
    wide = row("wide", 0, 0, tpr_at_fpr={}, auc=Figure(0.8, (0.56, 1.0)))
    sure = row("sure", 0, 0, tpr_at_fpr={}, auc=Figure(0.56, (0.55, 0.57)))
    chance = [
        row(str(n), 0, 0, tpr_at_fpr={}, auc=Figure(0.5, (0.45, 0.55)))
        for n in range(10)
    ]
    told = headline(audit(wide, sure, *chance))
    assert "The strongest of 12 attacks, sure," in told
    assert told.endswith("So the release reveals who is a member.")
