"""A transfer report as a plot: a line for each set, architectures on the axis."""

from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugins.cli.transfer_page import set_names
from dd_plugins.evaluation.transfer_results import SetTransfer, Transfer
from dd_plugins.runtime.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_transfer", "transfer_figure"]

_INCHES = 1.2  # of the axis for each architecture
_APART = 0.08  # architectures between two lines' points, so that no bar hides another


def draw_transfer(path: Path | None, found: Transfer) -> None:
    """Draw a report as a PNG file; do nothing if the path is None.

    Raises:
        FileError: the file cannot be written.
    """
    if path is None:
        return
    figure = transfer_figure(found)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=160))


def transfer_figure(found: Transfer) -> "Figure":
    """Draw the accuracies of each set by architecture, with 95 % intervals.

    Architectures held out by every set come last, after a vertical line. Random real
    images have a dashed line in the colour of their set.
    """
    from matplotlib.figure import Figure

    specs = _in_order(found.sets)
    places = {spec: number for number, spec in enumerate(specs)}
    figure = Figure(figsize=(2.5 + _INCHES * len(specs), 4.2), layout="constrained")
    axes = figure.add_subplot()
    lines = [
        (results, style, f"C{number}", told)
        for number, (name, report) in enumerate(
            zip(set_names(found.sets), found.sets, strict=True)
        )
        for results, style, told in (
            (report.results, "o-", name),
            (report.random, "s--", f"random real images, {report.random_images}"),
        )
        if results
    ]
    for number, (results, style, colour, told) in enumerate(lines):
        aside = _APART * (number - (len(lines) - 1) / 2)
        ordered = sorted(results, key=lambda result: places[result.spec])
        bounds = [result.bounds or (result.mean, result.mean) for result in ordered]
        axes.errorbar(
            [places[result.spec] + aside for result in ordered],
            [100 * result.mean for result in ordered],
            yerr=[
                [
                    100 * (result.mean - low)
                    for result, (low, _) in zip(ordered, bounds, strict=True)
                ],
                [
                    100 * (high - result.mean)
                    for result, (_, high) in zip(ordered, bounds, strict=True)
                ],
            ],
            fmt=style,
            color=colour,
            capsize=3,
            alpha=1.0 if style == "o-" else 0.5,
            label=told,
        )
    held_out = _held_out(found.sets)
    first = sum(spec not in held_out for spec in specs)
    if 0 < first < len(specs):
        axes.axvline(first - 0.5, color="0.7", linewidth=1)
        axes.text(first - 0.4, 1.01, "held out", transform=axes.get_xaxis_transform())
    axes.set_xticks(range(len(specs)), [_in_lines(spec) for spec in specs])
    axes.set_ylabel(f"accuracy on {found.scored_on}, %")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _in_lines(spec: str) -> str:
    """Return a spec with each of its options on a line of its own."""
    return spec.replace("(", "(\n", 1).replace(", ", ",\n")


def _held_out(reports: tuple[SetTransfer, ...]) -> set[str]:
    """Return the architectures held out by every set tested on them."""
    roles: dict[str, set[str]] = {}
    for report in reports:
        for result, role in zip(report.results, report.roles, strict=True):
            roles.setdefault(result.spec, set()).add(role)
    return {spec for spec, found in roles.items() if found == {"held out"}}


def _in_order(reports: tuple[SetTransfer, ...]) -> list[str]:
    """Return all architectures in the given order, with those held out last."""
    held_out = _held_out(reports)
    specs = dict.fromkeys(
        result.spec for report in reports for result in report.results
    )
    return sorted(specs, key=lambda spec: spec in held_out)
