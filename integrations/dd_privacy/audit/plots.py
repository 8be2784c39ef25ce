"""Pictures of a report: ROC curves, and released images beside members."""

import base64
import io
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dd_plugins.api import plain
from dd_privacy.audit.results import MemberGroup, NearestMembers, ResultRow
from dd_privacy.audit.statistics.figures import Array, Scores, clopper_pearson

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

__all__ = ["Drawn", "nearest_picture", "roc_pictures"]

_POINTS = 200  # of a curve

_LOWEST_RATE = 1e-4

_STYLES = ("-", "--", ":")  # of curves

_INKS = {"light": "#1b1f24", "dark": "#e6eaef"}  # of text and lines


class Drawn(NamedTuple):
    """A picture as PNG files in base64, with no background.

    Attributes:
        light: the picture for a light page.
        dark: the same for a dark page.
    """

    light: str
    dark: str


def _drawn(canvas: "Canvas") -> Drawn:
    """Return a figure in each ink, both with the layout of the first."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas.set_dpi(160)
    for patch in (canvas.patch, *(axes.patch for axes in canvas.axes)):
        patch.set_visible(False)  # no background
    # A figure's own `savefig` would lay it out in a drawing that it throws away.
    agg: Any = FigureCanvasAgg(canvas)  # some of it has no types
    pictures = {}
    for name, ink in _INKS.items():
        for axes in canvas.axes:
            axes.title.set_color(ink)
            if axes.axison:  # ticks are costly to make
                axes.tick_params(which="both", colors=ink)
                axes.spines[:].set_color(ink)
                axes.xaxis.label.set_color(ink)
                axes.yaxis.label.set_color(ink)
        for text in (text for each in canvas.legends for text in each.get_texts()):
            text.set_color(ink)
        buffer = io.BytesIO()
        agg.print_png(buffer)
        canvas.set_layout_engine("none")
        pictures[name] = base64.b64encode(buffer.getvalue()).decode()
    return Drawn(**pictures)


def roc_pictures(rows: list[ResultRow]) -> dict[MemberGroup, Drawn]:
    """Return a picture of ROC curves for each group with figures.

    Args:
        rows: the attacks on one mechanism, in each group the strongest first; its curve
            gets a band.
    """
    found = [row for row in rows if row.auc.estimate is not None]
    groups = dict.fromkeys(row.group for row in found)
    # An attack looks alike in all pictures; there are ten colours.
    numbers = enumerate(dict.fromkeys(row.attack for row in found))
    looks: dict[str, dict[str, Any]] = {
        attack: {"color": f"C{number % 10}", "linestyle": _STYLES[number // 10 % 3]}
        for number, attack in numbers
    }
    of_groups = {
        group: [(row, _roc(row.curves)) for row in found if row.group == group]
        for group in groups
    }
    return {
        group: _drawn(_curves(curves, looks)) for group, curves in of_groups.items()
    }


def _curves(
    curves: list[tuple[ResultRow, "_Curve"]], looks: dict[str, dict[str, Any]]
) -> "Canvas":
    """Draw the ROC curves of one group."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(4.8, 4.2 + 0.19 * len(curves)), layout="constrained")
    axes = canvas.add_subplot()
    for number, (row, (false, true, low, high)) in enumerate(curves):
        (line,) = axes.plot(
            false,
            true,
            label=plain(row.attack),
            **looks[row.attack],
            linewidth=2 if number == 0 else 1.2,
            zorder=3 if number == 0 else 2,
        )
        if number == 0:
            axes.fill_between(
                false, low, high, color=line.get_color(), alpha=0.2, linewidth=0
            )
    # The lowest rate that so many non-members resolve.
    lowest = max(_LOWEST_RATE, 1 / max(row.non_members for row, _ in curves))
    axes.plot([lowest, 1], [lowest, 1], "--", color="gray", label="guessing")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(lowest, 1),
        ylim=(lowest, 1.05),
        xlabel="false-positive rate",
        ylabel="true-positive rate",
    )
    axes.grid(alpha=0.3)
    legend = canvas.legend(loc="outside lower center", fontsize=9, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name with dollar signs is not a formula
    return canvas


class _Curve(NamedTuple):
    """A ROC curve over all audited runs: rates, and bounds of true-positive rates."""

    false: Array
    true: Array
    low: Array
    high: Array


def _roc(targets: tuple[Scores, ...]) -> _Curve:
    """Return the curve of all audited runs."""
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
    true = np.maximum(above / members, floor)
    return _Curve(false, true, np.maximum(low, floor), high)


def nearest_picture(nearest: NearestMembers) -> Drawn:
    """Return a picture: released images above, the nearest members below."""
    return _drawn(_pairs(nearest))


def _pairs(nearest: NearestMembers) -> "Canvas":
    """Draw released images above the nearest members."""
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
    return canvas
