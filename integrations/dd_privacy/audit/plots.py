"""Pictures of a report: ROC curves, and released images beside members."""

import base64
import io
from typing import Any

import numpy as np

from dd_plugins.api import plain
from dd_privacy.audit.results import NearestMembers, ResultRow
from dd_privacy.audit.statistics.figures import Scores, clopper_pearson

__all__ = ["nearest_picture", "roc_picture"]

_POINTS = 200  # of a curve

_LOWEST_RATE = 1e-4


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def roc_picture(rows: list[ResultRow]) -> str | None:
    """Return a PNG of ROC curves in base64, a panel per group; None without figures."""
    from matplotlib.figure import Figure as Canvas

    drawn = [row for row in rows if row.auc.estimate is not None]
    groups = list(dict.fromkeys(row.group for row in drawn))
    if not groups:
        return None
    canvas = Canvas(figsize=(5.5 * len(groups), 5), layout="constrained")
    for index, group in enumerate(groups):
        axes = canvas.add_subplot(1, len(groups), index + 1)
        for row in drawn:
            if row.group == group:
                false, true, low, high = _roc(row.curves)
                (line,) = axes.plot(false, true, label=plain(row.attack))
                axes.fill_between(
                    false, low, high, color=line.get_color(), alpha=0.12, linewidth=0
                )
        others = [row.non_members for row in drawn if row.group == group]
        lowest = max(_LOWEST_RATE, 1 / max(others))  # the least that so many resolve
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


def _roc(targets: tuple[Scores, ...]) -> tuple[Any, Any, Any, Any]:
    """Return false- and true-positive rates over all audited runs, and their band."""
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


def nearest_picture(nearest: NearestMembers) -> str:
    """Return a PNG in base64: released images above, the nearest members below."""
    from matplotlib.figure import Figure as Canvas

    count = len(nearest.images)
    columns = min(10, count)
    rows = -(-count // columns)
    canvas = Canvas(figsize=(columns * 0.9, rows * 2.1), layout="constrained")
    axes = canvas.subplots(2 * rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    ratios = (nearest.distances / nearest.typical.clamp_min(1e-12)).tolist()
    for index in range(count):
        row, column = 2 * (index // columns), index % columns
        for offset, images in enumerate((nearest.images, nearest.members)):
            picture = images[index].permute(1, 2, 0).numpy()
            single = picture.shape[2] != 3
            axes[row + offset, column].imshow(
                picture[:, :, 0] if single else picture,
                cmap="gray" if single else None,
                vmin=0,
                vmax=1,
            )
        axes[row, column].set_title(f"{ratios[index]:.2f}", fontsize=8)
    return _png(canvas)
