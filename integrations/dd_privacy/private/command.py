"""The command ``dd-plugins train-private``."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from rich.console import Console

import dd_plugins
from dd_plugins import options as shared
from dd_plugins.api import check_outputs, shown_progress, write_atomically
from dd_privacy.console import say
from dd_privacy.private.choices import (
    BATCH_SIZE,
    CLIPPING,
    CLIPPING_NORM,
    EPOCHS,
    LEARNING_RATE,
    NETWORK,
    Clipping,
)

if TYPE_CHECKING:
    from dd_plugins.api import Images
    from dd_privacy.private.accounting import Budget
    from dd_privacy.private.model import PrivateModel
    from dd_privacy.private.trainer import PrivateTrainer

__all__ = ["train_private_command"]


@click.command("train-private")
@click.option("--dataset", required=True, help="Name, or folder:PATH.")
@click.option(
    "--epsilon", type=float, required=True, help="The greatest epsilon to spend."
)
@click.option(
    "--delta",
    type=float,
    help="The delta of the guarantee, below 1 / images.  [default: 0.1 / images]",
)
@click.option(
    "--network",
    default=NETWORK,
    show_default=True,
    help="Architecture to train.",
)
@click.option(
    "--epochs",
    type=int,
    default=EPOCHS,
    show_default=True,
    help="Passes over the data, on average.",
)
@click.option(
    "--batch-size",
    type=int,
    default=BATCH_SIZE,
    show_default=True,
    help="Expected size: each image joins a batch independently.",
)
@click.option(
    "--learning-rate",
    type=float,
    default=LEARNING_RATE,
    show_default=True,
    help="Of SGD with momentum.",
)
@click.option(
    "--clipping-norm",
    type=float,
    default=CLIPPING_NORM,
    show_default=True,
    help="The largest norm of the gradient of an image.",
)
@click.option(
    "--clipping",
    type=click.Choice(get_args(Clipping)),
    default=CLIPPING,
    show_default=True,
    help="Keep each gradient, or only its length (less memory).",
)
@click.option(
    "--seed",
    type=int,
    help="For a run that can be repeated; whoever knows it can undo the noise.",
)
@click.option("--out", type=shared.path_type, required=True, help="The file to write.")
@click.option("--test", is_flag=True, help="Measure accuracy on the test set.")
@shared.json_file
@shared.overwrite
@shared.data_root
@shared.download
@shared.image_size
@shared.device
def train_private_command(
    dataset: str,
    image_size: int | None,
    out: Path,
    test: bool,
    json_file: Path | None,
    overwrite: bool,
    data_root: Path | None,
    download: bool,
    **options: Any,
) -> None:
    """Train a network under differential privacy (DP-SGD, Opacus).

    Writes the weights, the budget spent, and what epsilon does not cover. Accuracy is
    measured on validation images, held out from training, or on the test set.
    """
    from dd_privacy.private.trainer import PrivateTrainer

    trainer = PrivateTrainer(**options)
    dd_plugins.get_network(trainer.network)
    # Checked before training: if a model cannot be written, its epsilon is still spent.
    check_outputs((json_file, "JSON"), (out, "tensors"), overwrite=overwrite)
    data = dd_plugins.get_dataset(
        dataset, data_root=data_root, download=download, image_size=image_size
    )
    trainer.check(data.image_shape, data.num_classes)
    if test:
        data.check_test()
    budget = trainer.budget(len(data.train.labels))
    console = Console()
    _say_budget(console, budget, len(data.train.labels))
    model = _fitted(trainer, data)
    model.save(out)
    scored = data.read_test() if test else data.validation
    what = "test" if test else "validation"
    found = _accuracy(model, scored)
    if found is not None:
        say(console, f"{what} accuracy: {found:.4f}, {len(scored.labels)} images")
    say(console, f"model: {out}")
    say(console, "epsilon does not cover:")
    for sentence in model.not_covered:
        say(console, f"  - {sentence}")
    if json_file is not None:
        figures = {
            "format_version": 1,
            "budget": asdict(model.budget),
            "accuracy": found,
            "accuracy_on": what,
            "images": len(scored.labels),
            "not_covered": model.not_covered,
            "about": model.about,
        }
        text = json.dumps(figures, indent=1) + "\n"
        write_atomically(json_file, lambda file: file.write(text.encode()))


def _say_budget(console: Console, budget: "Budget", images: int) -> None:
    """Print the budget of training, before it is spent."""
    say(
        console,
        f"{budget.steps} steps on {images} images, noise "
        f"{budget.noise_multiplier:.3f}: epsilon {budget.epsilon:.3f} at delta "
        f"{budget.delta:.2g} ({budget.accountant})",
    )
    if budget.fallback is not None:
        say(console, f"not by PRV: {budget.fallback}")


def _fitted(trainer: "PrivateTrainer", data: "dd_plugins.RealData") -> "PrivateModel":
    """Train on the training images, with a progress display."""
    with shown_progress("training") as progress:
        return trainer.fit(
            data.train.images[:],
            data.train.labels,
            class_names=data.class_names,
            mirror=data.mirror,
            on_step=lambda done, total: progress.update("training", done, total),
        )


def _accuracy(model: "PrivateModel", images: "Images") -> float | None:
    """Return the accuracy of a model; None if there are no images."""
    from dd_plugins.api import accuracy

    if not len(images.labels):
        return None
    device = next(model.network.parameters()).device
    return accuracy(model.network, images, model.transform, device=device)
