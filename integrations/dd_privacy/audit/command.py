"""The command ``dd-plugins audit``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import click
import torch
from rich.console import Console

import dd_plugins
from dd_plugins import options as shared
from dd_plugins.api import (
    ARTIFACT_NAME,
    OptionError,
    RunOptions,
    artifact_file,
    check_outputs,
    counts_of_classes,
    get_recipe,
    labels_stored,
    shown_progress,
    split_specs,
    write_atomically,
)
from dd_privacy.audit.audit import DEFAULT_ATTACKS, DELTA, audit_runs
from dd_privacy.audit.comparisons import (
    COMPARISONS,
    compared_with,
    comparisons_of,
    refuse_unused,
)
from dd_privacy.audit.drawing import (
    NonMembers,
    membership_for_artifact,
    membership_for_mechanism,
)
from dd_privacy.audit.findings import headline
from dd_privacy.audit.mechanisms.all_members import AllMembers
from dd_privacy.audit.mechanisms.base import AbstractMechanism
from dd_privacy.audit.mechanisms.distillation import Distillation
from dd_privacy.audit.mechanisms.given_set import GivenSet
from dd_privacy.audit.mechanisms.relabelling import Relabelling
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.report import write_report
from dd_privacy.audit.results import Audit
from dd_privacy.audit.runs import Runs, audit_folder
from dd_privacy.audit.statistics.rates import RATES, non_members_needed
from dd_privacy.audit.tables import duration, tables
from dd_privacy.console import dataset_option, say

__all__ = ["audit_command"]

# Options that only a distiller's spec leaves open.
_OF_SPECS = (
    *("canaries", "targets", "non_members", "images_per_class", "steps", "network"),
    *("initial_images", "parametrization", "compare", "all_steps", "all_plain"),
    *("epsilon", "image_size", "teacher", "teacher_recipe"),
)


@click.command("audit")
@click.argument("audited", metavar="PATH|SPEC")
@dataset_option
@click.option(
    "--attacks",
    help="Attacks, separated by commas.  [default: those with enough shadow runs among "
    f"{', '.join(DEFAULT_ATTACKS)}]",
)
@click.option(
    "--shadows",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Number of shadow runs; 0 for none.",
)
@click.option(
    "--members",
    type=click.IntRange(min=1),
    default=10_500,
    show_default=True,
    help="Training members of each run; about as many images are held out as "
    "non-members.",
)
@click.option(
    "--canaries",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Examples with a wrong label; half of them are members.",
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
@click.option("--network", help="Architecture to distil with.  [default: by distiller]")
@shared.initial_images
@shared.parametrization
@click.option(
    "--training-steps",
    type=click.IntRange(min=1),
    help="Training steps of a network on a set.  [default: the protocol's]",
)
@click.option(
    "--teacher",
    help="Spec of a network that is trained on the members of each run, and labels the "
    "views of its set.  [default: the labels of the method]",
)
@click.option(
    "--teacher-recipe",
    metavar="RECIPE",
    help="With --teacher: how it is trained.  [default: 1,000 steps of SGD]",
)
@click.option(
    "--compare",
    default="",
    help=f"Any of {', '.join(COMPARISONS)}, separated by commas: trained on all "
    "members, on random ones, distilled from noise, trained under differential "
    "privacy.",
)
@click.option(
    "--all-steps",
    type=click.IntRange(min=1),
    default=AllMembers.training_steps,
    show_default=True,
    help="With --compare all: training steps of the network.",
)
@click.option(
    "--all-plain",
    is_flag=True,
    help="With --compare all: train without augmentation, to memorise images sooner.",
)
@click.option(
    "--epsilon",
    default="1,4,10",
    show_default=True,
    help="Epsilons of private training, separated by commas.",
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
    help="Delta of lower bounds on epsilon, and of private training.",
)
@shared.seed
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that make runs side by side.",
)
@shared.json_file
@click.option(
    "--html", "html_file", type=shared.path_type, help="Write the report here."
)
@shared.overwrite
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
    """Audit a distilled set for leakage of its training images.

    A distiller's spec is run on members drawn at random; an artifact is audited as it
    is. Attacks that need shadow runs repeat the whole distillation on other members.
    Runs are kept, and a stopped audit resumes when it is started again.
    """
    for file in (json_file, html_file):
        if file is not None and not file.absolute().parent.is_dir():
            raise OptionError(
                f"{file} needs a folder that exists, got {file.absolute().parent}"
            )
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
        membership, mechanisms = _prepared_artifact(audited, data, options)
    else:
        comparisons = comparisons_of(compare)
        refuse_unused(comparisons)
        epsilons = _numbers("--epsilon", epsilon)
        membership, mechanisms = _prepared(
            audited, data, options, comparisons, epsilons, delta
        )
    if rates is not None:
        _check_resolved(membership, chosen_rates)
    runs = Runs(membership, audit_folder())
    found = _audited(runs, mechanisms, specs, chosen_rates, delta, processes, dataset)
    if json_file is not None:
        text = json.dumps(found.as_dict(), indent=1) + "\n"
        write_atomically(json_file, lambda file: file.write(text.encode()))
    console = Console()
    say(console, headline(found))
    for table in tables(found):
        console.print(table)
    for mechanism, attack, reason in found.skipped:
        say(console, f"{mechanism}: no {attack}: {reason}")
    if html_file is not None:
        write_report(found, html_file)
        say(console, f"report: {html_file}")


def _is_artifact(audited: str) -> bool:
    """Return whether a file or a run's folder is audited, and not a spec."""
    try:
        return Path(audited).is_file() or (Path(audited) / ARTIFACT_NAME).is_file()
    except (OSError, ValueError):  # a name that no file can have, or no permission
        return False


def _numbers(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of an option, each once."""
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise OptionError(
            f"{option} must be numbers separated by commas, got {text!r}"
        ) from None


def _check_resolved(membership: Membership, rates: Sequence[float]) -> None:
    """Refuse given rates with too few non-members for them."""
    plain = membership.scored & ~membership.canaries
    there = int((plain & ~membership.targets).sum(dim=1).min())
    for rate in rates:
        if 0 <= rate < 1 and there < non_members_needed(rate):
            raise OptionError(
                f"a false-positive rate of {rate:g} needs {non_members_needed(rate)} "
                f"non-members, got {there}; ask for more --members, or a higher rate"
            )


def _refuse_for_artifact() -> None:
    """Refuse options whose values a finished set has fixed."""
    for option in shared.given_on_command_line(*_OF_SPECS):
        raise OptionError(
            f"{option} needs a distiller's spec, got an artifact; leave it out"
        )


def _prepared(
    audited: str,
    data: dd_plugins.RealData,
    options: dict[str, Any],
    comparisons: Sequence[str],
    epsilons: Sequence[float],
    delta: float,
) -> tuple[Membership, list[AbstractMechanism]]:
    """Return a spec's membership game, and its mechanisms, the audited one first."""
    if "/" in audited or audited.endswith(".safetensors"):
        raise OptionError(
            f"expected an artifact or a distiller's spec, got {audited}, which does "
            "not exist"
        )
    spec = repr(dd_plugins.get_distiller(audited))
    membership = membership_for_mechanism(
        data,
        members=options["members"],
        canaries=options["canaries"],
        targets=options["targets"],
        shadows=options["shadows"],
        non_members=options["non_members"],
        seed=options["seed"],
    )
    mechanism = Distillation(
        spec,
        options["device"],
        RunOptions(
            distiller=spec,
            images_per_class=counts_of_classes(
                options["images_per_class"], data.train.labels, data.num_classes
            ),
            steps=options["steps"],
            network=options["network"],
            initial_images=options["initial_images"],
            parametrization=options["parametrization"],
        ),
        training_steps=options["training_steps"],
        relabelling=_relabelling(options["teacher"], options["teacher_recipe"]),
    )
    others = [
        other
        for name in comparisons
        for other in compared_with(name, mechanism, data, options, epsilons, delta)
    ]
    return membership, [mechanism, *others]


def _relabelling(teacher: str | None, recipe: str | None) -> Relabelling | None:
    """Return how a teacher labels the sets of a spec, if it is asked for."""
    if teacher is None:
        if recipe is not None:
            raise OptionError("--teacher-recipe needs --teacher")
        return None
    network = repr(dd_plugins.get_network(teacher))
    return Relabelling((network,), recipe and repr(get_recipe(recipe)))


def _prepared_artifact(
    audited: str, data: dd_plugins.RealData, options: dict[str, Any]
) -> tuple[Membership, list[AbstractMechanism]]:
    """Return the membership game of an artifact, and the artifact as a mechanism."""
    distilled = dd_plugins.DistilledSet.load(audited)
    record = distilled.header.dataset
    if record.fingerprint not in ("", data.fingerprint):  # a private set has none
        raise OptionError(
            f"{audited} needs the training images that it was distilled from, those of "
            f"{record.name!r}, got those of {data.name!r}"
        )
    # Its teacher was trained on these images, not on those of a run.
    distilled = labels_stored(distilled, data=data, device=options["device"])
    initial = distilled.header.initial_indices
    membership = membership_for_artifact(
        data,
        None if initial is None else torch.tensor(initial),
        members=min(options["members"], len(data.train.labels)),
        shadows=options["shadows"],
        seed=options["seed"],
    )
    steps = options["training_steps"]
    return membership, [GivenSet(str(audited), options["device"], distilled, steps)]


def _audited(
    runs: Runs,
    mechanisms: Sequence[AbstractMechanism],
    attacks: Sequence[str] | None,
    rates: Sequence[float],
    delta: float,
    processes: int,
    dataset: str,
) -> Audit:
    """Audit with a progress display, after a line about how long it takes."""
    with shown_progress("timing a run") as progress:

        def on_plan(missing: int, total: int, seconds: float) -> None:
            progress.line(
                f"{total} runs, {total - missing} of them kept from before; about "
                f"{duration(seconds)} for the rest",
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
            on_progress=lambda done, total: progress.update("runs", done, total),
        )
