"""The options that say what a run makes, for the commands that take them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dd_plugins import options as shared
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["context_of", "run_options", "size_of"]

Command = Callable[..., Any]

_RUN_OPTIONS = (
    shared.dataset,
    click.option("--distiller", default="frepo", show_default=True, help="Spec."),
    shared.images_per_class,
    click.option(
        "--budget",
        type=click.IntRange(min=1),
        metavar="BYTES",
        help="In place of --ipc: as many images as fit in so many bytes, labels not "
        "counted.",
    ),
    click.option(
        "--images-worth",
        type=click.IntRange(min=1),
        metavar="N",
        help="In place of --ipc: as many images as fit in the bytes of N plain ones "
        "per class.",
    ),
    shared.steps,
    shared.seed,
    shared.data_root,
    shared.download,
    shared.image_size,
    shared.preprocessing,
    shared.mirror,
    click.option("--network", help="Spec.  [default: by data set, else conv]"),
    shared.initial_images,
    shared.parametrization,
    click.option(
        "--context",
        type=shared.path_type,
        help="A set beside which this one is made; both are written as one.",
    ),
    click.option(
        "--refine-context", is_flag=True, help="Learn that set further as well."
    ),
    shared.device,
    shared.precision,
)


def run_options(command: Command) -> Command:
    """Give a command the options that say what a run makes."""
    for option in reversed(_RUN_OPTIONS):
        command = option(command)
    return command


def size_of(
    images_per_class: int | str, budget: int | None, images_worth: int | None
) -> dict[str, Any]:
    """Return the arguments of ``distill`` for the size that was asked for."""
    bounds = {"budget": budget, "images_worth": images_worth}
    given: dict[str, Any] = {
        name: bound for name, bound in bounds.items() if bound is not None
    }
    if not given or shared.given_on_command_line("images_per_class"):
        given["images_per_class"] = images_per_class  # refused beside a bound
    return given


def context_of(path: Path | None) -> DistilledSet | None:
    """Return the set beside which a run makes another; None if none is named."""
    return None if path is None else DistilledSet.load(path)
