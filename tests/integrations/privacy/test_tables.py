"""Tables of an audit on a terminal."""

import io
from dataclasses import replace
from pathlib import Path

from privacy_data import MLP, noisy_data
from rich.console import Console

from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import Distillation
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.statistics import Figure
from dd_privacy.audit.tables import tables


def test_attacks_keep_their_names_on_a_narrow_terminal(tmp_path: Path) -> None:
    membership = membership_for_mechanism(noisy_data(300), members=120)
    set_of = Distillation("mine", "cpu", "random", 2, network=MLP, training_steps=2)
    attacks = ["loss", "multilayer_perceptron", "pixel_distance"]
    audit = audit_runs(Runs(membership, tmp_path), [set_of], attacks)
    figure = Figure(0.123456, (0.012345, 0.234567))
    rows = [
        replace(row, auc=figure, tpr_at_fpr=dict.fromkeys(row.tpr_at_fpr, figure))
        for row in audit.rows
    ]
    terminal = Console(width=80, file=io.StringIO())
    terminal.print(*tables(replace(audit, rows=rows)))
    printed = terminal.file.getvalue()  # type: ignore[attr-defined]
    for row in rows:
        assert row.attack in printed
        assert row.group.removesuffix("_members") in printed
    assert printed.count("found at") == 3
    assert printed.count("0.123") == len(rows)
    assert printed.count("12.3") == 3 * len(rows)
