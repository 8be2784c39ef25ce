"""The command for labelling the views of a set by a teacher."""

from pathlib import Path

import click

from dd_plugins import options as shared
from dd_plugins.cli.outputs import check_outputs
from dd_plugins.cli.printing import say, training_progress
from dd_plugins.runtime.text import size_text

__all__ = ["relabel_command"]


@click.command("relabel")
@click.argument("path", type=shared.path_type)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    required=True,
    help="Architecture of the teacher; may be repeated: logits are averaged.",
)
@click.option(
    "--teacher-recipe",
    metavar="RECIPE",
    help="How teachers are trained on the real data, if they are not kept yet.  "
    "[default: 1,000 steps of squeeze]",
)
@click.option(
    "--views",
    default="views(count=300, mix='cutmix')",
    show_default=True,
    help="Crops, flips and mixtures that are labelled.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    help="Divisor of the logits before the softmax.",
)
@click.option(
    "--group",
    type=click.IntRange(min=2),
    help="Number of views in a group for BatchNorm's statistics.  [default: the "
    "statistics of the real data]",
)
@click.option(
    "--store-labels",
    is_flag=True,
    help="Write the labels of all views, rather than the name of the teacher.",
)
@click.option(
    "--student",
    metavar="RECIPE",
    help="How networks are trained on the set.  [default: AdamW, 300 epochs]",
)
@click.option("--out", type=shared.path_type, required=True, help="Artifact to write.")
@shared.real_data
@shared.data_root
@shared.download
@shared.device
@shared.overwrite
def relabel_command(
    path: Path,
    teachers: tuple[str, ...],
    teacher_recipe: str | None,
    views: str,
    temperature: float,
    group: int | None,
    store_labels: bool,
    student: str | None,
    out: Path,
    data: str | None,
    data_root: Path | None,
    download: bool,
    device: str,
    overwrite: bool,
) -> None:
    """Let a teacher label the views of a set made by any method.

    Networks trained on the new set see another view of each image in each epoch, with
    the teacher's label of this view.
    """
    from dd_plugins.evaluation.relabelling import relabel
    from dd_plugins.synthetic.artifact import DistilledSet, artifact_file
    from dd_plugins.synthetic.views import get_views
    from dd_plugins.training.view_labels import bytes_of_labels

    inputs = [artifact_file(path)]
    check_outputs((out, "tensors"), inputs=inputs, overwrite=overwrite)
    distilled = DistilledSet.load(path)
    if store_labels:
        count, classes = len(distilled), len(distilled.header.class_names)
        number = get_views(views).count
        size = bytes_of_labels(number, count, classes)
        say(
            f"labels of {number} views of {count:,} images in {classes:,} classes: "
            f"{size_text(size)}"
        )
    with training_progress(in_seconds=True) as on_progress:
        made = relabel(
            distilled,
            teachers,
            teacher_recipe=teacher_recipe,
            views=views,
            temperature=temperature,
            group=group,
            store_labels=store_labels,
            student=student,
            data=data,
            data_root=data_root,
            download=download,
            device=device,
            on_progress=on_progress,
        )
    say(f"{len(made):,} relabelled images in {made.save(out)}")
