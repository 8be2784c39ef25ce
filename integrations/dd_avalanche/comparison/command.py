"""The command ``dd-plugins continual``."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click
from rich.console import Console

import dd_plugins
from dd_avalanche.comparison.choices import BENCHMARKS, MemoryUse, Whitening
from dd_avalanche.memory.choices import (
    DISTILLER,
    INITIAL_IMAGES,
    NETWORK,
    STEPS,
    Context,
    Store,
)
from dd_plugins import options as shared
from dd_plugins.api import (
    OptionError,
    check_outputs,
    one_of,
    shown_progress,
    split_specs,
)

if TYPE_CHECKING:
    from dd_avalanche.comparison.experiment import Experiment
    from dd_avalanche.comparison.results import StreamResult

__all__ = ["continual_command"]


@click.command("continual")
@click.option(
    "--benchmark",
    type=click.Choice(list(BENCHMARKS)),
    default="split-fashion-mnist",
    show_default=True,
    metavar="SCENARIO-DATA",
    help="split: experiences bring classes; task-split: a test knows which; permuted, "
    "rotated: they bring other pixels. Of digits, mnist, fashion-mnist, cifar10, "
    "cifar100.",
)
@click.option(
    "--experiences",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Experiences that the classes, or images, are divided into.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images at the end of the stream; equally many of each class.",
)
@click.option(
    "--policy",
    default=f"{DISTILLER},random,herding",
    show_default=True,
    help="What fills the memory: specs, separated by commas.",
)
@click.option(
    "--protocol",
    type=click.Choice([*get_args(MemoryUse), "both"]),
    default="scratch",
    show_default=True,
    help="Train on the memory alone, or on current data with replay.",
)
@click.option(
    "--context",
    default="none",
    show_default=True,
    help="How stored images take part while others are distilled: none, fixed, "
    "refined; several, separated by commas.",
)
@click.option(
    "--store",
    default="float32,uint8",
    show_default=True,
    help="How learned images are stored: float32, uint8, packed, packed-uint8; a row "
    "for each. Packed ones are four of half the size in the room of one.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of streams, each with its own order.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=STEPS,
    show_default=True,
    help="Steps of each distillation.",
)
@click.option(
    "--initial-images",
    default=INITIAL_IMAGES,
    show_default=True,
    help="First images to learn from: real, noise, or a coreset.",
)
@click.option(
    "--network",
    default=NETWORK,
    show_default=True,
    help="Architecture to distil with and to test.",
)
@click.option(
    "--training-steps",
    type=click.IntRange(min=1),
    help="Training steps of a network from scratch, and of the joint row; with replay, "
    "of that row alone.  [default: FRePo's number; joint: 500]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Epochs over each experience, with replay.",
)
@click.option(
    "--augmented-copies",
    type=click.IntRange(min=0),
    help="Augmented copies of each stored image, with replay.  [default: as many as "
    "make 640 images]",
)
@click.option(
    "--whitening",
    type=click.Choice(get_args(Whitening)),
    default="none",
    show_default=True,
    help="ZCA of all images, fitted to the first experience.",
)
@click.option(
    "--validation",
    is_flag=True,
    help="Score networks on validation images, to choose between memories.",
)
@shared.data_root
@shared.download
@shared.device
@shared.json_file
@click.option(
    "--plot", type=shared.path_type, help="Draw accuracy after each experience here."
)
@click.option(
    "--resume", is_flag=True, help="Keep the streams that the --json file holds."
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Restart the --json file; replace the --plot file.",
)
def continual_command(
    policy: str,
    protocol: str,
    context: str,
    store: str,
    seeds: int,
    data_root: Path | None,
    download: bool,
    json_file: Path | None,
    plot: Path | None,
    resume: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Compare distilled and real images as the memory of a stream.

    All policies hold the same number of images at the end. A learned image is stored as
    float32, a real one as bytes. So further rows compare equal numbers of bytes:
    learned images with 256 levels, and more real images.
    """
    from dd_avalanche.comparison.continual import continual
    from dd_avalanche.comparison.display import results_table, save_plot
    from dd_avalanche.comparison.experiment import Experiment, check_experiment
    from dd_avalanche.comparison.results_file import ResultsFile

    experiment = Experiment(**options)
    policies = _policies(policy, experiment)
    contexts = _several("--context", context, get_args(Context))
    stores = _several("--store", store, get_args(Store))
    protocols: tuple[MemoryUse, ...] = get_args(MemoryUse)
    if protocol != "both":
        protocols = (cast(MemoryUse, protocol),)
    _check_files(json_file, plot, resume=resume, overwrite=overwrite)
    data = dd_plugins.get_dataset(
        BENCHMARKS[experiment.benchmark][1], data_root=data_root, download=download
    )
    with _plain_warnings(), shown_progress("reading data") as progress:
        check_experiment(experiment, protocols, data)
        results = ResultsFile(experiment, json_file, anew=overwrite)

        def on_stream(stream: "StreamResult") -> None:
            results.add(stream)
            context = "" if stream.context == "none" else f", context {stream.context}"
            what = f"{stream.policy}{context}, {stream.protocol}, {stream.store}"
            order = f"{stream.images_per_class} images per class, order {stream.seed}"
            progress.line(f"{what}, {order}: {stream.curve[-1]:.4f}")

        rows = continual(
            experiment,
            policies,
            protocols=protocols,
            contexts=contexts,  # type: ignore[arg-type]
            stores=stores,  # type: ignore[arg-type]
            seeds=range(seeds),
            data=data,
            known=list(results.streams),
            on_stream=on_stream,
            on_progress=progress.update,
        )
    results.write(rows)
    console = Console()
    for name in protocols:
        console.print(results_table(experiment, name, rows))
    if plot is not None:
        save_plot(experiment, rows, plot)
        console.print(f"picture: {plot}", soft_wrap=True)


def _policies(text: str, experiment: "Experiment") -> list[str]:
    """Return the specs of an option; refuse unfit ones before the first stream."""
    from dd_avalanche.memory.options import MemoryOptions

    policies = split_specs(text)
    _refuse_repeated("--policy", [repr(dd_plugins.get_distiller(p)) for p in policies])
    for spec in policies:
        MemoryOptions(
            experiment.memory,
            spec,
            network=experiment.network,
            initial_images=experiment.initial_images,
            device=experiment.device,
        )
    return policies


def _check_files(
    json_file: Path | None, plot: Path | None, *, resume: bool, overwrite: bool
) -> None:
    """Refuse files that cannot be written, or would be replaced unasked."""
    if resume and json_file is None:
        raise OptionError("--resume needs the file of an earlier run; pass --json")
    if resume and overwrite:
        raise OptionError(
            "expected --resume or --overwrite, got both: one keeps the streams of the "
            "file, the other drops them"
        )
    check_outputs((json_file, "JSON"), (plot, "PNG"), overwrite=overwrite)
    for file in (json_file, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise OptionError(
                f"{file} needs a folder that exists, got {file.absolute().parent}"
            )
    if json_file is not None and json_file.exists() and not (resume or overwrite):
        raise OptionError(
            f"--json must name a new file, got {json_file}, which exists; keep its "
            "streams with --resume, or replace it with --overwrite"
        )


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print each warning once, in one line, without its source line."""
    said = set()

    def say(message: Warning | str, *where: Any, **how: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = say
        yield


def _several(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Return the names listed in an option; refuse unknown ones."""
    names = [one_of(option, part.strip(), known) for part in text.split(",")]
    _refuse_repeated(option, names)
    return names


def _refuse_repeated(option: str, names: list[str]) -> None:
    """Refuse a name that an option lists twice: its rows would be the same."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise OptionError(
            f"{option} must name each once, got {repeated[0]} more than once"
        )
