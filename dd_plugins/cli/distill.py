"""The command for distilling a data set."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click

from dd_plugins import options as shared
from dd_plugins.cli.printing import say, write_json
from dd_plugins.cli.restarts import best_seed
from dd_plugins.cli.run_options import context_of, run_options, size_of
from dd_plugins.plugins.distributed_command import DistributedCommand
from dd_plugins.runtime.text import duration_text, size_text

__all__ = ["distill_command"]

_NUMBERS = 10  # the most unequal counts in a folder's name


@click.command("distill", cls=DistributedCommand)
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
@click.option(
    "--observe",
    "observers",
    multiple=True,
    metavar="SPEC",
    help="Pass the run on: tensorboard, or \"wandb(project='mine', mode='offline')\"; "
    "may be repeated.",
)
@click.option(
    "--restarts",
    type=click.IntRange(min=2),
    metavar="K",
    help="Make K short runs first, by --seed and the seeds after it, and take the seed "
    "whose set serves networks best on validation images.",
)
@click.option(
    "--restart-steps",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps of each short run.",
)
def distill_command(
    dataset: str,
    images_per_class: int | str,
    budget: int | None,
    images_worth: int | None,
    out: Path | None,
    context: Path | None,
    restarts: int | None,
    restart_steps: int,
    **options: Any,
) -> None:
    """Distil a data set.

    Writes distilled.safetensors, checkpoint.pt, metrics.jsonl, images.png and
    summary.json to the folder of the run.
    """
    from dd_plugins.engine.checkpoint import CHECKPOINT_NAME
    from dd_plugins.engine.distillation import distill
    from dd_plugins.engine.observers import IMAGES_NAME, METRICS_NAME
    from dd_plugins.engine.run_folder import SUMMARY_NAME
    from dd_plugins.runtime import processes
    from dd_plugins.synthetic.artifact import ARTIFACT_NAME

    if out is None:
        out = Path("runs") / _folder_name(
            dataset, images_per_class, budget, images_worth
        )
    resuming = options["resume"] and not options["overwrite"]
    if restarts is None and shared.given_on_command_line("restart_steps"):
        raise click.UsageError("--restart-steps needs --restarts")
    with processes.process_group():
        first = processes.rank() == 0
        if first and resuming and not (out / CHECKPOINT_NAME).exists():
            say(f"{out} holds no checkpoint yet: starting at step 0", err=True)
        options |= {
            "context": context_of(context),
            **size_of(images_per_class, budget, images_worth),
        }
        if restarts is not None:
            options["seed"] = best_seed(
                out, restarts, restart_steps, data=dataset, **options
            )
        distilled = distill(dataset, out=out, progress=True, **options)
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
    artifact = out / ARTIFACT_NAME
    size = size_text(artifact.stat().st_size)
    say(f"{len(distilled)} images{packed} in {artifact}, {size}{_figures(summary)}")
    say(f"picture: {out / IMAGES_NAME}")
    say(f"next: dd-plugins evaluate {shlex.quote(str(out))} --baselines")


def _folder_name(
    dataset: str,
    images_per_class: int | str,
    budget: int | None,
    images_worth: int | None,
) -> str:
    """Return the name of the folder of a run, made of its data set and its size."""
    numbers = re.findall(r"[0-9]+", str(images_per_class))[:_NUMBERS]
    size = f"ipc{'-'.join(numbers)}"
    if "(" in str(images_per_class):
        size = f"total{numbers[0]}"
    if budget or images_worth:
        size = f"worth{images_worth}" if images_worth else str(budget)
    return f"{Path(dataset.replace(':', '/')).name}-{size}"


def _figures(summary: dict[str, Any]) -> str:
    """Return the time and the validation accuracy of a run, if they were logged."""
    told = ""
    if "seconds" in summary:
        told += f"; {duration_text(summary['seconds'])}"
    if "validation_accuracy" in summary:
        told += f", validation accuracy {summary['validation_accuracy']:.4f}"
    return told


def _last_metrics(path: Path) -> dict[str, float]:
    """Return the seconds of the whole run, and its last validation accuracy.

    Figures missing from the log are left out; an unreadable log does not end the run.
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
