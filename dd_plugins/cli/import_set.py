"""The command for importing a set released by others."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from dd_plugins import options as shared
from dd_plugins.cli.outputs import check_outputs
from dd_plugins.cli.printing import say
from dd_plugins.data.spaces import Preprocessing
from dd_plugins.errors import OptionError
from dd_plugins.synthetic.label_kinds import LabelKind

if TYPE_CHECKING:
    from dd_plugins.released.contents import Released
    from dd_plugins.synthetic.given_tensors import Space

__all__ = ["import_command"]

_SPACES = ("pixels", "published", *get_args(Preprocessing))


@click.command("import")
@click.argument("files", type=shared.path_type, nargs=-1, required=True)
@click.option(
    "--dataset",
    "data",
    required=True,
    help="The real data that the set stands for: a name, or a path as for distill.",
)
@click.option(
    "--space",
    metavar="SPACE",
    help=f"What the values of images are: {', '.join(_SPACES)}, or a mean and a "
    "deviation for each channel, such as '0.49,0.48,0.45/0.20,0.20,0.20'.  [default: "
    "as the layout says]",
)
@click.option(
    "--label-kind",
    type=click.Choice(get_args(LabelKind)),
    help="What scores are.  [default: as the layout says]",
)
@click.option(
    "--experiment",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The number of the set, in a file of several.",
)
@click.option(
    "--factor",
    type=click.IntRange(min=1),
    help="Smaller images along each side of an image, in sets of IDC; 1 by default.",
)
@click.option("--method", help="Name of the method, for the record.")
@click.option(
    "--network", help="Architecture that fits the set, such as 'conv(width=128)'."
)
@click.option(
    "--out",
    type=shared.path_type,
    default="imported.safetensors",
    show_default=True,
    help="Artifact to write.",
)
@shared.image_size
@shared.data_root
@shared.download
@shared.overwrite
def import_command(
    files: tuple[Path, ...],
    data: str,
    space: str | None,
    out: Path,
    overwrite: bool,
    **options: Any,
) -> None:
    """Import a set released by others, and write it as an artifact.

    FILES are a file of DC, DSA, DM or IDC (.pt), the files or the folder of MTT, TESLA,
    DATM or DD-Ranking (images_best.pt, labels_best.pt, lr_best.pt), an archive of FRePo
    (.npz), a checkpoint of RCIG, or a folder of images, as SRe2L and RDED write them.
    The artifact works with evaluate, transfer, show and audit. No code in a file is
    run.
    """
    from dd_plugins.released.importing import import_set

    check_outputs((out, "tensors"), inputs=list(files), overwrite=overwrite)

    def told(released: "Released", chosen: "Space", sets: int) -> None:
        others = f", one of {sets} sets" if sets > 1 else ""
        say(
            f"layout: {released.layout}{others}; {len(released.images):,} images; "
            f"space: {_told(chosen)}"
        )

    made = import_set(files, data, space=_space(space), on_read=told, **options)
    say(f"{len(made):,} images in {made.save(out)}")
    words = shlex.join([str(out), "--dataset", data])
    say(f"next: dd-plugins evaluate {words} --baselines")


def _space(text: str | None) -> Any:
    """Return the name of a space, or a mean and a deviation for each channel.

    Raises:
        OptionError: the text is neither.
    """
    if text is None or text in _SPACES:
        return text
    try:
        mean, deviation = (
            [float(each) for each in part.split(",")] for part in text.split("/")
        )
    except ValueError as error:
        raise OptionError(
            f"--space must be {', '.join(_SPACES)}, or numbers such as 0.5,0.5,0.5/"
            f"0.2,0.2,0.2, got {text!r}"
        ) from error
    return mean, deviation


def _told(space: "Space") -> str:
    if isinstance(space, str):
        return space
    mean, deviation = (", ".join(f"{each:g}" for each in part) for part in space)
    return f"standardised by the mean {mean} and the deviation {deviation}"
