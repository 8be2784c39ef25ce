"""Repeated distillations: how much a method's result depends on its seed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from dd_plugins.cli.printing import as_text, figure_columns
from dd_plugins.cli.repeating import check_run_repeats
from dd_plugins.errors import OptionError

if TYPE_CHECKING:
    from dd_plugins.evaluation.results import Evaluation, NetworkResult
    from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["check_repeatable", "further_sets", "results_of_seeds", "tables_of_seeds"]


def check_repeatable(distilled: "DistilledSet") -> None:
    """Refuse a set whose run cannot be repeated with other seeds.

    Raises:
        OptionError: no options repeat its run (:func:`check_run_repeats`), or the set
            is private.
        UnknownNameError: no plugin registers its distiller.
    """
    check_run_repeats(distilled.header)
    if distilled.header.privacy is not None:
        raise OptionError(
            "--seeds would spend the privacy budget again for each seed; distil such "
            "sets one by one"
        )


def further_sets(
    distilled: "DistilledSet", file: Path, seeds: int, **options: Any
) -> Iterator["DistilledSet"]:
    """Repeat the run of a set with other seeds; use finished runs again.

    Args:
        distilled: the set.
        file: the file of the set; runs go to the folder ``seeds`` beside it.
        seeds: the number of sets in all, including this one.
        **options: arguments of ``distill``: the data, its folder, and the device.
    """
    from dd_plugins.engine.distillation import distill

    header = distilled.header
    data = options.pop("data") or header.dataset.name
    for seed in range(header.seed + 1, header.seed + seeds):
        run = replace(header.run, seed=seed)
        yield distill(
            data,
            out=file.parent / "seeds" / f"{file.stem}-{seed}",
            image_size=header.dataset.image_size,
            resume=True,
            progress=True,
            **options,
            **run.arguments(),
        )


def results_of_seeds(found: Sequence["Evaluation"]) -> list["NetworkResult"]:
    """Return the mean accuracy of each distillation, for each architecture."""
    from dd_plugins.evaluation.results import NetworkResult

    return [
        NetworkResult(results[0].spec, tuple(result.mean for result in results))
        for results in zip(*(each.networks for each in found), strict=True)
    ]


def tables_of_seeds(
    first_seed: int, found: Sequence["Evaluation"]
) -> Iterator[Table | Text]:
    """Yield a title and a table for each architecture: a row for each distillation."""
    for number, over_sets in enumerate(results_of_seeds(found)):
        yield as_text(f"{len(found)} distillations, tested by {over_sets.spec}")
        table = Table()
        table.add_column("seed of the distillation")
        for column in ("mean", "deviation", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for index, each in enumerate(found):
            columns = figure_columns(each.networks[number])
            table.add_row(str(first_seed + index), *columns)
        table.add_section()
        table.add_row("all of them", *figure_columns(over_sets))
        yield table
