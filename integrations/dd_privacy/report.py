"""The report of an audit: one HTML file that needs no network."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from dd_plugins.api import plain, write_atomically
from dd_privacy.audit import Audit, Nearest, Row
from dd_privacy.statistics import Figure, Scores, clopper_pearson

__all__ = ["shown", "write_report"]

_POINTS = 200  # of a curve
_LOWEST_RATE = 1e-4

_THREATS = {
    "images": "the attacker has the released images",
    "model": "the attacker has a model that this mechanism trained",
    "both": "the attacker has the released images and a model trained on them",
}
_GROUPS = {
    "initial_members": "members that the released images began as",
    "other_members": "other members",
    "canaries": "members with a wrong label, against non-members with one",
}

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Membership audit of {{ audit.mechanisms[0].name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left;
  font-variant-numeric: tabular-nums; }
th { background: #f4f4f4; }
code { font-size: 12px; }
img { max-width: 100%; }
.note { background: #fff6e0; border-left: 4px solid #e0a800; padding: .5rem 1rem; }
.withheld { color: #888; }
</style>
</head>
<body>
<h1>Membership audit</h1>
<p>Audited: <code>{{ audit.mechanisms[0].name }}</code> on {{ audit.about.data }};
{{ audit.about.targets }} audited run{{ "s" if audit.about.targets > 1 }}
of {{ audit.about.members | join(", ") }} members,
{{ audit.about.shadows }} shadow runs, {{ audit.about.canaries }} examples with a wrong
label, seed {{ audit.about.seed }}.</p>
<p class="note">A low score shows that <em>these</em> attacks, with this many shadow
runs, found little on this data. It does not prove that nothing can be found: a better
attack, more shadow runs or other examples may find more. Only training under
differential privacy bounds what any attack can find.</p>

<h2>What was released</h2>
<table>
<tr><th>mechanism</th><th>accuracy on images that no run has seen</th>
<th>epsilon by accounting</th><th>shadow runs</th><th>seconds a run</th></tr>
{% for each in audit.mechanisms %}
<tr><td>{{ each.name }}{% if each.matched %} (nearest in accuracy){% endif %}</td>
<td>{{ "not measured" if each.accuracy is none else "%.3f" | format(each.accuracy) }}
</td>
<td>{{ "no guarantee" if each.epsilon is none else "%.2f" | format(each.epsilon) }}
</td>
<td>{{ each.shadows }}</td><td>{{ "%.1f" | format(each.seconds) }}</td></tr>
{% endfor %}
</table>

{% for each in audit.mechanisms %}
<h2>{{ each.name }}</h2>
{% for threat, sentence in threats.items() %}
{% set rows = found[each.name][threat] %}
{% if rows %}
<h3>Threat model: {{ sentence }}</h3>
<table>
<tr><th>attack</th><th>group</th><th>members</th><th>non-members</th>
<th>area under ROC</th><th>advantage</th><th>balanced accuracy</th>
{% for rate in rows[0].tpr_at_fpr %}
<th>members found at {{ "%g" | format(100 * rate) }} % false positives</th>
{% endfor %}</tr>
{% for row in rows %}
<tr><td><code>{{ row.attack }}</code></td><td>{{ groups[row.group] }}</td>
<td>{{ row.members }}</td><td>{{ row.non_members }}</td>
{{ cell(row.auc, 1) }}{{ cell(row.advantage, 1) }}{{ cell(row.balanced_accuracy, 1) }}
{% for figure in row.tpr_at_fpr.values() %}{{ cell(figure, 100) }}{% endfor %}</tr>
{% endfor %}
</table>
{% for reason in withheld(rows) %}<p class="withheld">Withheld: {{ reason }}.</p>
{% endfor %}
{% endif %}
{% endfor %}
{% if curves[each.name] %}
<p><img alt="ROC curves of {{ each.name }}"
src="data:image/png;base64,{{ curves[each.name] }}"></p>
<p>Both axes are logarithmic; the dashed line is chance. Bands are exact 95 % intervals
of the true-positive rate at each threshold. The curve shows all examples; figures in
the table take thresholds from one half and count on the other.</p>
{% endif %}
{% endfor %}

{% if audit.one_run %}
<h2>Lower bounds on epsilon from one run</h2>
<p>Membership was drawn by coins, so the number of right guesses bounds from below the
epsilon of any guarantee that this mechanism could have (delta
{{ "%g" | format(audit.one_run[0].delta) }}, 95 % confidence). Zero means that nothing
was refuted.</p>
<table>
<tr><th>mechanism</th><th>attack</th><th>examples</th><th>guesses</th><th>right</th>
<th>epsilon is at least</th></tr>
{% for each in audit.one_run %}
<tr><td>{{ each.mechanism }}</td><td><code>{{ each.attack }}</code></td>
<td>{{ each.examples }}</td><td>{{ each.guesses }}</td><td>{{ each.correct }}</td>
<td>{{ "%.2f" | format(each.epsilon) }}</td></tr>
{% endfor %}
</table>
{% endif %}

{% if nearest %}
<h2>Released images and their nearest members</h2>
<p>Above a released image, below the member nearest to it. The number is their distance
in units of the distance from that member to the next one: far below 1 the image is
a copy.</p>
<p><img alt="released images and nearest members"
src="data:image/png;base64,{{ nearest }}"></p>
{% endif %}

{% if audit.skipped %}
<h2>Not made</h2>
<ul>{% for mechanism, attack, reason in audit.skipped %}
<li>{{ mechanism }}: <code>{{ attack }}</code>: {{ reason }}</li>{% endfor %}</ul>
{% endif %}

<h2>How it was made</h2>
<table>
{% for name, value in audit.about.items() %}
<tr><th>{{ name }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}
</table>
</body>
</html>
"""


def shown(figure: Figure, scale: float = 1.0) -> str:
    """Return a figure as a reader wants it: the estimate and its interval.

    Args:
        figure: the figure.
        scale: 100 for per cent, else 1.
    """
    if figure.estimate is None or figure.ci95 is None:
        return "withheld"
    digits = 3 if scale == 1 else 1
    low, high = (f"{scale * bound:.{digits}f}" for bound in figure.ci95)
    return f"{scale * figure.estimate:.{digits}f} ({low} to {high})"


def write_report(audit: Audit, path: str | Path) -> Path:
    """Write the report.

    Args:
        audit: what was found.
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

    found: dict[str, dict[str, list[Row]]] = {
        each.name: {threat: [] for threat in _THREATS} for each in audit.mechanisms
    }
    for row in audit.rows:
        found[row.mechanism][row.threat_model].append(row)
    template = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_plain
    ).from_string(_TEMPLATE)
    page = template.render(
        audit=audit,
        found=found,
        threats=_THREATS,
        groups=_GROUPS,
        cell=cell,
        withheld=_reasons,
        curves={
            name: _curves([row for rows in by_threat.values() for row in rows])
            for name, by_threat in found.items()
        },
        nearest=None if audit.shown is None else _nearest_picture(audit.shown),
    )
    return write_atomically(Path(path), lambda file: file.write(page.encode()))


def _plain(value: object) -> object:
    """Return what stands in the page: text without control codes, else what it is."""
    return plain(value) if type(value) is str else value  # not Markup


def _reasons(rows: list[Row]) -> list[str]:
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


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def _curves(rows: list[Row]) -> str | None:
    """Return a picture of ROC curves, a panel for each group."""
    from matplotlib.figure import Figure as Canvas

    drawn = [row for row in rows if row.auc.estimate is not None]
    groups = list(dict.fromkeys(row.group for row in drawn))
    if not groups:
        return None
    canvas = Canvas(figsize=(5.5 * len(groups), 5), layout="constrained")
    for place, group in enumerate(groups):
        axes = canvas.add_subplot(1, len(groups), place + 1)
        for row in drawn:
            if row.group == group:
                false, true, low, high = _curve(row.curves)
                (line,) = axes.plot(false, true, label=plain(row.attack))
                axes.fill_between(
                    false, low, high, color=line.get_color(), alpha=0.12, linewidth=0
                )
        others = [row.non_members for row in drawn if row.group == group]
        lowest = max(_LOWEST_RATE, 1 / max(others))  # what so many can tell
        axes.plot([lowest, 1], [lowest, 1], "--", color="gray")
        axes.set(
            xscale="log",
            yscale="log",
            xlim=(lowest, 1),
            ylim=(lowest, 1.05),
            title=group.replace("_", " "),
            xlabel="false-positive rate",
            ylabel="true-positive rate",
        )
        axes.grid(alpha=0.3)
        for text in axes.legend(fontsize=7, loc="lower right").get_texts():
            text.set_parse_math(False)  # a name with dollar signs is no formula
    return _png(canvas)


def _curve(targets: tuple[Scores, ...]) -> tuple[Any, Any, Any, Any]:
    """Return false- and true-positive rates over all audited runs, and the band."""
    members = sum(len(scores.members) for scores in targets)
    false = np.geomspace(_LOWEST_RATE, 1, _POINTS)
    above = np.zeros(_POINTS, dtype=int)
    for scores in targets:
        if len(scores.non_members) == 0:
            continue
        ordered = np.sort(scores.non_members)[::-1]
        ranks = np.minimum((false * len(ordered)).astype(int), len(ordered) - 1)
        thresholds = np.where(false >= 1, -np.inf, ordered[ranks])
        inside = np.sort(scores.members)
        above += len(inside) - np.searchsorted(inside, thresholds, side="right")
    bands = {count: clopper_pearson(count, members) for count in set(above.tolist())}
    low, high = np.array([bands[count] for count in above.tolist()]).T
    floor = _LOWEST_RATE / 10
    return false, np.maximum(above / members, floor), np.maximum(low, floor), high


def _nearest_picture(nearest: Nearest) -> str:
    from matplotlib.figure import Figure as Canvas

    count = len(nearest.images)
    columns = min(10, count)
    rows = -(-count // columns)
    canvas = Canvas(figsize=(columns * 0.9, rows * 2.1), layout="constrained")
    axes = canvas.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    ratios = (nearest.distances / nearest.typical.clamp_min(1e-12)).tolist()
    for place in range(count):
        row, column = 2 * (place // columns), place % columns
        for offset, images in enumerate((nearest.images, nearest.members)):
            picture = images[place].permute(1, 2, 0).numpy()
            single = picture.shape[2] != 3
            axes[row + offset, column].imshow(
                picture[:, :, 0] if single else picture,
                cmap="gray" if single else None,
                vmin=0,
                vmax=1,
            )
        axes[row, column].set_title(f"{ratios[place]:.2f}", fontsize=8)
    return _png(canvas)
