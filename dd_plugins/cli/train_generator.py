"""The command for training a generator, in whose latent space sets are learned."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say, training_progress
from dd_plugins.training.default_steps import DECODER_STEPS

if TYPE_CHECKING:
    from dd_plugins.data.spaces import Preprocessing
    from dd_plugins.runtime.device import Precision

__all__ = ["train_generator_command"]


@click.command("train-generator")
@shared.dataset
@click.option(
    "--decoder", default="conv_decoder", show_default=True, help="Architecture: spec."
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=DECODER_STEPS,
    show_default=True,
    help="Training steps.",
)
@click.option(
    "--recipe",
    metavar="RECIPE",
    help="How it is trained, in place of --steps: 'decoder_recipe(steps=500, ...)'.",
)
@shared.data_root
@shared.download
@shared.image_size
@shared.preprocessing
@shared.mirror
@shared.cache
@shared.device
@shared.precision
def train_generator_command(
    dataset: str,
    decoder: str,
    steps: int,
    recipe: str | None,
    data_root: Path | None,
    download: bool,
    image_size: int | None,
    preprocessing: str | None,
    mirror: bool | None,
    cache: Path | None,
    device: str,
    precision: str,
) -> None:
    """Train a generator on real data, for --parametrization generator.

    A generator already in the cache is not trained again. To resume a stopped command,
    repeat it: it goes on where it stopped.
    """
    from dd_plugins.data.named import DataOptions
    from dd_plugins.decoders.kept import DecoderRecipe, train_generator
    from dd_plugins.plugins.manager import loaded_plugins
    from dd_plugins.spec import read

    if recipe is not None and shared.given_on_command_line("steps"):
        raise click.UsageError("give --steps or the steps of a recipe, not both")
    chosen = DecoderRecipe(steps=steps)
    if recipe is not None:
        chosen = read(DecoderRecipe, recipe, "decoder_recipe(steps=500)")
    plugins = loaded_plugins()
    architecture = plugins.decoder(decoder)
    options = DataOptions(root=data_root, download=download, image_size=image_size)
    # The generator learns pixels before whitening, so no whitening is fitted.
    space: Preprocessing = "standardize"
    if preprocessing in ("pixel-zca", "constant"):
        space = cast("Preprocessing", preprocessing)
    data = plugins.real_data(dataset, options).prepared(space, mirror)
    say(f"recipe: {chosen!r}")
    with training_progress() as on_progress:
        kept = train_generator(
            data,
            architecture,
            recipe=chosen,
            device=device,
            precision=cast("Precision", precision),
            folder=cache,
            on_progress=on_progress,
        )
    how = "kept before" if kept.was_there else "trained"
    lost = "no validation images"
    if kept.error is not None:
        lost = f"{100 * kept.error:.1f} % of the variance of validation images lost"
    say(f"{kept.decoder}, {kept.steps} steps: {how}, {lost}, {kept.file}")
    own_recipe = "" if chosen == DecoderRecipe() else f", recipe={chosen!r}"
    say(f'next: distill --parametrization "generator({architecture!r}{own_recipe})"')
