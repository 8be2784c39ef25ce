"""The report of an audit: one HTML file that needs no network."""

from pathlib import Path

from dd_plugins.api import write_page
from dd_privacy.audit.findings import (
    GROUPS,
    headline,
    rate_title,
    rates_to_show,
    shown,
    strongest_first,
)
from dd_privacy.audit.plots import nearest_picture, roc_pictures
from dd_privacy.audit.results import Audit, ResultRow

__all__ = ["write_report"]

_THREATS = {
    "images": "the attacker has the released images",
    "model": "the attacker has a model that this mechanism trained",
    "both": "the attacker has the released images and a model trained on them",
}


def write_report(audit: Audit, path: str | Path) -> Path:
    """Write the report.

    Args:
        audit: the findings.
        path: the HTML file to write.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
    """
    of_mechanism = {
        each.name: strongest_first(
            row for row in audit.rows if row.mechanism == each.name
        )
        for each in audit.mechanisms
    }
    found: dict[str, dict[str, list[ResultRow]]] = {
        name: {
            threat: [row for row in rows if row.threat_model == threat]
            for threat in _THREATS
        }
        for name, rows in of_mechanism.items()
    }
    return write_page(
        Path(path),
        __package__,
        "report.html",
        audit=audit,
        finding=headline(audit),
        found=found,
        threats=_THREATS,
        groups=GROUPS,
        shown=shown,
        rate_title=rate_title,
        rates_to_show=rates_to_show,
        withheld=_reasons,
        curves={name: roc_pictures(rows) for name, rows in of_mechanism.items()},
        nearest=None if audit.shown is None else nearest_picture(audit.shown),
    )


def _reasons(rows: list[ResultRow]) -> list[str]:
    """Return why figures are withheld, each reason once."""
    figures = [
        figure
        for row in rows
        for figure in (row.auc, row.advantage, *row.tpr_at_fpr.values())
    ]
    reasons = [figure.withheld for figure in figures if figure.withheld is not None]
    return list(dict.fromkeys(reasons))
