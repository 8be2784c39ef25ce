"""Tables of an audit on a terminal."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from privacy_data import audit_by_hand, distillation, noisy_data
from rich.console import Console

from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.results import Audit
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.statistics import Figure
from dd_privacy.audit.tables import duration, tables


def test_attacks_keep_their_names_on_a_narrow_terminal(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120)
    set_of = distillation("mine")
    attacks = ["loss", "multilayer_perceptron", "pixel_distance"]
    audit = audit_runs(Runs(membership, tmp_path), [set_of], attacks)
    figure = Figure(0.123456, (0.012345, 0.234567))
    rows = [
        replace(row, auc=figure, tpr_at_fpr=dict.fromkeys(row.tpr_at_fpr, figure))
        for row in audit.rows
    ]
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(*tables(replace(audit, rows=rows)))
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    for row in rows:
        assert row.attack in text
        assert row.group.replace("_", " ") in text
    assert text.count("TPR at") == 2
    assert "above all" in text
    assert text.count("0.123") == len(rows)
    assert text.count("12.3") == 3 * len(rows)


def printed(audit: Audit, width: int = 200) -> str:
    terminal = Console(width=width, file=io.StringIO())
    terminal.print(*tables(audit))
    return terminal.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_a_table_of_mechanisms_and_one_of_attacks_on_each() -> None:
    text = printed(audit_by_hand())
    assert "what is audited: by hand" in text
    assert "attacks on mine" in text
    assert "attacks on private" in text
    cells = [[cell.strip() for cell in line.split("│")] for line in text.splitlines()]
    lines = {row[1]: row[2:-1] for row in cells if len(row) > 1}
    assert lines["mine"] == ["0.750", "", "2.0"]
    assert lines["private (nearest in accuracy)"] == ["0.600", "3.90", "5.0"]
    lines = {row[0]: row[1:] for row in cells}
    assert lines["pixel_distance()"][0] == "0.500 (0.400 to 0.600)"


def test_attacks_stand_below_the_members_of_their_group() -> None:
    found = audit_by_hand()
    weak = replace(found.rows[1], attack="weak()", auc=Figure(0.4, (0.3, 0.5)))
    rows = (weak, found.rows[0], found.rows[1])
    lines = [
        line.split("│")[0].strip()
        for line in printed(replace(found, rows=rows)).splitlines()
    ]
    first = lines.index("20 initial members")
    assert lines[first + 1 : first + 3] == ["pixel_distance()", "weak()"]
    second = lines.index("20 other members")
    assert lines[second + 1] == "loss()"
    assert second > first


def test_a_rate_that_is_withheld_in_every_row_has_no_column() -> None:
    found = audit_by_hand()
    assert "TPR at 1 % FPR" in printed(found)
    assert "TPR at 0.1 % FPR" not in printed(found)
    given = {**found.rows[0].tpr_at_fpr, 0.001: Figure(0.125, (0.0, 0.25))}
    rows = (replace(found.rows[0], tpr_at_fpr=given), *found.rows[1:])
    text = printed(replace(found, rows=rows))
    assert text.count("TPR at 0.1 % FPR") == 1, "on one mechanism alone"
    assert "12.5 (0.0 to 25.0)" in text
    assert "withheld" in text


def test_a_mechanism_without_accuracy_has_an_empty_cell() -> None:
    found = audit_by_hand()
    unmeasured = replace(found.mechanisms[0], accuracies=())
    text = printed(replace(found, mechanisms=(unmeasured,), rows=()))
    assert "0.750" not in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (7200, "2.0 h")],
)
def test_a_duration_has_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
