"""The results of a comparison as a table and as a picture."""

import statistics
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.table import Table

from dd_avalanche.comparison.choices import MemoryUse
from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.results import PolicyResult
from dd_plugins.api import write_atomically

__all__ = ["results_table", "save_plot"]

_ASIDE = 0.04  # of an experience, between the points of two rows
_BOUNDS = {"naive": "0.6", "joint": "0.25"}  # their greys


def results_table(
    experiment: Experiment, protocol: MemoryUse, rows: list[PolicyResult]
) -> Table:
    """Return the rows of one protocol as a table."""
    title = (
        f"{experiment.benchmark}, {experiment.experiences} experiences, {protocol}, "
        f"{experiment.scored_on}"
    )
    # Without edges a terminal of 80 characters has room for all figures.
    table = Table(title=title, show_edge=False)
    table.add_column("memory", overflow="fold", min_width=12)
    headings = ("images", "bytes", "final", "95 %", "forgotten", "seconds")
    for column in headings:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        found = row.as_dict()
        if found["protocol"] != protocol:
            continue
        table.add_row(
            _name(row),
            str(found["memory_images"]),
            str(found["memory_bytes"]),
            _percent(found["final_accuracy_mean"]),
            _interval(found["final_accuracy_ci95"]),
            _percent(found["forgetting_mean"]),
            f"{found['distill_seconds']:.0f}",
        )
    return table


def _name(row: PolicyResult) -> str:
    """Return the name of a row, different from the others of its protocol."""
    first = row.streams[0]
    about = [
        "" if first.context == "none" else f"context {first.context}",
        "" if first.store in ("real", "none", "float32") else first.store,
        "equal bytes" if row.equal_bytes else "",
    ]
    return ", ".join(filter(None, [first.policy, *about]))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    """Return an interval of accuracies, cut to [0, 1], in per cent."""
    if bounds is None:
        return ""
    return f"{_percent(max(0.0, bounds[0]))} to {_percent(min(1.0, bounds[1]))}"


def save_plot(experiment: Experiment, rows: list[PolicyResult], path: Path) -> Path:
    """Draw the mean accuracy over the experiences so far, after each one.

    There is a panel for each protocol, all on one scale. A policy has one colour in all
    of them. Memories of equal bytes are dashed, and the bound of all real images is a
    horizontal line. Bars reach from the lowest to the highest of the orders.

    Raises:
        FileError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(row.streams[0].protocol for row in rows))
    colours = _colours(rows)
    figure = Figure(
        figsize=(7 * len(protocols), 5 + 0.2 * len(rows) / len(protocols)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(protocols), sharey=True, squeeze=False)[0]
    named: dict[str, Any] = {}
    for axes, protocol in zip(panels, protocols, strict=True):
        drawn = [row for row in rows if row.streams[0].protocol == protocol]
        for number, row in enumerate(drawn):
            aside = _ASIDE * (number - (len(drawn) - 1) / 2)
            line = _draw(axes, row, colours[_kind(row)], aside)
            named.setdefault(line.get_label(), line)
        axes.set_title(f"{experiment.benchmark}, {protocol}")
        axes.set_xlabel("experiences")
        axes.set_xticks(range(1, experiment.experiences + 1))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean accuracy over the experiences so far, in %")
    orders = max(len(row.streams) for row in rows)
    legend = figure.legend(
        handles=list(named.values()),
        loc="outside lower center",
        ncols=2 * len(protocols) if max(map(len, named)) <= 30 else len(protocols),
        fontsize=9,
        frameon=False,
        title=f"bars: lowest to highest of {orders} orders" if orders > 1 else None,
        title_fontsize=9,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a spec with dollar signs is no formula
    return write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=120)
    )


def _kind(row: PolicyResult) -> tuple[str, str, str]:
    """Return the common properties of rows of one colour."""
    first = row.streams[0]
    return first.policy, first.context, first.store


def _colours(rows: list[PolicyResult]) -> dict[tuple[str, str, str], Any]:
    """Return a colour for each kind of row; greys for the bounds."""
    from matplotlib import colormaps

    kinds = list(dict.fromkeys(map(_kind, rows)))
    bounds = {kind: grey for kind in kinds if (grey := _BOUNDS.get(kind[0]))}
    others = [kind for kind in kinds if kind not in bounds]
    palette = colormaps["tab10" if len(others) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    return bounds | dict(zip(others, cycle(palette), strict=False))


def _draw(axes: Any, row: PolicyResult, colour: Any, aside: float) -> Any:
    """Draw a row: a curve with bars, moved aside a little, or a level with a band."""
    curves = [
        [None if value is None else 100 * value for value in stream.curve]
        for stream in row.streams
    ]
    measured = [
        (stage, values)
        for stage, values in enumerate(zip(*curves, strict=True), 1)
        if None not in values
    ]
    stages = [stage for stage, _ in measured]
    means = [statistics.mean(values) for _, values in measured]
    low = [min(values) for _, values in measured]
    high = [max(values) for _, values in measured]
    if stages == [len(curves[0])]:  # measured at the end alone
        axes.axhspan(low[0], high[0], color=colour, alpha=0.15, linewidth=0)
        return axes.axhline(means[0], color=colour, linestyle=":", label=_name(row))
    where = [stage + aside for stage in stages]
    axes.vlines(where, low, high, color=colour, linewidth=1, alpha=0.6)
    style = "--o" if row.equal_bytes else "-o"
    (line,) = axes.plot(
        where, means, style, color=colour, label=_name(row), markersize=4
    )
    return line
