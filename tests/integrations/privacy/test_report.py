"""The report is one file, and shows names as plain text."""

import io
from dataclasses import replace
from pathlib import Path

from privacy_data import MLP, noisy_data
from rich.console import Console

from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import Distillation
from dd_privacy.audit.report import write_report
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.tables import tables


def test_report_is_one_file_that_needs_nothing(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120, canaries=20)
    set_of = Distillation(
        "<b>mine</b>", "cpu", "random", 2, network=MLP, training_steps=2
    )
    audit = audit_runs(Runs(membership, tmp_path), [set_of], ["loss", "pixel_distance"])
    page = write_report(audit, tmp_path / "report.html").read_text()
    assert "<b>mine" not in page, "names are escaped"
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert "It does not prove that nothing can be found" in " ".join(page.split())
    assert "needs 1000 non-members" in page, "what is withheld says why"
    assert "<th>balanced accuracy</th>" in page


def test_names_are_plain_text_wherever_an_audit_shows_them(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120)
    name = "[red]x[/y] [link=javascript:alert(1)]z \x1b[2J:cat: $5_$10 <b>\udcff"
    set_of = Distillation(name, "cpu", "random", 2, network=MLP, training_steps=2)
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
