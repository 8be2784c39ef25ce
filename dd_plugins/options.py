"""Options that commands share, ours and those of plugins: click decorators.

A plugin's command that reads data and trains should take them by the same names.
"""

from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from dd_plugins.data.image_counts import asked_counts
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.errors import OptionError

__all__ = [
    "cache",
    "data_root",
    "dataset",
    "device",
    "download",
    "given_on_command_line",
    "image_size",
    "images_per_class",
    "initial_images",
    "json_file",
    "mirror",
    "overwrite",
    "parametrization",
    "path_type",
    "precision",
    "preprocessing",
    "protocol",
    "real_data",
    "seed",
    "steps",
]

path_type = click.Path(path_type=Path)
"""The type of options and arguments that are paths."""

cache = click.option(
    "--cache",
    type=path_type,
    envvar="DD_CACHE",
    help="Folder that keeps networks.  [env: DD_CACHE; default: the user's cache]",
)
"""``cache: Path | None``."""

data_root = click.option(
    "--data-root",
    type=path_type,
    envvar="DD_DATA",
    help="Folder that holds data sets.  [env: DD_DATA]",
)
"""``data_root: Path | None``."""

download = click.option(
    "--download", is_flag=True, help="Fetch a missing data set to --data-root."
)
"""``download: bool``."""

device = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu, cuda, ..."
)
"""``device: str``."""

image_size = click.option(
    "--image-size",
    type=click.IntRange(min=1),
    help="Side in pixels to which images are resized and cropped.",
)
"""``image_size: int | None``."""

preprocessing = click.option(
    "--preprocessing",
    type=click.Choice(get_args(Preprocessing)),
    help="Standardise the images, whiten them too, or map them to [-1, 1] (constant)."
    "  [default: by method and data]",
)
"""``preprocessing: str | None``."""

mirror = click.option(
    "--mirror/--no-mirror",
    default=None,
    help="Whether a mirror image is still of its class.  [default: by data set]",
)
"""``mirror: bool | None``."""

real_data = click.option(
    "--dataset",
    "data",
    help="Where the real data is: a name, or a path as for distill.  [default: as the "
    "artifact names it]",
)
"""``data: str | None``, of a command that is given an artifact."""


class _ImagesPerClass(click.ParamType):  # type: ignore[type-arg]
    """A number, one for each class, or a spec; the numbers are checked here."""

    name = "N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return a number as one, and the rest as text."""
        try:
            counts = asked_counts(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return counts if isinstance(counts, int) else str(value)


images_per_class = click.option(
    "--ipc",
    "images_per_class",
    type=_ImagesPerClass(),
    default=1,
    show_default=True,
    help="Synthetic images per class; or a number for each class, 1,2,5; or "
    "proportional(total=100), in proportion to the real images.",
)
"""``images_per_class: int | str``."""

steps = click.option(
    "--steps", type=click.IntRange(min=1), help="Default: by data set."
)
"""``steps: int | None``, of a distillation."""

initial_images = click.option(
    "--initial-images",
    help="What the set starts from: real, noise, a core set such as herding, or the "
    "public images of a private distiller.  [default: by distiller]",
)
"""``initial_images: str | None``."""

parametrization = click.option(
    "--parametrization",
    default="identity",
    show_default=True,
    help="What is stored and learned in place of pixels: spec, such as "
    "'packed(factor=2)'.",
)
"""``parametrization: str``."""

seed = click.option(
    "--seed", default=0, show_default=True, help="Seed of every random draw."
)
"""``seed: int``."""

json_file = click.option(
    "--json", "json_file", type=path_type, help="Write the figures here."
)
"""``json_file: Path | None``."""

overwrite = click.option(
    "--overwrite", is_flag=True, help="Replace outputs, whatever they hold."
)
"""``overwrite: bool``, of a command that writes figures or pictures."""


protocol = click.option(
    "--protocol",
    metavar="NAME or RECIPE",
    default="auto",
    show_default=True,
    help="How networks are trained: auto does as the set says; frepo; classic; "
    "or a recipe, such as 'recipe(steps=300)'.",
)
"""``protocol: str``, of a command that trains on a set."""

dataset = click.option(
    "--dataset",
    default="digits",
    show_default=True,
    help="A name, folder:PATH, npz:FILE or hf:FOLDER.",
)
"""``dataset: str``."""

precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of features; auto is bfloat16 where the hardware has it.",
)
"""``precision: str``."""


def given_on_command_line(*names: str) -> list[str]:
    """Return which of these parameters the command line gives, as it writes them."""
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    ]
