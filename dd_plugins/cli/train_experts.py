"""The command for training experts, whose trajectories a distiller matches."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say, training_progress, validation_text

if TYPE_CHECKING:
    from dd_plugins.data.preprocess import Preprocessing
    from dd_plugins.runtime.device import Precision

__all__ = ["train_experts_command"]


@click.command("train-experts")
@shared.dataset
@click.option(
    "--network",
    required=True,
    help="Architecture of the experts, such as 'conv(width=32)'.",
)
@click.option(
    "--experts",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="How many; their seeds are 0, 1, 2, ...",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=150,
    show_default=True,
    help="Training steps of an expert, by MTT's recipe; the default is enough for one "
    "image per class.",
)
@click.option(
    "--recipe",
    metavar="RECIPE",
    help="How experts are trained, in place of --steps: 'recipe(steps=500, ...)'. "
    "\"mtt(missing_experts='refuse')\" says which one a run needs.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Training steps from one snapshot to the next.",
)
@click.option(
    "--way-points",
    type=click.IntRange(min=2),
    help="Snapshots that are stored; tensors move on straight lines between them.  "
    "[default: all]",
)
@shared.data_root
@shared.download
@shared.image_size
@shared.preprocessing
@shared.mirror
@shared.cache
@shared.device
@shared.precision
def train_experts_command(
    dataset: str,
    network: str,
    experts: int,
    steps: int,
    recipe: str | None,
    every: int,
    way_points: int | None,
    data_root: Path | None,
    download: bool,
    image_size: int | None,
    preprocessing: str | None,
    mirror: bool | None,
    cache: Path | None,
    device: str,
    precision: str,
) -> None:
    """Train experts on real data, for mtt to match their weights.

    Experts already in the cache are not trained again. To resume a stopped command,
    repeat it: it goes on with the first missing expert. mtt finds the experts trained
    with its own data, value space, network and recipe.
    """
    from dd_plugins.data.named import DataOptions
    from dd_plugins.plugins.manager import loaded_plugins
    from dd_plugins.training.experts import expert_preprocessing, train_experts
    from dd_plugins.training.recipes import expert_recipe, get_recipe

    plugins = loaded_plugins()
    architecture = plugins.network(network)
    if recipe is not None and shared.given_on_command_line("steps"):
        raise click.UsageError("give --steps or --recipe, not both")
    chosen = expert_recipe(steps) if recipe is None else get_recipe(recipe)
    options = DataOptions(root=data_root, download=download, image_size=image_size)
    data = plugins.real_data(dataset, options)
    data = data.prepared(
        cast("Preprocessing | None", preprocessing)
        or expert_preprocessing(data.image_shape),
        mirror,
    )
    with training_progress() as on_progress:
        reports = train_experts(
            data,
            architecture,
            chosen,
            experts=experts,
            every=every,
            way_points=way_points,
            device=device,
            precision=cast("Precision", precision),
            folder=cache,
            on_progress=on_progress,
        )
        for kept in reports:
            found = validation_text(kept.validation_accuracy)
            how = "kept before" if kept.was_there else "trained"
            say(
                f"expert {kept.seed}, {kept.snapshots} snapshots: {how}, {found}, "
                f"{kept.file}"
            )
