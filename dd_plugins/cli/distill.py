"""The command that distils."""

import json
import re
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

__all__ = ["distill_command"]


@click.command("distill")
@shared.dataset
@click.option("--distiller", default="frepo", show_default=True, help="Spec.")
@shared.images_per_class
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="In place of --ipc: as many images as fit in so many bytes, labels not "
    "counted.",
)
@click.option(
    "--images-worth",
    type=click.IntRange(min=1),
    metavar="N",
    help="In place of --ipc: as many images as fit in the bytes of N plain ones per "
    "class.",
)
@shared.steps
@shared.seed
@click.option(
    "--out",
    type=shared.path_type,
    help="Folder of the run.  [default: runs/DATASET-SIZE]",
)
@shared.data_root
@shared.download
@shared.image_size
@shared.preprocessing
@shared.mirror
@click.option("--network", help="Spec.  [default: by data set, else conv]")
@shared.initial_images
@shared.parametrization
@click.option(
    "--context",
    type=shared.path_type,
    help="A set beside which this one is made; both are written as one.",
)
@click.option("--refine-context", is_flag=True, help="Learn that set further as well.")
@shared.device
@shared.precision
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
    size: dict[str, Any] = {"images_per_class": images_per_class}
    size_name = f"ipc{'-'.join(re.findall(r'[0-9]+', str(images_per_class))[:10])}"
    bounds: dict[str, Any] = {"budget": budget, "images_worth": images_worth}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if given:
        size, size_name = given, f"worth{images_worth}" if images_worth else f"{budget}"
        if shared.given_on_command_line("images_per_class"):
            size |= {"images_per_class": images_per_class}  # refused, since both are
    if out is None:
        last_part = Path(dataset.replace(":", "/")).name
        out = Path("runs") / f"{last_part}-{size_name}"
    beside = None if context is None else DistilledSet.load(context)
    resuming = options["resume"] and not options["overwrite"]
    with processes.process_group():
        first = processes.rank() == 0
        if first and resuming and not (out / CHECKPOINT_NAME).exists():
            say(f"{out} holds no checkpoint yet: starting at step 0", err=True)
        distilled = distill(
            dataset,
            out=out,
            context=beside,
            progress=True,
            **size,
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
