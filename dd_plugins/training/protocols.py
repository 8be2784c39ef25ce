"""Protocols for training networks on a distilled set: by name or by recipe."""

from dataclasses import replace
from typing import Literal, cast, get_args

import torch

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.views import get_views
from dd_plugins.training.recipes import (
    Recipe,
    classic_recipe,
    default_recipe,
    frepo_recipe,
    get_recipe,
    training_steps,
)
from dd_plugins.training.teacher import Teacher
from dd_plugins.training.train import TrainingSet
from dd_plugins.training.view_labels import ViewLabels

__all__ = ["MOST_STEPS", "ProtocolName", "as_protocol", "recipe_for", "training_set_of"]

ProtocolName = Literal["auto", "family", "frepo", "classic", "retrieval"]
"""How networks are trained on a distilled set, and scored."""

_FAMILY_IMAGES = 100  # assumed by the steps of a family's recipe

MOST_STEPS = 100_000
"""The most training steps an artifact may ask for by itself."""


def as_protocol(protocol: str | Recipe) -> ProtocolName | Recipe:
    """Return the name of a protocol, or the recipe of a spec.

    Raises:
        OptionError: the value is neither, or an option of the recipe is out of range.

    Example:
        >>> as_protocol("recipe(steps=300)")
        recipe(steps=300)
    """
    if isinstance(protocol, Recipe):
        return protocol
    for name in get_args(ProtocolName):
        if protocol == name:
            return cast(ProtocolName, name)
    if not isinstance(protocol, str) or not protocol.startswith(Recipe.name):
        raise OptionError(
            f"protocol: expected {', '.join(get_args(ProtocolName))} or a recipe, such "
            f"as 'recipe(steps=300)', got {protocol!r}"
        )
    return get_recipe(protocol)


def recipe_for(
    distilled: DistilledSet,
    protocol: ProtocolName | Recipe = "auto",
    network: AbstractNetwork | None = None,
) -> Recipe:
    """Return the recipe for training networks on a distilled set.

    Args:
        distilled: the set.
        protocol: ``"frepo"`` or ``"classic"`` (see :mod:`dd_plugins.training.recipes`);
            ``"auto"`` or ``"retrieval"`` for the recipe in the set's header, chosen by
            its method; ``"family"`` for the recipe of the network's family
            (``few_images_recipe``), with steps for the number of images. For a set with
            views, labelled by a teacher, the family gives only the optimizer. A recipe
            is returned unchanged.
        network: the architecture, for ``"family"``; without a family recipe, the set's
            own is returned.

    Raises:
        OptionError: this version does not know the recipe in the header, or it has more
            steps than an artifact may ask for.
    """
    if isinstance(protocol, Recipe):
        return protocol
    if protocol == "family" and network is not None and network.few_images_recipe:
        return _family_recipe(distilled, get_recipe(network.few_images_recipe))
    count = len(distilled)
    if protocol == "frepo":
        return frepo_recipe(count)
    if protocol == "classic":
        return classic_recipe(count)
    usual = default_recipe(distilled.header.label_kind, count)
    if distilled.header.recipe is None:
        return usual
    own = get_recipe(distilled.header.recipe)
    if own.steps > max(MOST_STEPS, 10 * usual.steps):
        raise OptionError(
            f"the artifact asks for {own.steps:,} training steps, expected at most "
            f"{max(MOST_STEPS, 10 * usual.steps):,}; if they are wanted, name its "
            f"recipe by --protocol: {own!r}"
        )
    return own


def _family_recipe(distilled: DistilledSet, family: Recipe) -> Recipe:
    """Return the recipe of a family for a set.

    Its steps are for a hundred images; for other numbers they are scaled in proportion
    to FRePo's table.
    """
    if distilled.header.views is not None:
        own = recipe_for(distilled)
        share = family.warm_up / family.steps
        return replace(
            own,
            optimizer=family.optimizer,
            learning_rate=family.learning_rate,
            weight_decay=family.weight_decay,
            warm_up=round(share * own.steps),
        )
    scale = training_steps(len(distilled)) / training_steps(_FAMILY_IMAGES)
    return replace(
        family,
        steps=max(1, round(scale * family.steps)),
        warm_up=round(scale * family.warm_up),
    )


def training_set_of(
    distilled: DistilledSet,
    *,
    device: torch.device,
    teacher: Teacher | None = None,
) -> TrainingSet:
    """Return the training set of a distilled set.

    Args:
        distilled: the set.
        device: the device of its tensors.
        teacher: labels the views of the images; None if their labels are stored.
            Without either, networks are trained on the labels of the images.
    """
    images = distilled.images.to(device)
    return TrainingSet(
        images.contiguous(memory_format=torch.channels_last),
        distilled.labels.to(device),
        distilled.header.label_kind,
        distilled.header.mirror,
        _views_of(distilled, device, teacher),
    )


def _views_of(
    distilled: DistilledSet,
    device: torch.device,
    teacher: Teacher | None,
) -> ViewLabels | None:
    """Return the labels of a set's views, stored or made by its teacher."""
    record, stored = distilled.header.views, distilled.view_labels
    if record is None or (stored is None and teacher is None):
        return None
    mirror = distilled.header.mirror
    if stored is not None:
        near = stored.to(device)
        return ViewLabels(
            get_views(record.views), lambda images, number: near[number], mirror
        )
    assert teacher is not None
    return teacher.view_labels(mirror=mirror)
