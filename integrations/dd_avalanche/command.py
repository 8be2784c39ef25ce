"""The command ``dd-plugins continual``."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import click
from rich.console import Console
from rich.table import Table

import dd_plugins
from dd_avalanche.continual import (
    BENCHMARKS,
    Experiment,
    Protocol,
    Row,
    Store,
    StreamResult,
    Whitening,
    continual,
    stream_key,
)
from dd_avalanche.memory import DISTILLER, INITIAL_IMAGES, STEPS, Context
from dd_plugins import options as shared
from dd_plugins.api import (
    FileError,
    OptionError,
    check_outputs,
    get_initial_images,
    split_specs,
    what_differs,
    write_atomically,
)

__all__ = ["continual_command"]

_FORMAT_VERSION = 2  # from 2 on a file has a hash over all that it holds


@click.command("continual")
@click.option(
    "--benchmark",
    type=click.Choice(list(BENCHMARKS)),
    default="split-fashion-mnist",
    show_default=True,
)
@click.option(
    "--experiences",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Into which the classes are divided.",
)
@click.option(
    "--memory",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images at the end of the stream; an equal share for each class.",
)
@click.option(
    "--policy",
    default=f"{DISTILLER},random,herding",
    show_default=True,
    help="Specs, separated by commas: what fills the memory.",
)
@click.option(
    "--protocol",
    type=click.Choice([*get_args(Protocol), "both"]),
    default="scratch",
    show_default=True,
    help="Train on the memory alone, or on current data with replay.",
)
@click.option(
    "--context",
    default="none",
    show_default=True,
    help="What stored images are while others are distilled: none, fixed, refined; "
    "several separated by commas.",
)
@click.option(
    "--store",
    default=",".join(get_args(Store)),
    show_default=True,
    help="How learned images are stored: float32, uint8; or both, measured apart.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Orders of classes: a stream for each.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=STEPS,
    show_default=True,
    help="Of each distillation.",
)
@click.option(
    "--initial-images",
    default=INITIAL_IMAGES,
    show_default=True,
    help="What learned images begin as: real, noise, or a core set.",
)
@click.option(
    "--network",
    default="conv(width=32)",
    show_default=True,
    help="Spec: on which images are distilled, and what is tested.",
)
@click.option(
    "--training-steps",
    type=click.IntRange(min=1),
    help="Of a network from scratch.  [default: FRePo's number]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Over each experience, with replay.",
)
@click.option(
    "--whitening",
    type=click.Choice(get_args(Whitening)),
    default="none",
    show_default=True,
    help="ZCA of all images, fitted to the first experience.",
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
    help="Begin the --json file anew; replace whatever --plot names.",
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
    """Compare distilled and real images as the memory of a class-incremental stream.

    All policies hold as many images at the end. A learned image is stored as float32,
    a real one as bytes, so rows of as many bytes stand beside: learned images with 256
    levels, and as many more of the real ones.
    """
    if resume and json_file is None:
        raise OptionError("--resume needs the file: pass --json")
    if resume and overwrite:
        raise OptionError("--resume keeps the file, --overwrite does not: pass one")
    contexts = _several("--context", context, get_args(Context))
    stores = _several("--store", store, get_args(Store))
    policies = split_specs(policy)
    for spec in policies:
        dd_plugins.get_distiller(spec)  # refuses it now, not after the first stream
    get_initial_images(options["initial_images"])
    check_outputs((json_file, "JSON"), (plot, "PNG"), overwrite=overwrite)
    if json_file is not None and json_file.exists() and not (resume or overwrite):
        raise OptionError(
            f"{json_file} exists; keep its streams with --resume, or replace it with "
            "--overwrite"
        )
    protocols: tuple[Protocol, ...] = get_args(Protocol)
    if protocol != "both":
        protocols = (cast(Protocol, protocol),)
    experiment = Experiment(**options)
    kept = _Kept(experiment, json_file, anew=overwrite)
    console = Console()
    data = dd_plugins.get_dataset(
        BENCHMARKS[experiment.benchmark], data_root=data_root, download=download
    )
    with _plain_warnings(), console.status("the first stream ...") as status:

        def on_stream(stream: StreamResult) -> None:
            kept.add(stream)
            what = f"{stream.policy}, {stream.protocol}, {stream.store}"
            status.update(f"done: {what}, order {stream.seed}: {stream.curve[-1]:.4f}")

        rows = continual(
            experiment,
            policies,
            protocols=protocols,
            contexts=contexts,  # type: ignore[arg-type]
            stores=stores,  # type: ignore[arg-type]
            seeds=range(seeds),
            data=data,
            known=list(kept.streams),
            on_stream=on_stream,
        )
    kept.write(rows)
    for name in protocols:
        console.print(_table(experiment, name, rows))
    if plot is not None:
        save_plot(experiment, rows, plot)
        console.print(f"picture: {plot}", soft_wrap=True)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Say each warning once, in a line, without the code that it came from."""
    said = set()

    def say(message: Warning | str, *where: Any, **how: Any) -> None:
        if str(message) not in said:
            said.add(str(message))
            click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = say
        yield


def _several(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Return the names that an option lists, each of them known."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in known:
            raise OptionError(f"{option} must be of {', '.join(known)}, got {name!r}")
    return names


class _Kept:
    """The JSON file: written after each stream, so that a kill loses one at most.

    Several processes may write to it at once, for different policies: what others have
    added is read again under the lock of each write.
    """

    def __init__(
        self, experiment: Experiment, path: Path | None, *, anew: bool = False
    ) -> None:
        self.experiment, self.path = asdict(experiment), path
        self.streams: list[StreamResult] = []
        if path is not None and anew:
            content = self._content([], [])
            write_atomically(path, lambda file: file.write(content))
        self.write([])  # a file that cannot be gone on with is known now

    def add(self, stream: StreamResult) -> None:
        self.streams.append(stream)
        self.write([])

    def write(self, rows: list[Row]) -> None:
        """Add streams and rows to those of the file."""
        if self.path is None:
            return
        self._read()  # the reason of its errors, in one line
        write_atomically(self.path, lambda file: file.write(self._merged(rows)))

    def _merged(self, rows: list[Row]) -> bytes:
        """Return the file with what this process has to add."""
        before, results = self._read()
        known = {stream_key(asdict(stream)): stream for stream in before}
        for stream in self.streams:
            known.setdefault(stream_key(asdict(stream)), stream)
        self.streams = list(known.values())
        found = {_row_key(row): row for row in map(Row.as_dict, rows)}
        for row in results:
            found.setdefault(_row_key(row), row)
        return self._content(list(found.values()), self.streams)

    def _content(
        self, results: list[dict[str, Any]], streams: list[StreamResult]
    ) -> bytes:
        """Return the file that holds these, with its hash."""
        content = {
            "format_version": _FORMAT_VERSION,
            "experiment": self.experiment,
            "results": results,
            "streams": [asdict(stream) for stream in streams],
        }
        content["content_hash"] = _content_hash(content)
        return (json.dumps(content, indent=1) + "\n").encode()

    def _read(self) -> tuple[list[StreamResult], list[dict[str, Any]]]:
        """Return the streams and the results that the file holds.

        Raises:
            FileError: it is damaged, or not of this command or version.
            OptionError: its streams are of another experiment.
        """
        assert self.path is not None
        if not self.path.exists():
            return [], []
        try:
            content = json.loads(self.path.read_text())
            before = dict(content["experiment"])
            saved = content.get("content_hash")
            streams = [StreamResult(**stream) for stream in content["streams"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileError(f"{self.path} is not of this command: {error}") from error
        if saved is None or saved != _content_hash(content):
            what = "has no hash: it is of an older version"
            if saved is not None:
                what = "is damaged: its content does not have the hash that it names"
            raise FileError(f"{self.path} {what}; begin it anew with --overwrite")
        differing = what_differs(before, self.experiment)
        if differing:
            raise OptionError(
                f"{self.path} holds streams of another experiment: {differing}"
            )
        return streams, content["results"]


def _row_key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return what tells the results of a row from those of others."""
    names = ("policy", "protocol", "context", "store", "equal_bytes", "memory_images")
    return tuple(row[name] for name in names)


def _content_hash(content: dict[str, Any]) -> str:
    """Return a SHA-256 over all of a file but the hash itself."""
    held = {name: value for name, value in content.items() if name != "content_hash"}
    return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()


def _table(experiment: Experiment, protocol: Protocol, rows: list[Row]) -> Table:
    title = f"{experiment.benchmark}, {experiment.experiences} experiences, {protocol}"
    table = Table(title=title)
    table.add_column("memory", overflow="fold", min_width=14)
    headings = ("images", "bytes", "final", "95 %", "forgotten", "seconds")
    for column in headings:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        found = row.as_dict()
        if found["protocol"] != protocol:
            continue
        table.add_row(
            _name(row),
            str(found["memory_images"]),
            str(found["memory_bytes"]),
            _percent(found["final_accuracy_mean"]),
            _interval(found["final_accuracy_ci95"]),
            _percent(found["forgetting_mean"]),
            f"{found['distill_seconds']:.0f}",
        )
    return table


def _name(row: Row) -> str:
    """Return what tells a row from the others of its protocol."""
    first = row.streams[0]
    about = [
        "" if first.context == "none" else f"context {first.context}",
        "" if first.store in ("real", "none", "float32") else first.store,
        "equal bytes" if row.equal_bytes else "",
    ]
    return ", ".join(filter(None, [first.policy, *about]))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{_percent(bounds[0])}-{_percent(bounds[1])}"


def save_plot(experiment: Experiment, rows: list[Row], path: Path) -> Path:
    """Draw the accuracy over all classes seen, after each experience.

    Raises:
        FileError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    protocols = list(dict.fromkeys(row.streams[0].protocol for row in rows))
    figure = Figure(figsize=(7 * len(protocols), 5), layout="constrained")
    for place, protocol in enumerate(protocols):
        axes = figure.add_subplot(1, len(protocols), place + 1)
        for row in rows:
            found = row.as_dict()
            if found["protocol"] != protocol:
                continue
            curve = found["accuracy_per_experience"]
            stages = [
                stage for stage, value in enumerate(curve, 1) if value is not None
            ]
            axes.plot(
                stages,
                [100 * curve[stage - 1] for stage in stages],
                "--o" if row.equal_bytes else "-o",
                label=_name(row),
                markersize=4,
            )
        axes.set_title(f"{experiment.benchmark}, {protocol}")
        axes.set_xlabel("experiences")
        axes.set_ylabel("accuracy over the classes seen, in %")
        axes.set_xticks(range(1, experiment.experiences + 1))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=120)
    )
