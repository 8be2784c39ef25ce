"""The options of a run, for commands such as distill and estimate."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dd_plugins import options as shared
from dd_plugins.cli.config import config_option
from dd_plugins.runtime.completion import completed

if TYPE_CHECKING:
    from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["context_of", "run_options", "size_of"]

Command = Callable[..., Any]

_RUN_OPTIONS = (
    config_option,
    shared.dataset,
    click.option(
        "--distiller",
        default="frepo",
        show_default=True,
        help="Method, with its options in brackets: 'dm(learning_rate=0.5)'. "
        "'dd-plugins options' lists methods and their options.",
        shell_complete=completed("distiller"),
    ),
    shared.images_per_class,
    click.option(
        "--budget",
        type=click.IntRange(min=1),
        metavar="BYTES",
        help="Instead of --ipc: as many images as fit in this number of bytes, "
        "labels not counted.",
    ),
    click.option(
        "--images-worth",
        type=click.IntRange(min=1),
        metavar="N",
        help="Instead of --ipc: as many images as fit in the bytes of N plain images "
        "per class.",
    ),
    shared.steps,
    shared.seed,
    shared.data_root,
    shared.download,
    shared.image_size,
    shared.preprocessing,
    shared.mirror,
    click.option(
        "--network",
        help="Architecture to distil with, such as 'conv(width=32)'.  [default: by "
        "method and data set]",
        shell_complete=completed("network"),
    ),
    shared.initial_images,
    shared.parametrization,
    click.option(
        "--context",
        type=shared.path_type,
        help="A finished set to add images to; both are written as one set.",
    ),
    click.option(
        "--refine-context",
        is_flag=True,
        help="Also learn the images of --context further, whatever method made them.",
    ),
    shared.device,
    shared.precision,
)


def run_options(command: Command) -> Command:
    """Add the options of a run to a command."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


def size_of(
    images_per_class: int | str, budget: int | None, images_worth: int | None
) -> dict[str, Any]:
    """Return the arguments of ``distill`` for the requested size.

    A size on the command line replaces all sizes of a ``--config`` file. Two sizes from
    one place are both returned, and refused by ``distill``.
    """
    source = click.get_current_context().get_parameter_source
    sizes = {
        "images_per_class": images_per_class,
        "budget": budget,
        "images_worth": images_worth,
    }
    for place in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP):
        given = {name: size for name, size in sizes.items() if source(name) is place}
        if given:
            return given
    return {"images_per_class": images_per_class}


def context_of(path: Path | None) -> "DistilledSet | None":
    """Load the set to be extended by a run; return None if no path is given."""
    from dd_plugins.synthetic.artifact import DistilledSet

    return None if path is None else DistilledSet.load(path)
