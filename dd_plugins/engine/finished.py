"""The result of a run: the set as it is, and its header."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.returned import (
    check_labels,
    check_privacy,
    check_recipe,
    check_teacher,
)
from dd_plugins.distillers.state import AbstractState
from dd_plugins.engine.beginning import Beginning
from dd_plugins.networks.base import architectures_built
from dd_plugins.runtime.memory import bytes_of
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import DataRecord, make_header
from dd_plugins.synthetic.leaves import Leaves, Synthetic
from dd_plugins.synthetic.parametrizations.base import AbstractReadable
from dd_plugins.synthetic.privacy_record import PrivacyRecord
from dd_plugins.training.view_labels import bytes_of_labels

__all__ = ["bytes_of_set", "finished_set", "stored_views"]


def finished_set(
    beginning: Beginning,
    synthetic: Synthetic,
    state: AbstractState,
    steps: int,
    plugin_versions: Mapping[str, str],
    architectures: Collection[str] = (),
) -> DistilledSet:
    """Return the set as it is now.

    Args:
        beginning: the start of the run.
        synthetic: the set as it is now.
        state: the state of the distiller.
        steps: the number of steps done.
        plugin_versions: the versions of the distributions whose plugins took part.
        architectures: the names of the architectures whose networks took part.
    """
    run, settled = beginning.run, beginning.settled
    distiller, data = settled.distiller, settled.data
    leaves = synthetic.decode()
    images = leaves.pixels.detach().cpu().contiguous().clone()
    count, num_classes = len(images), run.task.num_classes
    took_part = set(architectures)
    teacher = None
    with architectures_built(took_part):
        labels = distiller.labels(state, leaves)
        if steps == run.steps:  # an unfinished set needs no views
            teacher = check_teacher(
                distiller, distiller.teacher(state, leaves), distiller.label_kind
            )
    kind = distiller.label_kind
    labels = check_labels(distiller, labels, count, num_classes, "labels", kind)
    learned = leaves.detached().others
    recipe = check_recipe(distiller, distiller.recipe(run.task, count, learned))
    initial_classes, initial_indices = beginning.history()
    options = replace(settled.options, steps=steps)
    header = make_header(
        dict(plugin_versions),
        beginning.transform,
        options,
        label_kind=distiller.label_kind,
        class_names=list(data.class_names),
        initial_classes=initial_classes,
        initial_indices=initial_indices,
        initial_images=options.initial_images if len(beginning.classes) else None,
        options={name: repr(value) for name, value in distiller.options().items()},
        evaluation_network=repr(settled.network.for_evaluation()),
        architectures=sorted(took_part),
        recipe=repr(recipe),
        learned={name: each.flatten().tolist() for name, each in learned.items()},
        dataset=DataRecord(
            name=data.name,
            fingerprint="" if distiller.private else data.fingerprint,
            train_images=len(data.train.labels),
            image_size=data.image_size,
        ),
        views=None if teacher is None else teacher.record(),
        privacy=_privacy(beginning, check_privacy(distiller, distiller.privacy(state))),
        context=beginning.context_record,
        **beginning.budget(synthetic),
    )
    distilled = DistilledSet(
        images, labels.detach().cpu().clone(), beginning.transform, header
    )
    if teacher is not None and teacher.stores_labels:
        views = teacher.all_labels(leaves.pixels.detach(), mirror=data.mirror)
        distilled = replace(distilled, view_labels=views.cpu())
    if not _stores_parameters(beginning):
        return distilled
    stored = {
        name: each.cpu().contiguous().clone()  # a later step changes these in place
        for name, each in synthetic.stored().items()
    }
    constants = {name: each.cpu() for name, each in synthetic.constants().items()}
    return replace(distilled, stored=stored, decoder=constants)


def stored_views(
    distiller: AbstractDistiller[Any], state: AbstractState, leaves: Leaves
) -> int:
    """Return the number of views whose labels are stored with the finished set."""
    found = distiller.teacher(state, leaves)
    teacher = check_teacher(distiller, found, distiller.label_kind)
    return 0 if teacher is None or not teacher.stores_labels else teacher.views.count


def bytes_of_set(
    beginning: Beginning, synthetic: Synthetic, state: AbstractState
) -> int:
    """Return the bytes of the finished set's tensors, without those of the map."""
    leaves = synthetic.decode()
    images = leaves.pixels.nbytes
    if _stores_parameters(beginning):
        images = bytes_of(synthetic.stored()) + bytes_of(synthetic.constants())
    views = stored_views(beginning.settled.distiller, state, leaves)
    of_views = bytes_of_labels(views, *leaves.labels.shape)
    return images + leaves.labels.nbytes + of_views


def _stores_parameters(beginning: Beginning) -> bool:
    """Return whether the file holds parameters in place of the decoded images."""
    readable = isinstance(beginning.settled.parametrization, AbstractReadable)
    return readable and beginning.context is None


def _privacy(beginning: Beginning, own: PrivacyRecord | None) -> PrivacyRecord | None:
    """Return the guarantee of the whole set, with that of the nearest private context.

    It stands at any depth, and has those of its own contexts added.
    """
    context = beginning.context_record
    if own is None or context is None:
        return own
    records = [header.privacy for header in context.header.lineage]
    nearest = next(filter(None, records), None)
    return own if nearest is None else own.together_with(nearest)
