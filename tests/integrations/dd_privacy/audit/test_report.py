"""The report is one file, and shows names as plain text."""

import io
import re
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import ROOT
from privacy_data import audit_by_hand, distillation, noisy_data
from rich.console import Console

from dd_plugins.errors import FileError
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.report import _reasons, write_report
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.statistics import Figure
from dd_privacy.audit.tables import tables


def test_report_is_one_file_that_needs_nothing(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120, canaries=20)
    set_of = distillation("<b>mine</b>")
    audit = audit_runs(Runs(membership, tmp_path), [set_of], ["loss", "pixel_distance"])
    page = write_report(audit, tmp_path / "report.html").read_text()
    assert "<b>mine" not in page, "names are escaped"
    assert page.count('src="data:image/png;base64,') == 4, "a curve a group, and pairs"
    assert page.count('srcset="data:image/png;base64,') == 4, "the same on a dark page"
    assert len(re.findall("<img alt=..", page)) == 4
    assert "http" not in page
    assert "It does not prove that nothing can be found" in " ".join(page.split())
    assert "needs 1000 non-members" in page, "what is withheld says why"
    assert "<th>TPR at 1 % FPR</th>" not in page, "it is withheld in every row"
    assert "<th>members above all known non-members, %</th>" in page


def test_names_are_plain_text_wherever_an_audit_shows_them(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120)
    name = "[red]x[/y] [link=javascript:alert(1)]z \x1b[2J:cat: $5_$10 <b>\udcff"
    set_of = distillation(name)
    found = audit_runs(Runs(membership, tmp_path), [set_of], ["loss"])
    odd = replace(found.rows[0], attack=f"mine(text={name!r})")
    found = replace(
        found,
        about={**found.about, "data": name},
        rows=(odd, *found.rows[1:]),
        skipped=((name, "mine", name),),
    )
    terminal = Console(width=400, file=io.StringIO(), force_terminal=True)
    terminal.print(*tables(found))
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/y] [link=javascript:alert(1)]z \\x1b[2J:cat: $5_$10" in printed
    assert "\x1b[2J" not in printed
    assert "\x1b]8" not in printed, "no link"
    page = write_report(found, tmp_path / "report.html").read_text()
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "[red]x[/y]" in page


def test_a_page_has_every_finding(tmp_path: Path) -> None:
    page = write_report(audit_by_hand(), tmp_path / "report.html").read_text()
    words = " ".join(page.split())
    for text in (
        "<title>Membership audit of mine</title>",
        "2 audited runs of 20, 22 members, 4 shadow runs, 0 examples with a wrong",
        '<th scope="row">private (nearest in accuracy)</th>',
        "<td>no guarantee</td>",
        "<td>3.90</td>",
        '<p class="finding">The strongest of 2 attacks, loss(), finds 50.0 % (40.0 to',
        "Threat model: the attacker has the released images</h3>",
        "members that the released images started from",
        "<td>0.500 (0.400 to 0.600)</td>",
        "<td>50.0 (40.0 to 60.0)</td>",
        '<p class="quiet">Withheld: too few.</p>',
        "<td>0.25</td>",
        "<li>mine: <code>lira()</code>: it failed</li>",
    ):
        assert text in words, text
    assert "attacker has the released images and a model" not in words, "no such attack"
    assert "nearest members</h2>" not in words, "no images are shown"


def test_a_rate_gets_a_column_unless_it_is_withheld_in_every_row(
    tmp_path: Path,
) -> None:
    found = audit_by_hand()
    first, *others = found.rows
    both = replace(
        first, attack="lira()", tpr_at_fpr={0.01: first.auc, 0.001: first.auc}
    )
    few = replace(first, tpr_at_fpr={0.01: first.auc, 0.001: Figure(None, None, "few")})
    for rows, columns in (((few, *others), 0), ((few, both, *others), 1)):
        audit = replace(found, rows=rows)
        page = write_report(audit, tmp_path / "report.html").read_text()
        assert page.count("<th>TPR at 0.1 % FPR</th>") == columns
        assert page.count('<td class="quiet" title="few">withheld</td>') == columns
        assert "Withheld: few." in page


def test_sections_without_findings_are_left_out(tmp_path: Path) -> None:
    empty = replace(audit_by_hand(), rows=(), one_run=(), skipped=())
    page = write_report(empty, tmp_path / "report.html").read_text()
    for text in ("Threat model", "Lower bounds", "Not made", "data:image"):
        assert text not in page
    assert page.count("<h2>mine</h2>") == 1


def test_each_reason_stands_once() -> None:
    rows = list(audit_by_hand().rows)
    other = Figure(None, None, "another reason")
    assert _reasons([*rows, replace(rows[0], auc=other)]) == [
        "too few",
        "another reason",
    ]
    assert _reasons([]) == []


def test_the_page_is_part_of_the_package() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    data = settings["tool"]["setuptools"]["package-data"]["dd_privacy"]
    assert "audit/report.html" in data
    assert files("dd_privacy.audit").joinpath("report.html").is_file()


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="folder"):
        write_report(audit_by_hand(), tmp_path / "folder")
