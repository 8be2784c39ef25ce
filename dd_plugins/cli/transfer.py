"""The command for testing sets on other architectures."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dd_plugins import options as shared
from dd_plugins.cli.outputs import check_outputs
from dd_plugins.cli.printing import (
    as_text,
    figure_columns,
    print_tables,
    run_all,
    training_progress,
    write_json,
)
from dd_plugins.cli.trained_so_far import kept_networks, remove_networks
from dd_plugins.errors import OptionError
from dd_plugins.plugins.distributed_command import DistributedCommand

if TYPE_CHECKING:
    from dd_plugins.evaluation.transfer_results import Difference, Transfer

__all__ = ["transfer_command"]


@click.command("transfer", cls=DistributedCommand)
@click.argument("paths", type=shared.path_type, nargs=-1, required=True)
@shared.networks("Architectures: conv,mlp, or one in each option.", required=True)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Fresh networks of each.",
)
@click.option(
    "--recipes",
    type=click.Choice(["set", "auto"]),
    default="set",
    show_default=True,
    help="set: the recipe of the set for all networks, or that of --protocol. auto: "
    "each architecture by the recipe of its family.",
)
@click.option(
    "--baselines", is_flag=True, help="Also train on as many random real images."
)
@shared.protocol
@shared.validation
@shared.real_data
@shared.data_root
@shared.download
@shared.seed
@shared.device
@shared.precision
@shared.json_file
@click.option("--html", "html_file", type=shared.path_type, help="Write the page here.")
@click.option(
    "--plot",
    "plot_file",
    type=shared.path_type,
    help="Draw the accuracies here, as PNG: a line for each set.",
)
@shared.overwrite
def transfer_command(
    paths: tuple[Path, ...],
    networks: tuple[str, ...],
    recipes: str,
    protocol: str,
    json_file: Path | None,
    html_file: Path | None,
    plot_file: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Test distilled sets on architectures other than their own.

    Two sets with the same base (a distiller, and the same inside a wrapper), distilled
    from the same data, are compared in pairs, network by network.

    To go on after a stop, repeat the command: networks already trained are kept until
    it ends.
    """
    from dd_plugins.cli.transfer_page import write_transfer_page
    from dd_plugins.cli.transfer_plot import draw_transfer
    from dd_plugins.evaluation.cross_architecture import transfer
    from dd_plugins.runtime import processes
    from dd_plugins.synthetic.artifact import artifact_file

    check_outputs(
        (json_file, "JSON"),
        (html_file, "HTML"),
        (plot_file, "PNG"),
        inputs=[artifact_file(path) for path in paths],
        overwrite=overwrite,
    )
    if recipes == "auto":
        if protocol != "auto":
            raise OptionError(
                "--recipes auto trains each architecture by a recipe of its own: "
                f"expected no --protocol beside it, got {protocol}"
            )
        protocol = "family"
    with processes.process_group(), training_progress(in_seconds=True) as on_progress:
        first, kept = processes.rank() == 0, kept_networks()
        found = transfer(
            paths,
            networks,
            protocol=protocol,
            kept=kept,
            on_progress=on_progress,
            **options,
        )
    if not first:
        return
    run_all(
        lambda: print_tables(Console(), _transfer_tables(found)),
        lambda: write_json(json_file, found.as_dict()),
        lambda: write_transfer_page(html_file, found),
        lambda: draw_transfer(plot_file, found),
    )
    remove_networks(kept)


def _transfer_tables(found: "Transfer") -> Iterator[Table | Text]:
    """Yield the finding, then a title and a table for each set, and for differences."""
    from dd_plugins.cli.transfer_page import transfer_finding

    yield as_text(transfer_finding(found))
    for report in found.sets:
        title = f"{report.path}: {report.distiller}, {report.images} images"
        yield as_text(f"{title}, on {found.scored_on}")
        table = Table()
        for column in ("architecture", "role"):
            table.add_column(column)
        for column in ("mean", "deviation", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for result, role in zip(report.results, report.roles, strict=True):
            table.add_row(as_text(result.spec), role, *figure_columns(result))
        for mean in report.by_family().values():
            table.add_row(mean.spec, "", *figure_columns(mean))
        held_out = report.held_out()
        if held_out is not None:
            table.add_row("mean, held out", "", *figure_columns(held_out))
        yield table
        if report.random:
            yield as_text(
                f"gain over {report.random_images} random real images, in pairs of "
                "equal networks"
            )
            yield _table_of(report.over_random())
    if found.differences:
        sizes = [report.images for report in found.sets]
        title = "second set less first, in pairs of equal networks"
        if len(set(sizes)) > 1:
            title += f" ({sizes[1]} images less {sizes[0]})"
        yield as_text(title)
        yield _table_of(found.differences)


def _table_of(differences: "Sequence[Difference]") -> Table:
    """Return a table of paired differences with their intervals."""
    table = Table()
    table.add_column("architecture")
    for column in ("mean", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in differences:
        interval = _interval(each) or "one pair"
        table.add_row(as_text(each.spec), f"{each.mean:+.4f}", interval)
    return table


def _interval(difference: "Difference") -> str:
    """Return the interval of a difference; empty for one pair."""
    if difference.ci95 is None:
        return ""
    return f"{difference.ci95[0]:+.4f} to {difference.ci95[1]:+.4f}"
