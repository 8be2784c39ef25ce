"""The command that trains networks on real data."""

from pathlib import Path
from typing import cast

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say
from dd_plugins.data.named import DataOptions
from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.plugins.manager import loaded_plugins
from dd_plugins.runtime.device import Precision
from dd_plugins.training.kept_networks import STAGES, train_networks

__all__ = ["train_networks_command"]


@click.command("train-networks")
@shared.dataset
@click.option(
    "--network", "networks", multiple=True, required=True, help="Spec; may be repeated."
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
@shared.data_root
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
    data_root: Path | None,
    image_size: int | None,
    preprocessing: str | None,
    mirror: bool | None,
    cache: Path | None,
    device: str,
    precision: str,
) -> None:
    """Train networks on real data, for wrappers that need them.

    Networks that are kept already are not trained again. Repeat a command that was
    stopped: it goes on with the first network that is missing.
    """
    plugins = loaded_plugins()
    chosen = [plugins.network(spec) for spec in networks]
    options = DataOptions(root=data_root, image_size=image_size)
    data = plugins.real_data(dataset, options).prepared(
        cast(Preprocessing | None, preprocessing), mirror
    )
    reports = train_networks(
        data,
        chosen,
        stages=stages,
        device=device,
        precision=cast(Precision, precision),
        folder=cache,
    )
    for kept in reports:
        score = kept.validation_accuracy
        found = "no validation images" if score is None else f"validation {score:.4f}"
        how = "kept before" if kept.was_there else "trained"
        say(f"{kept.network}, {kept.steps} steps: {how}, {found}, {kept.file}")
