"""The command for training networks on real data."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say, training_progress, validation_text
from dd_plugins.training.default_steps import SQUEEZE_STEPS, STAGES

if TYPE_CHECKING:
    from dd_plugins.data.spaces import Preprocessing
    from dd_plugins.runtime.device import Precision
    from dd_plugins.training.recipes import Recipe

__all__ = ["train_networks_command"]


@click.command("train-networks")
@shared.dataset
@shared.networks(
    "Architectures to train: resnet18,vgg11, or one in each option.", required=True
)
@click.option(
    "--steps",
    "stages",
    type=click.IntRange(min=1),
    multiple=True,
    default=STAGES,
    show_default=True,
    help="Training steps; repeat it for a network of each stage.",
)
@click.option(
    "--recipe",
    metavar="squeeze or RECIPE",
    help="How networks are trained, in place of the short training for wrappers: "
    f"squeeze, which is how teachers are trained (with --steps, or {SQUEEZE_STEPS:,} "
    "of them), or 'recipe(steps=500, ...)'.",
)
@click.option(
    "--stop-after",
    type=click.IntRange(min=1),
    help="With squeeze: stop after so many steps of the schedule.",
)
@click.option(
    "--network-seed",
    "seeds",
    type=int,
    multiple=True,
    default=(0,),
    show_default=True,
    help="Random seed of weights and batches; repeat it for a network of each.",
)
@shared.data_root
@shared.download
@shared.image_size
@shared.preprocessing
@shared.mirror
@shared.cache
@shared.device
@shared.precision
def train_networks_command(
    dataset: str,
    networks: tuple[str, ...],
    stages: tuple[int, ...],
    recipe: str | None,
    stop_after: int | None,
    seeds: tuple[int, ...],
    data_root: Path | None,
    download: bool,
    image_size: int | None,
    preprocessing: str | None,
    mirror: bool | None,
    cache: Path | None,
    device: str,
    precision: str,
) -> None:
    """Train networks on real data: teachers, and networks for wrappers.

    Networks already in the cache are not trained again. To resume a stopped command,
    repeat it: it goes on with the first missing network.
    """
    from dd_plugins.data.named import DataOptions
    from dd_plugins.plugins.manager import loaded_plugins
    from dd_plugins.training.kept_networks import train_networks

    plugins = loaded_plugins()
    chosen = [plugins.network(spec) for spec in networks]
    options = DataOptions(root=data_root, download=download, image_size=image_size)
    if preprocessing is None and recipe == "squeeze":
        preprocessing = "standardize"  # as sre2l and rded need them
    data = plugins.real_data(dataset, options).prepared(
        cast("Preprocessing | None", preprocessing), mirror
    )
    chosen_recipe = _recipe(recipe, stages, stop_after)
    if chosen_recipe is not None:
        say(f"recipe: {chosen_recipe!r}")
    with training_progress(in_seconds=True) as on_progress:
        reports = train_networks(
            data,
            chosen,
            stages=stages if chosen_recipe is None else None,
            recipe=chosen_recipe,
            seeds=seeds,
            device=device,
            precision=cast("Precision", precision),
            folder=cache,
            on_progress=on_progress,
        )
        for kept in reports:
            found = validation_text(kept.validation_accuracy)
            how = "kept before" if kept.was_there else "trained"
            seed = f", seed {kept.seed}" if len(seeds) > 1 or kept.seed else ""
            say(
                f"{kept.network}, {kept.steps} steps{seed}: {how}, {found}, {kept.file}"
            )


def _recipe(
    asked: str | None, stages: tuple[int, ...], stop_after: int | None
) -> "Recipe | None":
    """Return the requested recipe; None for the short training of stages."""
    from dd_plugins.training.recipes import Recipe, get_recipe, squeeze_recipe

    steps_given = bool(shared.given_on_command_line("stages"))
    if asked != "squeeze" and stop_after is not None:
        raise click.UsageError("--stop-after needs --recipe squeeze")
    if asked is None:
        return None
    if asked != "squeeze":
        if steps_given:
            raise click.UsageError("give --steps or the steps of a recipe, not both")
        if not asked.startswith(Recipe.name):
            raise click.UsageError(
                f"--recipe: expected squeeze, or a recipe such as 'recipe(steps=300)', "
                f"got {asked!r}"
            )
        return get_recipe(asked)
    if steps_given and len(stages) > 1:
        raise click.UsageError("squeeze takes one number of --steps")
    return squeeze_recipe(stages[0] if steps_given else SQUEEZE_STEPS, stop_after)
