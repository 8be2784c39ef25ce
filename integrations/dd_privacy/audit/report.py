"""The report of an audit: one HTML file that needs no network."""

from importlib.resources import files
from pathlib import Path

from dd_plugins.api import plain, write_atomically
from dd_privacy.audit.plots import nearest_picture, roc_picture
from dd_privacy.audit.results import Audit, ResultRow
from dd_privacy.audit.statistics.figures import Figure

__all__ = ["shown", "write_report"]

_THREATS = {
    "images": "the attacker has the released images",
    "model": "the attacker has a model that this mechanism trained",
    "both": "the attacker has the released images and a model trained on them",
}

_GROUPS = {
    "initial_members": "members that the released images started from",
    "other_members": "other members",
    "canaries": "members with a wrong label, against non-members with one",
}


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
    from jinja2 import Environment
    from markupsafe import Markup

    def cell(figure: Figure, scale: float) -> Markup:
        if figure.withheld is not None:
            return Markup('<td class="withheld" title="{}">withheld</td>').format(
                figure.withheld
            )
        return Markup("<td>{}</td>").format(shown(figure, scale))

    found: dict[str, dict[str, list[ResultRow]]] = {
        each.name: {threat: [] for threat in _THREATS} for each in audit.mechanisms
    }
    for row in audit.rows:
        found[row.mechanism][row.threat_model].append(row)
    template = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_plain
    ).from_string(files(__package__).joinpath("report.html").read_text("utf-8"))
    page = template.render(
        audit=audit,
        found=found,
        threats=_THREATS,
        groups=_GROUPS,
        cell=cell,
        withheld=_reasons,
        curves={
            name: roc_picture([row for rows in by_threat.values() for row in rows])
            for name, by_threat in found.items()
        },
        nearest=None if audit.shown is None else nearest_picture(audit.shown),
    )
    return write_atomically(Path(path), lambda file: file.write(page.encode()))


def _plain(value: object) -> object:
    """Return text without control codes, and anything else unchanged."""
    return plain(value) if type(value) is str else value  # not Markup


def _reasons(rows: list[ResultRow]) -> list[str]:
    """Return why figures are withheld, each reason once."""
    figures = [
        figure
        for row in rows
        for figure in (
            row.auc,
            row.advantage,
            row.balanced_accuracy,
            *row.tpr_at_fpr.values(),
        )
    ]
    reasons = [figure.withheld for figure in figures if figure.withheld is not None]
    return list(dict.fromkeys(reasons))
