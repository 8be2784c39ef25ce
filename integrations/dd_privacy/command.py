"""The commands ``dd-plugins audit`` and ``dd-plugins train-private``."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import dd_plugins
from dd_plugins import options as shared
from dd_plugins.api import (
    ARTIFACT_NAME,
    Images,
    OptionError,
    accuracy,
    artifact_file,
    check_outputs,
    plain,
    split_specs,
    write_atomically,
)
from dd_privacy.audit import DEFAULT_ATTACKS, DELTA, Audit, audit_runs
from dd_privacy.game import Game, NonMembers, game_for_artifact, game_for_mechanism
from dd_privacy.mechanisms import (
    AbstractMechanism,
    AllMembers,
    Distillation,
    GivenSet,
    PrivateTraining,
)
from dd_privacy.private import Clipping, PrivateTrainer
from dd_privacy.report import shown, write_report
from dd_privacy.runs import Runs, audit_folder
from dd_privacy.statistics import RATES, non_members_needed

__all__ = ["audit_command", "tables", "train_private_command"]

COMPARISONS = ("all", "random", "noise", "private")
"""What an audited distiller may be compared with."""


_OF_COMPARISONS = {"all": ("all_steps", "all_plain"), "private": ("epsilon",)}

_OF_SPECS = (
    *("canaries", "targets", "non_members", "images_per_class", "steps", "network"),
    *("initial_images", "compare", "all_steps", "all_plain", "epsilon", "image_size"),
)

_dataset = click.option("--dataset", required=True, help="Name of the data set.")
_overwrite = click.option(
    "--overwrite", is_flag=True, help="Replace files that hold something else."
)


@click.command("audit")
@click.argument("audited", metavar="PATH|SPEC")
@_dataset
@click.option(
    "--attacks",
    help="Specs, separated by commas.  [default: those that the shadow runs allow of "
    f"{', '.join(DEFAULT_ATTACKS)}]",
)
@click.option(
    "--shadows",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Runs of the same mechanism on other members; 0 for none.",
)
@click.option(
    "--members",
    type=click.IntRange(min=1),
    default=10_500,
    show_default=True,
    help="Of a run; about as many others are non-members.",
)
@click.option(
    "--canaries",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Examples with a wrong label, half of them members.",
)
@click.option(
    "--targets",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Audited runs, each on members of its own.",
)
@click.option(
    "--non-members",
    type=click.Choice(get_args(NonMembers)),
    default="train",
    show_default=True,
    help="Training images left out, or the test set (FRePo's protocol).",
)
@shared.images_per_class
@shared.steps
@click.option("--network", help="Spec.  [default: by distiller]")
@shared.initial_images
@click.option(
    "--training-steps",
    type=click.IntRange(min=1),
    help="Of a network on a set.  [default: the protocol's]",
)
@click.option(
    "--compare",
    default="",
    help=f"Of {', '.join(COMPARISONS)}: trained on all members, on random ones, "
    "distilled from noise, trained under differential privacy.",
)
@click.option(
    "--all-steps",
    type=click.IntRange(min=1),
    default=AllMembers.training_steps,
    show_default=True,
    help="Of --compare all: training steps of the network.",
)
@click.option(
    "--all-plain",
    is_flag=True,
    help="Of --compare all: train without augmentation, to learn by heart sooner.",
)
@click.option(
    "--epsilon",
    default="1,4,10",
    show_default=True,
    help="Of private training, separated by commas.",
)
@click.option(
    "--rates",
    help="False-positive rates, separated by commas.  "
    f"[default: {','.join(f'{rate:g}' for rate in RATES)}]",
)
@click.option(
    "--delta",
    type=float,
    default=DELTA,
    show_default=True,
    help="Of lower bounds on epsilon, and of private training.",
)
@shared.seed
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="In which runs are made side by side.",
)
@shared.json_file
@click.option(
    "--html", "html_file", type=shared.path_type, help="Write the report here."
)
@_overwrite
@shared.data_root
@shared.download
@shared.image_size
@shared.device
def audit_command(
    audited: str,
    dataset: str,
    image_size: int | None,
    attacks: str | None,
    compare: str,
    rates: str | None,
    epsilon: str,
    delta: float,
    processes: int,
    json_file: Path | None,
    html_file: Path | None,
    overwrite: bool,
    data_root: Path | None,
    download: bool,
    **options: Any,
) -> None:
    """Measure what a distilled set tells of the images that it was made of.

    A distiller's spec is run on members drawn at random; an artifact is audited as it
    is. Attacks that need shadow runs repeat the whole distillation on other members.
    Runs are kept, and found again when a stopped audit is started anew.
    """
    for file in (json_file, html_file):
        if file is None:
            continue
        if not file.absolute().parent.is_dir():
            raise OptionError(f"{file.absolute().parent} is not a folder")
    is_artifact = _is_artifact(audited)
    check_outputs(
        (json_file, "JSON"),
        (html_file, "HTML"),
        inputs=[artifact_file(audited)] if is_artifact else [],
        overwrite=overwrite,
    )
    if is_artifact:
        _refuse_for_artifact()
        image_size = dd_plugins.DistilledSet.read_header(audited).dataset.image_size
    specs = None if attacks is None else split_specs(attacks)
    chosen_rates = RATES if rates is None else _numbers("--rates", rates)
    data = dd_plugins.get_dataset(
        dataset, data_root=data_root, download=download, image_size=image_size
    )
    if is_artifact:
        game, mechanisms = _prepared_artifact(audited, data, options)
    else:
        comparisons = _names(compare)
        _refuse_unused(comparisons)
        epsilons = _numbers("--epsilon", epsilon)
        game, mechanisms = _prepared(
            audited, data, options, comparisons, epsilons, delta
        )
    if rates is not None:
        _check_resolved(game, chosen_rates)
    runs = Runs(game, audit_folder())
    console = Console()
    found = _audited(
        console, runs, mechanisms, specs, chosen_rates, delta, processes, dataset
    )
    if json_file is not None:
        text = json.dumps(found.as_dict(), indent=1) + "\n"
        write_atomically(json_file, lambda file: file.write(text.encode()))
    for table in tables(found):
        console.print(table)
    for mechanism, attack, reason in found.skipped:
        _say(console, f"{mechanism}: no {attack}: {reason}")
    if html_file is not None:
        write_report(found, html_file)
        _say(console, f"report: {html_file}")


def _say(console: Console, line: str) -> None:
    """Print one line as it is: names in it are no markup, and move no cursor."""
    console.print(Text(plain(line)), soft_wrap=True)


def _is_artifact(audited: str) -> bool:
    """Tell whether a file or a run's folder is audited, not a distiller's spec."""
    try:
        return Path(audited).is_file() or (Path(audited) / ARTIFACT_NAME).is_file()
    except (OSError, ValueError):  # a name that no file can have, or no permission
        return False


def _progress() -> Progress:
    """Return a display that leaves no trace, and shows nothing to a file."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _names(text: str) -> list[str]:
    names = list(
        dict.fromkeys(part.strip() for part in text.split(",") if part.strip())
    )
    for name in names:
        if name not in COMPARISONS:
            raise OptionError(
                f"--compare must be of {', '.join(COMPARISONS)}, got {name!r}"
            )
    return names


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise OptionError(
            f"{option} must be numbers separated by commas, got {text!r}"
        ) from None


def _check_resolved(game: Game, rates: Sequence[float]) -> None:
    """Refuse rates that were asked for and that there are too few non-members for."""
    there = int((game.scored & ~game.targets & ~game.canaries).sum(dim=1).min())
    for rate in rates:
        if 0 <= rate < 1 and there < non_members_needed(rate):
            raise OptionError(
                f"a false-positive rate of {rate:g} needs {non_members_needed(rate)} "
                f"non-members, there are {there}; ask for more --members, or a higher "
                "rate"
            )


def _refuse_for_artifact() -> None:
    """Refuse options that a finished set leaves no choice of."""
    for option in shared.given(*_OF_SPECS):
        raise OptionError(
            f"{option} goes with a distiller's spec, not with an artifact"
        )


def _refuse_unused(comparisons: Sequence[str]) -> None:
    """Refuse options of comparisons that are not made."""
    for comparison, names in _OF_COMPARISONS.items():
        if comparison not in comparisons:
            for option in shared.given(*names):
                raise OptionError(f"{option} goes with --compare {comparison}")


def _prepared(
    audited: str,
    data: dd_plugins.RealData,
    options: dict[str, Any],
    comparisons: Sequence[str],
    epsilons: Sequence[float],
    delta: float,
) -> tuple[Game, list[AbstractMechanism]]:
    """Return who is a member of what, and the mechanisms: the audited one first."""
    if "/" in audited or audited.endswith(".safetensors"):
        raise OptionError(f"{audited} does not exist, and is no spec of a distiller")
    spec = repr(dd_plugins.get_distiller(audited))
    game = game_for_mechanism(
        data,
        **{
            name: options[name]
            for name in (
                *("members", "canaries", "targets"),
                *("shadows", "non_members", "seed"),
            )
        },
    )
    chosen = {
        name: options[name]
        for name in (
            *("images_per_class", "steps", "network"),
            *("initial_images", "training_steps", "device"),
        )
    }
    mechanism = Distillation(spec, distiller=spec, **chosen)
    others = [
        other
        for name in comparisons
        for other in _compared(name, mechanism, data, options, epsilons, delta)
    ]
    return game, [mechanism, *others]


def _compared(
    name: str,
    audited: Distillation,
    data: dd_plugins.RealData,
    options: dict[str, Any],
    epsilons: Sequence[float],
    delta: float,
) -> list[AbstractMechanism]:
    """Return what an audited distillation is compared with.

    On the same network; under differential privacy on the one of its trainer.
    """
    network = audited.resolved_network(data)
    device = audited.device
    match name:
        case "all":
            plain, steps = options["all_plain"], options["all_steps"]
            kind = "all members, plain" if plain else "all members"
            return [AllMembers(kind, device, network, steps, augment=not plain)]
        case "random":
            return [
                replace(
                    audited,
                    name="random real images",
                    distiller="random",
                    steps=None,
                    network=network,
                    initial_images=None,
                )
            ]
        case "noise":
            return [
                replace(
                    audited, name=f"{audited.name} from noise", initial_images="noise"
                )
            ]
    return [
        PrivateTraining(
            f"DP-SGD, epsilon {epsilon:g}",
            device,
            PrivateTrainer(
                epsilon=epsilon,
                delta=delta,
                batch_size=min(
                    PrivateTrainer.batch_size, max(1, options["members"] // 8)
                ),
            ),
        )
        for epsilon in epsilons
    ]


def _prepared_artifact(
    audited: str, data: dd_plugins.RealData, options: dict[str, Any]
) -> tuple[Game, list[AbstractMechanism]]:
    distilled = dd_plugins.DistilledSet.load(audited)
    record = distilled.header.dataset
    if record.fingerprint != data.fingerprint:
        raise OptionError(
            f"{audited} was distilled from {record.name!r}, whose training images are "
            f"not those of {data.name!r}"
        )
    places = distilled.header.initial_indices
    game = game_for_artifact(
        data,
        None if places is None else torch.tensor(places),
        members=min(options["members"], len(data.train.labels)),
        shadows=options["shadows"],
        seed=options["seed"],
    )
    steps = options["training_steps"]
    return game, [GivenSet(str(audited), options["device"], distilled, steps)]


def _audited(
    console: Console,
    runs: Runs,
    mechanisms: Sequence[AbstractMechanism],
    attacks: Sequence[str] | None,
    rates: Sequence[float],
    delta: float,
    processes: int,
    dataset: str,
) -> Audit:
    with _progress() as progress:
        task = progress.add_task("runs", total=None)

        def on_plan(missing: int, total: int, seconds: float) -> None:
            _say(
                console,
                f"{total} runs, {total - missing} of them kept from before; about "
                f"{_duration(seconds)} for the rest",
            )

        return audit_runs(
            runs,
            mechanisms,
            attacks,
            rates=rates,
            delta=delta,
            processes=processes,
            about={"dataset": dataset, "mechanism": mechanisms[0].description()},
            on_plan=on_plan,
            on_progress=lambda done, total: progress.update(
                task, completed=done, total=total
            ),
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def tables(found: Audit) -> list[Table]:
    """Return an audit for a terminal: mechanisms, and the attacks on each."""
    mechanisms = Table(title=_title(f"what is audited: {found.about['data']}"))
    for column in ("mechanism", "accuracy", "epsilon", "seconds a run"):
        mechanisms.add_column(
            column, justify="left" if column == "mechanism" else "right"
        )
    for each in found.mechanisms:
        mechanisms.add_row(
            Text(plain(each.name) + (" (nearest in accuracy)" if each.matched else "")),
            "" if each.accuracy is None else f"{each.accuracy:.3f}",
            "" if each.epsilon is None else f"{each.epsilon:.2f}",
            f"{each.seconds:.1f}",
        )
    tables = [mechanisms]
    for mechanism in found.mechanisms:
        rows = [row for row in found.rows if row.mechanism == mechanism.name]
        # What is withheld everywhere takes no column; the reasons stand in the file.
        rates = sorted(
            {
                rate
                for row in rows
                for rate, figure in row.tpr_at_fpr.items()
                if figure.withheld is None
            },
            reverse=True,
        )
        table = Table(
            title=_title(f"attacks on {mechanism.name}"), title_justify="left"
        )
        # What wraps gives way on a narrow terminal: names must not.
        table.add_column("attack", no_wrap=True)
        table.add_column("members")
        table.add_column("area under ROC")
        for rate in rates:
            table.add_column(f"found at {100 * rate:g} %")
        for row in rows:
            group = row.group.removesuffix("_members").replace("_", " ")
            table.add_row(
                Text(plain(row.attack)),
                f"{row.members} {group}",
                shown(row.auc),
                *(shown(row.tpr_at_fpr[rate], 100) for rate in rates),
            )
        tables.append(table)
    return tables


def _title(text: str) -> Text:
    return Text(plain(text), style="table.title")


@click.command("train-private")
@_dataset
@click.option("--epsilon", type=float, required=True, help="The most to be spent.")
@click.option("--delta", type=float, help="[default: 0.1 / images]")
@click.option(
    "--network", default=PrivateTrainer.network, show_default=True, help="Spec."
)
@click.option("--epochs", type=int, default=PrivateTrainer.epochs, show_default=True)
@click.option(
    "--batch-size",
    type=int,
    default=PrivateTrainer.batch_size,
    show_default=True,
    help="Expected: batches are drawn by coins.",
)
@click.option(
    "--learning-rate",
    type=float,
    default=PrivateTrainer.learning_rate,
    show_default=True,
)
@click.option(
    "--clipping-norm",
    type=float,
    default=PrivateTrainer.clipping_norm,
    show_default=True,
)
@click.option(
    "--clipping",
    type=click.Choice(get_args(Clipping)),
    default=PrivateTrainer.clipping,
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
@_overwrite
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

    Writes the weights, what was spent, and what that does not cover. Accuracy is
    measured on validation images, which are not trained on, or on the test set.
    """
    trainer = PrivateTrainer(**options)
    dd_plugins.get_network(trainer.network)
    # Known now: what is lost later was paid for in epsilon.
    check_outputs((json_file, "JSON"), (out, "tensors"), overwrite=overwrite)
    data = dd_plugins.get_dataset(
        dataset, data_root=data_root, download=download, image_size=image_size
    )
    trainer.check(data.image_shape, data.num_classes)
    if test:
        data.check_test()
    budget = trainer.budget(len(data.train.labels))
    console = Console()
    _say(
        console,
        f"{budget.steps} steps on {len(data.train.labels)} images, noise "
        f"{budget.noise_multiplier:.3f}: epsilon {budget.epsilon:.3f} at delta "
        f"{budget.delta:.2g} ({budget.accountant})",
    )
    if budget.fallback is not None:
        _say(console, f"not by PRV: {budget.fallback}")
    with _progress() as progress:
        task = progress.add_task("training", total=budget.steps)
        model = trainer.fit(
            data.train.images[:],
            data.train.labels,
            class_names=data.class_names,
            mirror=data.mirror,
            on_step=lambda done, total: progress.update(task, completed=done),
        )
    model.save(out)
    scored: Images = data.read_test() if test else data.validation
    device = next(model.network.parameters()).device
    found = (
        accuracy(model.network, scored, model.transform, device=device)
        if len(scored.labels)
        else None
    )
    what = "test" if test else "validation"
    if found is not None:
        _say(console, f"{what} accuracy: {found:.4f}, {len(scored.labels)} images")
    _say(console, f"model: {out}")
    _say(console, "epsilon does not cover:")
    for sentence in model.not_covered:
        _say(console, f"  - {sentence}")
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
