"""The finding of a transfer report, as a sentence and as an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dd_plugins.evaluation.results import NetworkResult
from dd_plugins.evaluation.transfer_results import Difference, SetTransfer, Transfer
from dd_plugins.pages.page import write_page
from dd_plugins.spec import names_of

__all__ = ["set_names", "transfer_finding", "write_transfer_page"]

_COLOURS = 4  # of sets; a further set repeats the first colour
_BETWEEN = 14  # pixels between the marks of two sets


class _Mark(NamedTuple):
    """A figure in the picture: a dot on its interval.

    Attributes:
        colour: the number of the colour.
        y: pixels from the top.
        mean: the place of the dot, in per cent of the width.
        low: the lower end of the interval, likewise; the dot itself for one network.
        high: the upper end of the interval, likewise.
    """

    colour: int
    y: int
    mean: float
    low: float
    high: float


class _Picture(NamedTuple):
    """A picture of accuracies: a row for each architecture.

    Attributes:
        rows: each architecture with the marks of the sets tested on it.
        ticks: the numbers on the axis, in per cent, with their places, in per cent of
            the width.
        height: the height of a row in pixels.
    """

    rows: dict[str, list[_Mark]]
    ticks: list[tuple[str, float]]
    height: int


def transfer_finding(found: Transfer) -> str:
    """Return the finding of a report in a sentence or two."""
    names = set_names(found.sets)
    held_out = [each for each in found.differences if each.spec == "held out"]
    if held_out:
        return _comparison(held_out[0], names)
    told = " ".join(map(_figures, names, found.sets))
    reason = found.not_compared
    return f"{told} {reason[:1].upper()}{reason[1:]}." if reason else told


def _comparison(difference: Difference, names: Sequence[str]) -> str:
    """Return how much better or worse the second set is than the first."""
    better = difference.mean >= 0
    sign = 100 if better else -100
    told = f"{names[1]} is {sign * difference.mean:.1f} points"
    if difference.ci95 is not None:
        low, high = sorted(sign * bound for bound in difference.ci95)
        told += f" ({low:.1f} to {high:.1f})"
    told += (
        f" {'better' if better else 'worse'} than {names[0]} on the architectures that "
        "neither was distilled with."
    )
    if difference.ci95 is None:
        return f"{told} One pair of networks gives no interval."
    if difference.ci95[0] <= 0 <= difference.ci95[1]:
        return f"{told} The interval includes zero: this may be chance."
    return told


def _figures(name: str, report: SetTransfer) -> str:
    """Return a set's accuracy on held-out architectures, and on its own family."""
    own = [
        result
        for result, role in zip(report.results, report.roles, strict=True)
        if role == "distilled with"
    ]
    mean = report.held_out()
    if mean is None:
        told = f"{name} was tried on no architecture that is held out"
    else:
        told = f"{name} gives {_percent(mean)} on the architectures held out"
    for result in own:
        told += f", and {_percent(result)} on {result.spec}, of its own family"
    return f"{told}."


def _percent(result: NetworkResult) -> str:
    """Return the mean accuracy and its interval, in per cent."""
    told = f"{100 * result.mean:.1f} %"
    if result.bounds is None:
        return told
    low, high = result.bounds
    return f"{told} ({100 * low:.1f} to {100 * high:.1f})"


def set_names(reports: Sequence[SetTransfer]) -> list[str]:
    """Return short names of the sets: their methods, or paths if methods repeat."""
    methods = [names_of(report.distiller) for report in reports]
    if len(set(methods)) == len(methods):
        return methods
    return [report.path for report in reports]


def write_transfer_page(path: Path | None, found: Transfer) -> None:
    """Write a report as an HTML page; do nothing if the path is None.

    Raises:
        FileError: the file cannot be written.
    """
    if path is None:
        return
    repeats = len(found.sets[0].results[0].accuracies)
    write_page(
        path,
        __package__,
        "transfer_page.html",
        found=found,
        finding=transfer_finding(found),
        names=set_names(found.sets),
        colours=_COLOURS,
        picture=_picture(found.sets),
        repeats=repeats,
    )


def _picture(reports: Sequence[SetTransfer]) -> _Picture:
    """Return the places of dots and intervals, with a line for each set."""
    from matplotlib.ticker import MaxNLocator

    ends = [
        100 * bound
        for report in reports
        for result in report.results
        for bound in (result.mean, *(result.bounds or ()))
    ]
    axis = max(0.0, min(ends) - 1), min(100.0, max(ends) + 1)
    ticks = MaxNLocator(nbins=5).tick_values(*axis)
    start, width = ticks[0], ticks[-1] - ticks[0]

    def place(accuracy: float) -> float:
        return round(float(100 * (100 * accuracy - start) / width), 2)

    rows: dict[str, list[_Mark]] = {}
    for number, report in enumerate(reports):
        for result in report.results:
            low, high = result.bounds or (result.mean, result.mean)
            mark = _Mark(
                number % _COLOURS,
                number * _BETWEEN + _BETWEEN // 2,
                *map(place, (result.mean, low, high)),
            )
            rows.setdefault(result.spec, []).append(mark)
    return _Picture(
        rows,
        [(f"{tick:g}", place(tick / 100)) for tick in ticks],
        len(reports) * _BETWEEN,
    )
