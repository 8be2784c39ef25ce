"""An audit as tables for a terminal."""

from itertools import groupby

from rich.table import Table
from rich.text import Text

from dd_plugins.api import plain
from dd_privacy.audit.findings import rate_title, rates_to_show, shown, strongest_first
from dd_privacy.audit.results import Audit

__all__ = ["duration", "tables"]


def tables(found: Audit) -> list[Table]:
    """Return a table of the mechanisms, and a table of the attacks on each."""
    mechanisms = Table(title=_title(f"what is audited: {found.about['data']}"))
    for column in ("mechanism", "accuracy", "epsilon", "seconds a run"):
        mechanisms.add_column(
            column, justify="left" if column == "mechanism" else "right"
        )
    for each in found.mechanisms:
        mechanisms.add_row(
            Text(plain(each.name) + (" (nearest in accuracy)" if each.matched else "")),
            "" if each.accuracy is None else f"{each.accuracy:.3f}",
            "" if each.epsilon is None else f"{each.epsilon:.2f}",
            f"{each.seconds:.1f}",
        )
    return [mechanisms, *(_attacks_on(each.name, found) for each in found.mechanisms)]


def _attacks_on(mechanism: str, found: Audit) -> Table:
    """Return the table of the attacks on one mechanism, by group, strongest first."""
    rows = strongest_first(row for row in found.rows if row.mechanism == mechanism)
    rates = rates_to_show(rows)
    title = _title(f"attacks on {mechanism}")
    table = Table(title=title, title_justify="left", show_edge=False)
    # On a narrow terminal other columns wrap: names of attacks must stay whole.
    table.add_column("attack", no_wrap=True)
    table.add_column("area under ROC", min_width=12)
    for rate in rates:
        table.add_column(rate_title(rate), min_width=8)
    for group, attacks in groupby(rows, key=lambda row: row.group):
        of_group = list(attacks)
        # Attacks by classifiers count fewer: they learn from some members.
        members = max(row.members for row in of_group)
        table.add_section()
        table.add_row(Text(f"{members} {group.replace('_', ' ')}", style="bold"))
        for row in of_group:
            table.add_row(
                Text(plain(row.attack)),
                shown(row.auc),
                *(shown(row.tpr_at_fpr[rate], 100) for rate in rates),
            )
    return table


def _title(text: str) -> Text:
    return Text(plain(text), style="table.title")


def duration(seconds: float) -> str:
    """Return a duration in a unit that fits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
