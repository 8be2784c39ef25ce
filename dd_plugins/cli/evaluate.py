"""The command for training on a set and testing on real data."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
from dd_plugins.cli.seeds import (
    check_repeatable,
    further_sets,
    results_of_seeds,
    tables_of_seeds,
)
from dd_plugins.cli.trained_so_far import kept_networks, remove_networks
from dd_plugins.plugins.distributed_command import DistributedCommand

if TYPE_CHECKING:
    from dd_plugins.evaluation.results import Evaluation, NetworkResult
    from dd_plugins.evaluation.robustness import RobustnessScore
    from dd_plugins.runtime.device import Precision
    from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["evaluate_command"]

_protocol_or_retrieval = click.option(
    "--protocol",
    metavar="NAME or RECIPE",
    default="auto",
    show_default=True,
    help="How networks are trained: auto (the recipe of the set), family (that of each "
    "network's family), frepo, classic, or a recipe such as 'recipe(steps=300)'. "
    "retrieval also scores their features, and "
    "turns --baselines on.",
)


@click.command("evaluate", cls=DistributedCommand)
@click.argument("path", type=shared.path_type)
@shared.networks(
    "Architectures to train: conv,mlp, or one in each option.  [default: that of the "
    "set]"
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Networks of each architecture; intervals need at least 2.",
)
@_protocol_or_retrieval
@click.option(
    "--baselines",
    is_flag=True,
    help="Also train on as many random real images, and on all of them.",
)
@click.option(
    "--full-steps",
    type=click.IntRange(min=1),
    help="Training steps on all real images, for --baselines and lrs; take more for "
    "large data.  [default: 1000]",
)
@click.option(
    "--scores",
    metavar="SCORES",
    help="Further scores, separated by commas: lrs and ars, DD-Ranking's robust "
    "scores; hard, the accuracy with hard labels; retrieval, of features; kernel, the "
    "accuracy of kernel regression from the set, or 'kernel(of=conv(depth=3))'.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Distillations to evaluate: this one, and others of the same run with further "
    "seeds, which are made first, in the folder seeds next to the set.",
)
@shared.validation
@shared.real_data
@shared.data_root
@shared.download
@shared.seed
@shared.device
@shared.precision
@shared.json_file
@shared.overwrite
def evaluate_command(
    path: Path,
    networks: tuple[str, ...],
    repeats: int,
    protocol: str,
    baselines: bool,
    full_steps: int | None,
    scores: str | None,
    seeds: int,
    validation: bool,
    data: str | None,
    data_root: Path | None,
    download: bool,
    seed: int,
    device: str,
    precision: str,
    json_file: Path | None,
    overwrite: bool,
) -> None:
    """Train fresh networks on a distilled set, and test them on real data.

    To go on after a stop, repeat the command: networks already trained are kept until
    it ends.
    """
    from dd_plugins.evaluation.evaluate import evaluate
    from dd_plugins.runtime import processes
    from dd_plugins.synthetic.artifact import DistilledSet, artifact_file

    inputs = [artifact_file(path)]
    check_outputs((json_file, "JSON"), inputs=inputs, overwrite=overwrite)
    distilled = DistilledSet.load(path)
    where: dict[str, Any] = {
        "data": data,
        "data_root": data_root,
        "download": download,
        "device": device,
    }
    with processes.process_group():
        sets = [distilled]
        if seeds > 1:
            check_repeatable(distilled)
            sets += further_sets(distilled, inputs[0], seeds, **where)
        kept = kept_networks()
        with training_progress(in_seconds=True) as on_progress:
            found = [
                evaluate(
                    each,
                    networks,
                    repeats=repeats,
                    protocol=protocol,
                    baselines=baselines and number == 0,
                    full_steps=full_steps if number == 0 else None,
                    scores=scores if number == 0 else None,
                    validation=validation,
                    seed=seed,
                    precision=cast("Precision", precision),
                    kept=kept,
                    on_progress=on_progress,
                    **where,
                )
                for number, each in enumerate(sets)
            ]
        if processes.rank() > 0:
            return
    tables = [*_evaluation_tables(found[0], distilled)]
    figures = found[0].as_dict()
    if seeds > 1:
        tables += tables_of_seeds(distilled.header.seed, found)
        figures["distillations"] = [each.as_dict() for each in results_of_seeds(found)]
    run_all(
        lambda: print_tables(Console(), tables),
        lambda: write_json(json_file, figures),
    )
    remove_networks(kept)


_RETRIEVAL = {
    "precision_at_1": "precision at 1",
    "r_precision": "R-precision",
    "mean_average_precision_at_r": "MAP@R",
}


def _evaluation_tables(
    found: "Evaluation", distilled: "DistilledSet"
) -> Iterator[Table | Text]:
    """Yield a title and a table for each network: a row for each training set."""
    header, has_views = distilled.header, distilled.header.views is not None
    drawn, images = str(found.random_images), str(len(distilled))
    hard_name = "distilled set" if has_views else "distilled set, hard labels"
    every = f"{header.dataset.train_images:,}"
    kinds = (
        ("random real images", "classes", drawn, found.random),
        ("random real images", "teacher's", drawn, found.taught_random),
        (hard_name, "classes", images, found.hard),
        ("distilled set", "teacher's", images, found.networks),
        ("all training images", "classes", every, found.full),
    )
    for number, result in enumerate(found.networks):
        repeats = len(result.accuracies)
        yield as_text(
            f"accuracy on {found.test_images:,} {found.scored_on} of {found.data}: "
            f"{repeats} x {result.spec}"
        )
        columns = ("trained on", "labels") if has_views else ("trained on",)
        table = _table_of_sets(*columns)
        for kind, labels, count, results in kinds:
            if results:
                words = (kind, labels) if has_views else (kind,)
                table.add_row(*words, count, *figure_columns(results[number]))
        yield table
        if result.retrieval:
            yield as_text(
                f"finding {found.scored_on} of the same class by features of "
                f"{result.spec}"
            )
            yield _retrieval_table(
                [(kind, results[number]) for kind, _, _, results in kinds if results]
            )
        robust = [score for score in found.robustness if score.spec == result.spec]
        if robust:
            yield as_text(f"robust scores of {result.spec}, from 0 to 1")
            yield _robustness_table(robust)
    yield from _kernel_tables(found, distilled)
    if found.without_teacher:
        yield as_text(
            f"random real images have no labels of a teacher: {found.without_teacher}"
        )


_ROBUST = {
    "lrs": "LRS: images, not labels",
    "ars": "ARS: images, not augmentation",
}
_PARTS = {
    "HLR": "all images less hard labels",
    "IOR": "over random images",
    "augmented": "over random images, augmented",
    "plain": "over random images, not augmented",
}


def _robustness_table(scores: "list[RobustnessScore]") -> Table:
    """Return a table of robust scores and the differences they consist of."""
    table = Table()
    table.add_column("score")
    for column in ("value", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for score in scores:
        bounds = score.interval
        told = "" if bounds is None else f"{bounds[0]:.4f} to {bounds[1]:.4f}"
        table.add_row(_ROBUST[score.name], f"{score.value:.4f}", told)
        for name, value in score.parts.items():
            table.add_row(f"  {_PARTS[name]}", f"{value:+.4f}", "")
    return table


def _table_of_sets(*first_columns: str) -> Table:
    """Return an empty table, to be filled with a row for each set of images."""
    table = Table()
    for column in first_columns:
        table.add_column(column)
    for column in ("images", "mean", "deviation", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _kernel_tables(
    found: "Evaluation", distilled: "DistilledSet"
) -> Iterator[Table | Text]:
    """Yield a title and a table of kernel regression, if it was requested."""
    if found.kernel is None:
        return
    yield as_text(
        f"accuracy on {found.test_images:,} {found.scored_on} of {found.data}: "
        f"{found.kernel.spec}, no network"
    )
    table = _table_of_sets("regression from")
    if found.random_kernel is not None:
        columns = figure_columns(found.random_kernel)
        table.add_row("random real images", str(found.random_images), *columns)
    table.add_row("distilled set", str(len(distilled)), *figure_columns(found.kernel))
    yield table


def _retrieval_table(rows: "list[tuple[str, NetworkResult]]") -> Table:
    """Return a table of how well features find images of the same class."""
    from dd_plugins.evaluation.results import NetworkResult

    spec = rows[0][1].spec
    table = Table()
    for column in ("score", "trained on"):
        table.add_column(column)
    for column in ("mean", "deviation", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for score, title in _RETRIEVAL.items():
        for number, (kind, result) in enumerate(rows):
            columns = figure_columns(NetworkResult(spec, result.retrieval[score]))
            table.add_row(title if number == 0 else "", kind, *columns)
    return table
