"""The built-in commands of ``dd-plugins``."""

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dd_plugins import options as shared
from dd_plugins import parallel
from dd_plugins.arguments import as_real_data, prepared
from dd_plugins.artifact import ARTIFACT_NAME, DistilledSet, artifact_file
from dd_plugins.data import DataOptions
from dd_plugins.engine import SUMMARY_NAME, distill
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME
from dd_plugins.engine.observers import IMAGES_NAME, METRICS_NAME
from dd_plugins.errors import OptionError
from dd_plugins.evaluate import evaluate
from dd_plugins.export import export
from dd_plugins.files import write_atomically
from dd_plugins.header import ContextRecord
from dd_plugins.meta_features import meta_features
from dd_plugins.outputs import check_outputs
from dd_plugins.pictures import save_features, save_grid
from dd_plugins.plugins import Plugin, loaded_plugins
from dd_plugins.preprocess import Preprocessing
from dd_plugins.results import Evaluation, NetworkResult
from dd_plugins.run import Precision
from dd_plugins.spec import split_specs
from dd_plugins.text import plain
from dd_plugins.trained import STAGES, train_networks
from dd_plugins.transfer import Transfer, transfer

__all__ = ["COMMANDS"]

_PAGE_WIDTH = 120  # characters of a line of an HTML page
_LONGEST_NAME = 200  # characters of a class name that are shown
_LONGEST_VALUE = 4_000  # and of a field of a header

_protocol = click.option(
    "--protocol",
    metavar="NAME or RECIPE",
    default="auto",
    show_default=True,
    help="How networks are trained: auto goes by the kind of labels; frepo; classic; "
    "or a recipe, such as 'recipe(steps=300)'.",
)
_protocol_or_retrieval = click.option(
    "--protocol",
    metavar="NAME or RECIPE",
    default="auto",
    show_default=True,
    help="How networks are trained: auto goes by the kind of labels; frepo; classic; "
    "or a recipe, such as 'recipe(steps=300)'. Retrieval scores their features as "
    "well, with --baselines.",
)
_dataset = click.option(
    "--dataset", default="digits", show_default=True, help="Name, or folder:PATH."
)
_precision = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Of features; auto is bfloat16 where the hardware has it.",
)


@click.command("distill")
@_dataset
@click.option("--distiller", default="frepo", show_default=True, help="Spec.")
@shared.images_per_class
@shared.steps
@shared.seed
@click.option(
    "--out",
    type=shared.path_type,
    help="Folder of the run.  [default: runs/DATASET-ipcN]",
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
    help="A set beside which this one is made; both are written, as one.",
)
@click.option("--refine-context", is_flag=True, help="Learn that set further as well.")
@shared.device
@_precision
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
    images_per_class: int,
    out: Path | None,
    context: Path | None,
    **options: Any,
) -> None:
    """Distil a data set.

    Writes distilled.safetensors, checkpoint.pt, metrics.jsonl, images.png and
    summary.json to the folder of the run.
    """
    if out is None:
        last_part = Path(dataset.replace(":", "/")).name
        out = Path("runs") / f"{last_part}-ipc{images_per_class}"
    beside = None if context is None else DistilledSet.load(context)
    resuming = options["resume"] and not options["overwrite"]
    with parallel.process_group():
        first = parallel.rank() == 0
        if first and resuming and not (out / CHECKPOINT_NAME).exists():
            _say(f"{out} holds no checkpoint yet: starting at step 0", err=True)
        distilled = distill(
            dataset,
            images_per_class=images_per_class,
            out=out,
            context=beside,
            progress=True,
            **options,
        )
    if not first:
        return
    summary = distilled.header.model_dump() | {
        "images": len(distilled),
        "content_hash": distilled.content_hash(),
        **_last_metrics(out / METRICS_NAME),
    }
    _write_json(out / SUMMARY_NAME, summary)
    stored = distilled.header.stored_images or len(distilled)
    packed = "" if stored == len(distilled) else f", of {stored} stored ones,"
    _say(f"{len(distilled)} images{packed} in {out / ARTIFACT_NAME}")
    _say(f"picture: {out / IMAGES_NAME}")


def _last_metrics(path: Path) -> dict[str, float]:
    """Return the seconds of all steps, and the last validation accuracy.

    As far as they were logged: a run does not end because they cannot be.
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


@click.command("evaluate")
@click.argument("path", type=shared.path_type)
@click.option("--network", "networks", multiple=True, help="Spec; may be repeated.")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Fresh networks for each spec.",
)
@_protocol_or_retrieval
@click.option(
    "--baselines",
    is_flag=True,
    help="Also train on as many random real images, and on all of them.",
)
@shared.real_data
@shared.data_root
@shared.seed
@shared.device
@_precision
@shared.json_file
@shared.overwrite
def evaluate_command(
    path: Path,
    networks: tuple[str, ...],
    repeats: int,
    protocol: str,
    baselines: bool,
    data: str | None,
    data_root: Path | None,
    seed: int,
    device: str,
    precision: str,
    json_file: Path | None,
    overwrite: bool,
) -> None:
    """Train fresh networks on a distilled set, and test them on real data."""
    inputs = [artifact_file(path)]
    check_outputs((json_file, "JSON"), inputs=inputs, overwrite=overwrite)
    distilled = DistilledSet.load(path)
    with parallel.process_group(), _training_progress() as on_progress:
        first = parallel.rank() == 0
        found = evaluate(
            distilled,
            networks,
            repeats=repeats,
            protocol=protocol,
            baselines=baselines,
            data=data,
            data_root=data_root,
            seed=seed,
            device=device,
            precision=cast(Precision, precision),
            on_progress=on_progress,
        )
    if not first:
        return
    _all_of(
        lambda: _print(Console(), _evaluation_tables(found, distilled)),
        lambda: _write_json(json_file, found.as_dict()),
    )


@click.command("transfer")
@click.argument("paths", type=shared.path_type, nargs=-1, required=True)
@click.option(
    "--networks", required=True, help="Specs, separated by commas: the architectures."
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Fresh networks of each.",
)
@_protocol
@shared.real_data
@shared.data_root
@shared.seed
@shared.device
@_precision
@shared.json_file
@click.option(
    "--html", "html_file", type=shared.path_type, help="Write the tables here."
)
@shared.overwrite
def transfer_command(
    paths: tuple[Path, ...],
    networks: str,
    json_file: Path | None,
    html_file: Path | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Test distilled sets on architectures that they were not distilled with.

    Two sets of the same base (a distiller, and the same inside a wrapper), distilled
    from the same data, are compared in pairs, network by network.
    """
    check_outputs(
        (json_file, "JSON"),
        (html_file, "HTML"),
        inputs=[artifact_file(path) for path in paths],
        overwrite=overwrite,
    )
    with parallel.process_group(), _training_progress() as on_progress:
        first = parallel.rank() == 0
        found = transfer(
            paths, split_specs(networks), on_progress=on_progress, **options
        )
    if not first:
        return
    _all_of(
        lambda: _print(Console(), _transfer_tables(found)),
        lambda: _write_json(json_file, found.as_dict()),
        lambda: _write_page(html_file, _transfer_tables(found)),
    )


def _transfer_tables(found: Transfer) -> Iterator[Table | Text]:
    """Yield a title and a table for each set, and for the differences of two."""
    for report in found.sets:
        title = f"{report.path}: {report.distiller}, {report.images} images"
        yield _text(title)
        table = Table()
        for column in ("architecture", "it was"):
            table.add_column(column)
        for column in ("mean", "deviation", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for result, role in zip(report.results, report.roles, strict=True):
            table.add_row(_text(result.spec), role, *_figures(result))
        mean = report.held_out()
        if mean is not None:
            table.add_row("mean of these", "held out", *_figures(mean))
        yield table
    if found.not_compared:
        yield _text(found.not_compared)
    if found.differences:
        sizes = [report.images for report in found.sets]
        title = "second set less first, in pairs of equal networks"
        if len(set(sizes)) > 1:
            title += f" ({sizes[1]} images less {sizes[0]})"
        yield _text(title)
        table = Table()
        table.add_column("architecture")
        for column in ("mean", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for difference in found.differences:
            interval = (
                "one pair"
                if difference.ci95 is None
                else f"{difference.ci95[0]:+.4f} to {difference.ci95[1]:+.4f}"
            )
            table.add_row(_text(difference.spec), f"{difference.mean:+.4f}", interval)
        yield table


@click.command("train-networks")
@_dataset
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
@click.option(
    "--cache",
    type=shared.path_type,
    envvar="DD_CACHE",
    help="Folder that keeps networks.  [env: DD_CACHE; default: the user's cache]",
)
@shared.device
@_precision
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

    Networks that are kept already are not trained again; a command that was stopped
    goes on with the first one that is missing.
    """
    plugins = loaded_plugins()
    chosen = [plugins.network(spec) for spec in networks]
    options = DataOptions(root=data_root, image_size=image_size)
    data = prepared(
        as_real_data(dataset, options, plugins),
        cast(Preprocessing | None, preprocessing),
        mirror,
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
        _say(f"{kept.network}, {kept.steps} steps: {how}, {found}, {kept.file}")


_RETRIEVAL = {
    "precision_at_1": "precision at 1",
    "r_precision": "R-precision",
    "mean_average_precision_at_r": "MAP@R",
}


@contextmanager
def _training_progress() -> Iterator[Any]:
    """Show how many networks are trained, on standard error."""
    console = Console(stderr=True)
    with console.status("reading data") as status:

        def on_progress(what: str, done: int, total: int) -> None:
            text = _text(f"training on {what}: {done} of {total} networks")
            if parallel.rank() > 0:
                return
            if console.is_terminal:
                status.update(text)
            elif done == total:
                console.print(text, highlight=False, soft_wrap=True)

        yield on_progress


def _evaluation_tables(
    found: Evaluation, distilled: DistilledSet
) -> Iterator[Table | Text]:
    """Yield a title and a table for each network: a row for each training set."""
    header = distilled.header
    kinds = (
        ("random real images", str(distilled.budget), found.random),
        ("distilled set", str(len(distilled)), found.networks),
        ("all training images", f"{header.dataset.train_images:,}", found.full),
    )
    for number, result in enumerate(found.networks):
        repeats = len(result.accuracies)
        yield _text(
            f"accuracy on {found.test_images:,} test images of "
            f"{header.dataset.name}: {repeats} x {result.spec}"
        )
        table = Table()
        table.add_column("trained on")
        for column in ("images", "mean", "deviation", "95 % interval"):
            table.add_column(column, justify="right", no_wrap=True)
        for kind, images, results in kinds:
            if results:
                table.add_row(kind, images, *_figures(results[number]))
        yield table
        if result.retrieval:
            yield _text(
                f"finding test images of the same class by features of {result.spec}"
            )
            yield _retrieval_table(
                [(kind, results[number]) for kind, _, results in kinds]
            )


def _retrieval_table(rows: list[tuple[str, NetworkResult]]) -> Table:
    """Return a table of how well images are found by features."""
    spec = rows[0][1].spec
    table = Table()
    for column in ("score", "trained on"):
        table.add_column(column)
    for column in ("mean", "deviation", "95 % interval"):
        table.add_column(column, justify="right", no_wrap=True)
    for score, title in _RETRIEVAL.items():
        for number, (kind, result) in enumerate(rows):
            figures = _figures(NetworkResult(spec, result.retrieval[score]))
            table.add_row(title if number == 0 else "", kind, *figures)
    return table


def _figures(result: NetworkResult) -> tuple[str, str, str]:
    if result.std is None or result.ci95 is None:
        return f"{result.mean:.4f}", "", ""
    low, high = result.ci95
    return f"{result.mean:.4f}", f"{result.std:.4f}", f"{low:.4f} to {high:.4f}"


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
    help="Draw where networks that were trained on the real data look.",
)
@click.option(
    "--network",
    "networks",
    multiple=True,
    help="With --features: spec; repeat it.  [default: those of metadd]",
)
@click.option(
    "--stored",
    is_flag=True,
    help="Draw the images as a parametrization stores them, before they are decoded.",
)
@shared.real_data
@shared.data_root
@shared.device
@_precision
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

    With --features: where several architectures look on the first image of each of 20
    classes (class activation maps), and what all of them look at. Their networks are
    trained, or found where metadd keeps them; the other options say how.
    """
    if not features:
        for option in shared.given("networks", *options):
            raise OptionError(f"{option} goes with --features")
    if features and stored:
        raise OptionError("--stored and --features exclude each other; choose one")
    file = artifact_file(path)
    target = out or file.parent / ("features.png" if features else "grid.png")
    check_outputs((target, "PNG"), inputs=[file], overwrite=overwrite)
    distilled = DistilledSet.load(file)
    if not features:
        shown = distilled.as_stored() if stored else distilled
        _say(f"picture: {save_grid(shown, target)}")
        return
    found = meta_features(distilled, networks, **options)
    click.echo(f"meta ratio: {float(found.ratio.mean()):.4f}")
    _say(f"picture: {save_features(distilled, found, target)}")


@click.command("info")
@click.argument("path", type=shared.path_type)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info_command(path: Path, as_json: bool) -> None:
    """Tell what an artifact is, from its header, without loading tensors."""
    header = DistilledSet.read_header(path)
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
    fields["learned"] = header.learned or "images alone"
    table = Table(show_header=False, box=None)
    for name, value in fields.items():
        table.add_row(
            name.replace("_", " "), _text(_cut(_readable(value), _LONGEST_VALUE))
        )
    Console().print(table)


def _line_of(context: ContextRecord | None) -> str:
    """Return what a set was made beside, and that beside what in turn."""
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
    type=click.Choice(["folder", "npz", "pt"]),
    required=True,
    help="Folder of PNG files, NumPy archive, or torch file.",
)
@click.option(
    "--out", type=shared.path_type, required=True, help="File or folder to write."
)
def export_command(path: Path, form: str, out: Path) -> None:
    """Write a distilled set in a form that needs no dd-plugins to read."""
    _say(f"exported to {export(DistilledSet.load(path), form, out)}")


@click.command("plugins")
@click.option("--all", "with_built_in", is_flag=True, help="The built-ins as well.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins_command(with_built_in: bool, as_json: bool) -> None:
    """List plugins: distribution, hooks, what they offer, and what failed to load."""
    loaded_plugins().collect_all()
    found = [
        plugin
        for plugin in loaded_plugins().plugins
        if with_built_in or not plugin.built_in
    ]
    if as_json:
        click.echo(json.dumps([vars(plugin) for plugin in found], indent=1))
        return
    for plugin in found:
        version = f" {plugin.version}" if plugin.version else ""
        _say(f"{plugin}{version}: {_state(plugin)}")
        for kind, names in plugin.offers.items():
            _say(f"    {kind}: {', '.join(names)}")
        if plugin.hooks:
            _say(f"    hooks: {', '.join(plugin.hooks)}")


def _state(plugin: Plugin) -> str:
    if plugin.error is not None:
        return f"failed: {plugin.error}"
    if plugin.missing_extra is not None:
        return f"needs {plugin.missing_extra}"
    return "loaded"


def _text(content: object) -> Text:
    """Return what comes from names and paths as rich shows it: as it is written.

    What the screen's encoding has not is written as an escape, so that no table is lost
    to it.
    """
    encoding = sys.stdout.encoding or "utf-8"
    shown = plain(str(content)).encode(encoding, "backslashreplace").decode(encoding)
    return Text(shown, overflow="fold")


def _say(line: str, *, err: bool = False) -> None:
    """Print a line that may hold names and paths."""
    click.echo(plain(line), err=err)


def _print(console: Console, parts: Iterable[Table | Text]) -> None:
    """Print tables and their titles; what a title names is not cut into lines."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def _all_of(*actions: Callable[[], object]) -> None:
    """Do one after the other, each even if one before it fails; then raise its error.

    So figures are printed even if their file cannot be written, and the file is written
    even if nobody reads what is printed.
    """
    with ExitStack() as stack:
        for action in reversed(actions):
            stack.callback(action)


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write figures to a file, if one was asked for."""
    if path is None:
        return
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _write_page(path: Path | None, tables: Iterable[Table | Text]) -> None:
    """Write tables to an HTML page, if one was asked for."""
    if path is None:
        return
    console = Console(record=True, file=io.StringIO(), width=_PAGE_WIDTH)
    _print(console, tables)
    page = console.export_html().encode()
    write_atomically(path, lambda file: file.write(page))


COMMANDS = (
    distill_command,
    evaluate_command,
    transfer_command,
    train_networks_command,
    show_command,
    info_command,
    export_command,
    plugins_command,
)
