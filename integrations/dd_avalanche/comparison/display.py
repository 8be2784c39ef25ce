"""The results of a comparison as a table and as a picture."""

from pathlib import Path

from rich.table import Table

from dd_avalanche.comparison.experiment import Experiment, MemoryUse
from dd_avalanche.comparison.results import PolicyResult
from dd_plugins.api import write_atomically

__all__ = ["results_table", "save_plot"]


def results_table(
    experiment: Experiment, protocol: MemoryUse, rows: list[PolicyResult]
) -> Table:
    """Return the rows of one use of the memory as a table."""
    title = (
        f"{experiment.benchmark}, {experiment.experiences} experiences, {protocol}, "
        f"{experiment.scored_on}"
    )
    table = Table(title=title)
    table.add_column("memory", overflow="fold", min_width=14)
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
    """Return what distinguishes a row from the others of its protocol."""
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
    return "" if bounds is None else f"{_percent(bounds[0])}-{_percent(bounds[1])}"


def save_plot(experiment: Experiment, rows: list[PolicyResult], path: Path) -> Path:
    """Draw the accuracy over all classes seen, after each experience.

    Raises:
        FileError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(row.streams[0].protocol for row in rows))
    figure = Figure(figsize=(7 * len(protocols), 5), layout="constrained")
    for index, protocol in enumerate(protocols):
        axes = figure.add_subplot(1, len(protocols), index + 1)
        for row in rows:
            found = row.as_dict()
            if found["protocol"] != protocol:
                continue
            curve = found["accuracy_per_experience"]
            stages = [
                stage for stage, value in enumerate(curve, 1) if value is not None
            ]
            axes.plot(
                stages,
                [100 * curve[stage - 1] for stage in stages],
                "--o" if row.equal_bytes else "-o",
                label=_name(row),
                markersize=4,
            )
        axes.set_title(f"{experiment.benchmark}, {protocol}")
        axes.set_xlabel("experiences")
        axes.set_ylabel("accuracy over the classes seen, in %")
        axes.set_xticks(range(1, experiment.experiences + 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=120)
    )
