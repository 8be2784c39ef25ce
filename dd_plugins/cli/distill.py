"""The command that distils."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say, write_json
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME
from dd_plugins.engine.distillation import distill
from dd_plugins.engine.observers import IMAGES_NAME, METRICS_NAME
from dd_plugins.engine.run_folder import SUMMARY_NAME
from dd_plugins.runtime import processes
from dd_plugins.synthetic.artifact import ARTIFACT_NAME, DistilledSet

__all__ = ["context_of", "distill_command", "run_options", "size_of"]

Command = Callable[..., Any]

_NUMBERS = 10  # of unequal images per class, in the name of a folder


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


@click.command("distill")
@run_options
@click.option(
    "--out",
    type=shared.path_type,
    help="Folder of the run.  [default: runs/DATASET-SIZE]",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--overwrite", is_flag=True, help="Replace the run in --out.")
@click.option(
    "--checkpoint-seconds",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Time between checkpoints.",
)
def distill_command(
    dataset: str,
    images_per_class: int | str,
    budget: int | None,
    images_worth: int | None,
    out: Path | None,
    context: Path | None,
    **options: Any,
) -> None:
    """Distil a data set.

    Writes distilled.safetensors, checkpoint.pt, metrics.jsonl, images.png and
    summary.json to the folder of the run.
    """
    if out is None:
        out = Path("runs") / _folder_name(
            dataset, images_per_class, budget, images_worth
        )
    resuming = options["resume"] and not options["overwrite"]
    with processes.process_group():
        first = processes.rank() == 0
        if first and resuming and not (out / CHECKPOINT_NAME).exists():
            say(f"{out} holds no checkpoint yet: starting at step 0", err=True)
        distilled = distill(
            dataset,
            out=out,
            context=context_of(context),
            progress=True,
            **size_of(images_per_class, budget, images_worth),
            **options,
        )
    if not first:
        return
    summary = distilled.header.model_dump() | {
        "images": len(distilled),
        "content_hash": distilled.content_hash(),
        **_last_metrics(out / METRICS_NAME),
    }
    write_json(out / SUMMARY_NAME, summary)
    stored = distilled.header.stored_images or len(distilled)
    packed = "" if stored == len(distilled) else f", of {stored} stored ones,"
    say(f"{len(distilled)} images{packed} in {out / ARTIFACT_NAME}")
    say(f"picture: {out / IMAGES_NAME}")


def _folder_name(
    dataset: str,
    images_per_class: int | str,
    budget: int | None,
    images_worth: int | None,
) -> str:
    """Return the name of the folder of a run: its data set, and its size."""
    numbers = re.findall(r"[0-9]+", str(images_per_class))[:_NUMBERS]
    size = f"ipc{'-'.join(numbers)}"
    if budget or images_worth:
        size = f"worth{images_worth}" if images_worth else str(budget)
    return f"{Path(dataset.replace(':', '/')).name}-{size}"


def _last_metrics(path: Path) -> dict[str, float]:
    """Return the seconds of the whole run, and the last validation accuracy.

    What was not logged is left out: a log that cannot be read does not end a run.
    """
    found: dict[str, float] = {}
    try:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError):
        return found
    for row in rows:
        found |= {
            key: row[key] for key in ("seconds", "validation_accuracy") if key in row
        }
    return found
