"""The commands for showing, describing and exporting a set."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from dd_plugins import options as shared
from dd_plugins.cli.outputs import check_outputs
from dd_plugins.cli.printing import as_text, say, training_progress
from dd_plugins.cli.repeating import config_text
from dd_plugins.errors import OptionError
from dd_plugins.exports.forms import FORMS

if TYPE_CHECKING:
    from dd_plugins.synthetic.header import ContextRecord

__all__ = ["export_command", "info_command", "show_command"]

_BYTES = 4  # of a float32
_LONGEST_NAME = 200  # characters of a class name that are shown
_LONGEST_VALUE = 4_000  # characters of a header field that are shown


@click.command("show")
@click.argument("path", type=shared.path_type)
@click.option(
    "--out",
    type=shared.path_type,
    help="PNG file.  [default: grid.png, or features.png, beside the artifact]",
)
@click.option(
    "--features",
    is_flag=True,
    help="Draw class-activation maps of trained networks.",
)
@shared.networks("With --features: architectures.  [default: those of metadd]")
@click.option(
    "--stored",
    is_flag=True,
    help="Draw the images as a parametrization stores them, before they are decoded.",
)
@shared.real_data
@shared.data_root
@shared.download
@shared.device
@shared.precision
@shared.overwrite
def show_command(
    path: Path,
    out: Path | None,
    features: bool,
    stored: bool,
    networks: tuple[str, ...],
    overwrite: bool,
    **options: Any,
) -> None:
    """Draw the synthetic images, in [0, 1], as a labelled grid.

    With --features, draw class activation maps on the first image of each of up to 20
    classes: the map of each architecture, and the pixels attended by all. The networks
    are trained as the other options say, or are those kept by metadd.
    """
    from dd_plugins.synthetic.artifact import DistilledSet, artifact_file
    from dd_plugins.synthetic.pictures import save_grid

    if not features:
        for option in shared.given_on_command_line("networks", *options):
            raise OptionError(f"{option} needs --features")
    if features and stored:
        raise OptionError("expected either --stored or --features, got both")
    file = artifact_file(path)
    target = out or file.parent / ("features.png" if features else "grid.png")
    check_outputs((target, "PNG"), inputs=[file], overwrite=overwrite)
    distilled = DistilledSet.load(file)
    if not features:
        shown = distilled.as_stored() if stored else distilled
        say(f"picture: {save_grid(shown, target)}")
        return
    from dd_plugins.evaluation.attention import meta_features
    from dd_plugins.evaluation.attention_picture import save_features

    with training_progress(in_seconds=True) as on_progress:
        found = meta_features(distilled, networks, on_progress=on_progress, **options)
    click.echo(f"meta ratio: {float(found.ratio.mean()):.4f}")
    say(f"picture: {save_features(distilled, found, target)}")


@click.command("info")
@click.argument("path", type=shared.path_type)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--config",
    "as_config",
    is_flag=True,
    help="Print a TOML file for 'dd-plugins distill --config', which repeats the run.",
)
def info_command(path: Path, as_json: bool, as_config: bool) -> None:
    """Show the header of an artifact, without loading its tensors."""
    from dd_plugins.synthetic.artifact import DistilledSet, artifact_file

    header = DistilledSet.read_header(path)
    if as_config:
        click.echo(config_text(header), nl=False)
        return
    fields = header.model_dump()
    if as_json:
        click.echo(json.dumps(fields, indent=1))
        return
    fields["context"] = _line_of(header.context)
    fields["initial_images"] = header.initial_images or "those of the context"
    if header.format_version < 2:
        fields["context"] = fields["initial_images"] = "not recorded in version 1"
    if header.format_version < 3:
        fields["recipe"] = "that of the kind of labels"
        fields["stored_images"] = len(header.initial_classes)
        del fields["stored_values"]
    fields["also learned"] = fields.pop("learned") or "nothing else"
    if header.is_imported:
        fields |= dict.fromkeys(("seed", "precision", "initial_classes"), "unknown")
    fields["privacy"] = "none"
    if header.privacy is not None:
        fields["privacy"] = header.privacy.line()
        fields["not covered by epsilon"] = " ".join(header.privacy.not_covered)
    if header.stored_values is not None:
        labels = len(header.initial_classes) * len(header.class_names)
        decoder, file = header.decoder_values or 0, artifact_file(path)
        fields["bytes"] = (
            f"{_BYTES * header.stored_values:,} of stored images, "
            f"{_BYTES * labels:,} of labels, {_BYTES * decoder:,} of a decoder; the "
            f"file has {file.stat().st_size:,}"
        )
    table = Table(show_header=False, box=None)
    for name, value in fields.items():
        table.add_row(
            name.replace("_", " "), as_text(_cut(_readable(value), _LONGEST_VALUE))
        )
    Console().print(table)


def _line_of(context: "ContextRecord | None") -> str:
    """Describe the context of a set in a line, with its own context in turn."""
    if context is None:
        return "none"
    held = context.header
    made = (
        f"{len(held.initial_classes)} images by {held.distiller} on {held.network}, "
        f"{held.steps} steps, seed {held.seed}, "
        f"{'learned further' if context.refined else 'kept as they were'}"
    )
    return made if held.context is None else f"{made}; beside {_line_of(held.context)}"


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {item}" for name, item in value.items())
    if isinstance(value, list):
        shown = ", ".join(_cut(str(item)) for item in value[:12])
        return f"{shown}, ... ({len(value)})" if len(value) > 12 else shown
    return str(value)


def _cut(text: str, most: int = _LONGEST_NAME) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


@click.command("export")
@click.argument("path", type=shared.path_type)
@click.option(
    "--to",
    "form",
    type=click.Choice(FORMS),
    required=True,
    help="Folder of PNG files, NumPy archive, torch file, or folder for the Hugging "
    "Face hub.",
)
@click.option(
    "--out", type=shared.path_type, required=True, help="File or folder to write."
)
@shared.overwrite
def export_command(path: Path, form: str, out: Path, overwrite: bool) -> None:
    """Write a distilled set in a form readable without dd-plugins.

    Each form holds the training recipe, and a script of plain torch to train on the
    set: NAME-train.py beside NAME.npz or NAME.pt, train.py in a folder.
    """
    from dd_plugins.exports.export import export, script_of_export
    from dd_plugins.synthetic.artifact import DistilledSet

    made = DistilledSet.load(path)
    say(f"exported to {export(made, form, out, overwrite=overwrite)}")
    script = shlex.quote(str(script_of_export(out, form)))
    say(
        f"next: python {script} --test TEST, a folder with a subfolder for each class, "
        "an .npz file of images and labels, or a data set of torchvision such as MNIST"
    )
