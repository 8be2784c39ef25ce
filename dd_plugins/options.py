"""Click decorators for the options shared by commands.

Commands of plugins should use them too, so an option has the same name everywhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from dd_plugins.data.spaces import Preprocessing
from dd_plugins.errors import OptionError
from dd_plugins.runtime.completion import completed

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
    "networks",
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

_Function = TypeVar("_Function", bound=Callable[..., Any])

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
    "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:1."
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
    help="Whether mirrored images keep their class, so that training may flip them.  "
    "[default: by data set]",
)
"""``mirror: bool | None``."""

validation = click.option(
    "--validation",
    is_flag=True,
    help="Score on validation images, to choose between sets; the test set stays "
    "unread.",
)
"""``validation: bool``."""

real_data = click.option(
    "--dataset",
    "data",
    help="The real data: a name, or a path as for distill.  [default: the data set "
    "named in the artifact]",
    shell_complete=completed("data set"),
)
"""``data: str | None``, of a command that is given an artifact."""


class _ImagesPerClass(click.ParamType):  # type: ignore[type-arg]
    """A number, a number for each class, or a spec; numbers are checked here."""

    name = "N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return a single number as an int, and anything else as text."""
        from dd_plugins.data.image_counts import parsed_counts

        try:
            counts = parsed_counts(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)
        return counts if isinstance(counts, int) else str(value)


images_per_class = click.option(
    "--ipc",
    "images_per_class",
    type=_ImagesPerClass(),
    default=1,
    show_default=True,
    help="Synthetic images per class; a number for each class, such as 1,2,5; or "
    "proportional(total=100), in proportion to the real images.",
)
"""``images_per_class: int | str``."""


def networks(
    purpose: str, *, required: bool = False
) -> Callable[[_Function], _Function]:
    """Return the decorator ``networks: tuple[str, ...]``, of several architectures.

    The option is repeated, or its specs are separated by commas.

    Args:
        purpose: what they are for, as ``--help`` says it.
        required: whether at least one must be given.
    """
    return click.option(
        *("--network", "--networks", "networks"),
        multiple=True,
        required=required,
        callback=_each_spec,
        help=purpose,
        shell_complete=completed("network"),
    )


def _each_spec(
    _context: click.Context, _option: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...]:
    from dd_plugins.spec import split_specs

    return tuple(spec for text in given for spec in split_specs(text))


steps = click.option(
    "--steps",
    type=click.IntRange(min=1),
    help="Steps of the distillation.  [default: by method and data set]",
)
"""``steps: int | None``, of a distillation."""

initial_images = click.option(
    "--initial-images",
    help="Where images start: real, noise, a coreset such as herding, or the public "
    "images of a private distiller.  [default: by distiller]",
    shell_complete=completed("distiller"),
)
"""``initial_images: str | None``."""

parametrization = click.option(
    "--parametrization",
    default="identity",
    show_default=True,
    help="Store and learn something other than pixels: 'packed(factor=2)', "
    "'spectral(keep=0.25)', generator.",
    shell_complete=completed("parametrization"),
)
"""``parametrization: str``."""

seed = click.option("--seed", default=0, show_default=True, help="Random seed.")
"""``seed: int``."""

json_file = click.option(
    "--json", "json_file", type=path_type, help="Write the figures to this file."
)
"""``json_file: Path | None``."""

overwrite = click.option(
    "--overwrite", is_flag=True, help="Replace existing output files."
)
"""``overwrite: bool``, of a command that writes figures or pictures."""


protocol = click.option(
    "--protocol",
    metavar="NAME or RECIPE",
    default="auto",
    show_default=True,
    help="How networks are trained: auto (the recipe of the set), family (that of each "
    "network's family), frepo, classic, or a recipe such as 'recipe(steps=300)'.",
)
"""``protocol: str``, of a command that trains on a set."""

dataset = click.option(
    "--dataset",
    default="digits",
    show_default=True,
    help="Real data: cifar10 or another name ('dd-plugins plugins --all' lists them), "
    "folder:PATH, npz:FILE or hf:FOLDER.",
    shell_complete=completed("data set"),
)
"""``dataset: str``."""

precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Numeric precision of the networks (auto: bfloat16 if supported).",
)
"""``precision: str``."""


def given_on_command_line(*names: str) -> list[str]:
    """Return those of the options set by the user, on the command line or by --config.

    They are spelled as on the command line.
    """
    context = click.get_current_context()
    return [
        option.opts[0]
        for option in context.command.params
        if option.name in names
        and context.get_parameter_source(option.name)
        in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    ]
