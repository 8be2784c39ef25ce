"""The work of the command ``dd-plugins audit``."""

import json
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import dd_plugins
from dd_plugins import options as shared
from dd_plugins.api import (
    ARTIFACT_NAME,
    DDWarning,
    OptionError,
    RunOptions,
    artifact_file,
    check_outputs,
    counts_of_classes,
    dataset_name_of,
    get_recipe,
    labels_stored,
    shown_progress,
    split_specs,
    write_atomically,
)
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.choices import RATES, Comparison
from dd_privacy.audit.comparisons import (
    compared_with,
    comparisons_of,
    refuse_unused,
)
from dd_privacy.audit.drawing import (
    membership_for_artifact,
    membership_for_mechanism,
)
from dd_privacy.audit.findings import headline
from dd_privacy.audit.mechanisms.base import AbstractMechanism
from dd_privacy.audit.mechanisms.distillation import Distillation
from dd_privacy.audit.mechanisms.given_set import GivenSet
from dd_privacy.audit.mechanisms.relabelling import Relabelling
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.report import write_report
from dd_privacy.audit.results import Audit
from dd_privacy.audit.runs import Runs, audit_folder
from dd_privacy.audit.statistics.rates import non_members_needed
from dd_privacy.audit.tables import duration, tables
from dd_privacy.console import say

__all__ = ["audit_from_command_line"]

# Options that only a distiller's spec leaves open.
_OF_SPECS = (
    *("canaries", "targets", "non_members", "images_per_class", "steps", "network"),
    *("initial_images", "parametrization", "compare", "all_steps", "all_plain"),
    *("epsilon", "image_size", "teacher", "teacher_recipe"),
)


def audit_from_command_line(
    audited: str,
    dataset: str | None,
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
    """Audit, print the findings, and write the files, by the command's options.

    Raises:
        OptionError: options contradict each other, or the data.
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
        header = dd_plugins.DistilledSet.read_header(audited)
        image_size = header.dataset.image_size
        dataset = dataset or dataset_name_of(header)
    else:
        audited = _checked_spec(audited)
    if dataset is None:
        raise OptionError(f"--dataset is needed to audit the distiller {audited}")
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
        _check_rates(membership, data, chosen_rates)
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
    """Return whether a file or a run's folder is audited, instead of a spec."""
    try:
        return Path(audited).is_file() or (Path(audited) / ARTIFACT_NAME).is_file()
    except (OSError, ValueError):  # a name that no file can have, or no permission
        return False


def _checked_spec(audited: str) -> str:
    """Return the spec of a distiller with all its options.

    Raises:
        OptionError: it is the path of a file that does not exist, or a malformed spec.
        UnknownNameError: no plugin registers the distiller.
    """
    is_call = re.fullmatch(r"\w+\(.*\)", audited, re.DOTALL)  # it may name a path
    if not is_call and ("/" in audited or audited.endswith(".safetensors")):
        raise OptionError(
            f"expected an artifact or a distiller's spec, got {audited}, which does "
            "not exist"
        )
    return repr(dd_plugins.get_distiller(audited))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    """Return the numbers of an option, each once."""
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise OptionError(
            f"{option} must be numbers separated by commas, got {text!r}"
        ) from None


def _check_rates(
    membership: Membership, data: dd_plugins.RealData, rates: Sequence[float]
) -> None:
    """Refuse a given rate if there are too few non-members for it."""
    plain = membership.scored & ~membership.canaries
    non_members = int((plain & ~membership.targets).sum(dim=1).min())
    members = int(membership.targets.sum(dim=1).min())
    for rate in rates:
        if not 0 <= rate < 1 or non_members >= non_members_needed(rate):
            continue
        if membership.by_coin or non_members == members < len(data.read_test().labels):
            found, advice = str(non_members), "ask for more --members, or a higher rate"
        else:
            found, advice = f"{non_members} test images", "choose a higher rate"
        raise OptionError(
            f"a false-positive rate of {rate:g} needs {non_members_needed(rate)} "
            f"non-members, got {found}; {advice}"
        )


def _refuse_for_artifact() -> None:
    """Refuse options whose values a finished set has fixed."""
    for option in shared.given_on_command_line(*_OF_SPECS):
        raise OptionError(
            f"{option} needs a distiller's spec, got an artifact; leave it out"
        )


def _prepared(
    spec: str,
    data: dd_plugins.RealData,
    options: dict[str, Any],
    comparisons: Sequence[Comparison],
    epsilons: Sequence[float],
    delta: float,
) -> tuple[Membership, list[AbstractMechanism]]:
    """Return a spec's membership game, and its mechanisms, the audited one first."""
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
        for other in compared_with(
            name,
            mechanism,
            data,
            all_steps=options["all_steps"],
            all_plain=options["all_plain"],
            members=options["members"],
            epsilons=epsilons,
            delta=delta,
        )
    ]
    return membership, [mechanism, *others]


def _relabelling(teacher: str | None, recipe: str | None) -> Relabelling | None:
    """Return the relabelling by a teacher; None if no teacher is given."""
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
    if not _is_behind(distilled, data):
        raise OptionError(
            f"{audited} needs the training images that it was distilled from, those of "
            f"{record.name!r}, got those of {data.name!r}"
        )
    _warn_of_whitening(distilled)
    if record.train_images == len(data.undivided().train.labels):
        data = data.undivided()  # a private distiller takes validation images too
    # Its teacher was trained on these images, not on those of a run.
    distilled = labels_stored(distilled, data=data, device=options["device"])
    steps = options["training_steps"]
    given = GivenSet(str(audited), options["device"], distilled, steps)
    if options["shadows"]:
        given.for_shadows()  # refuses a set that cannot be made again
    initial = distilled.header.initial_indices
    membership = membership_for_artifact(
        data,
        None if initial is None else torch.tensor(initial),
        members=min(options["members"], len(data.train.labels)),
        shadows=options["shadows"],
        seed=options["seed"],
    )
    return membership, [given]


def _warn_of_whitening(distilled: dd_plugins.DistilledSet) -> None:
    """Warn if a set holds a whitening of fewer images than values.

    It is close to the images it was fitted to, and maps others elsewhere.
    """
    values = math.prod(distilled.image_shape)
    images = distilled.header.dataset.train_images
    if distilled.transform.kind in ("zca", "pixel-zca") and images < values:
        warnings.warn(
            f"the set holds a whitening of {images:,} images of {values:,} values, and "
            "it tells these images from others; one distilled with --preprocessing "
            "standardize does not",
            DDWarning,
            stacklevel=2,
        )


def _is_behind(distilled: dd_plugins.DistilledSet, data: dd_plugins.RealData) -> bool:
    """Tell whether a set was distilled from this data, as far as its header knows.

    A private set does not know the images, but their shape, classes and number. A
    folder or file may have moved, but two names without a path are two data sets.
    """
    header, record = distilled.header, distilled.header.dataset
    if record.fingerprint:
        return record.fingerprint == data.fingerprint
    names = {record.name, data.name}
    return (
        (len(names) == 1 or any(":" in name for name in names))
        and header.class_names == list(data.class_names)
        and tuple(distilled.images.shape[1:]) == data.image_shape
        and record.train_images
        in (len(data.train.labels), len(data.undivided().train.labels))
    )


def _audited(
    runs: Runs,
    mechanisms: Sequence[AbstractMechanism],
    attacks: Sequence[str] | None,
    rates: Sequence[float],
    delta: float,
    processes: int,
    dataset: str,
) -> Audit:
    """Audit with a progress display, after a line with the expected duration."""
    with shown_progress("timing a run") as progress:

        def on_plan(missing: int, total: int, seconds: float) -> None:
            progress.line(
                f"{total} {'run' if total == 1 else 'runs'}, {total - missing} of them "
                "kept from before; about "
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
