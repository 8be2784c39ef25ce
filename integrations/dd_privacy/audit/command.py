"""The command ``dd-plugins audit``: its options."""

from typing import Any, get_args

import click

from dd_plugins import options as shared
from dd_privacy.audit.choices import (
    ALL_STEPS,
    COMPARISONS,
    DEFAULT_ATTACKS,
    DELTA,
    RATES,
    NonMembers,
)

__all__ = ["audit_command"]


@click.command("audit")
@click.argument("audited", metavar="PATH|SPEC")
@click.option(
    "--dataset",
    help="Name, or folder:PATH.  [default: the data behind the artifact]",
)
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
    default=ALL_STEPS,
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
    "--html",
    "html_file",
    type=shared.path_type,
    help="Write the report here. It shows training images: keep it as you keep them.",
)
@shared.overwrite
@shared.data_root
@shared.download
@shared.image_size
@shared.device
def audit_command(**options: Any) -> None:
    """Audit a distilled set for leakage of its training images.

    A distiller's spec is run on members drawn at random; an artifact is audited as it
    is. Attacks that need shadow runs repeat the whole distillation on other members.
    Runs are kept, and a stopped audit resumes when it is started again.
    """
    from dd_privacy.audit.from_command_line import audit_from_command_line

    audit_from_command_line(**options)
