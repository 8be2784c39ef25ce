"""A small command: what the labels of an artifact say."""

from pathlib import Path

import click

from dd_plugins.api import DistilledSet


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def labels(path: Path) -> None:
    """Print the class with the largest label of each image of an artifact."""
    distilled = DistilledSet.load(path)
    for index, label in enumerate(distilled.labels.argmax(dim=1).tolist()):
        click.echo(f"{index}\t{distilled.header.class_names[label]}")
