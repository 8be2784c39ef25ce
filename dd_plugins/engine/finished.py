"""The result of a run: the set as it is, and its header."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from dd_plugins.distillers.returned import (
    check_labels,
    check_privacy,
    check_recipe,
    check_teacher,
)
from dd_plugins.distillers.state import AbstractState
from dd_plugins.engine.beginning import Beginning
from dd_plugins.networks.base import architectures_built
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import DataRecord, make_header
from dd_plugins.synthetic.leaves import Synthetic
from dd_plugins.synthetic.parametrizations.base import AbstractReadable
from dd_plugins.synthetic.privacy_record import PrivacyRecord

__all__ = ["finished_set"]


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
    if teacher is not None and (teacher.stored or not teacher.kept):
        views = teacher.all_labels(leaves.pixels.detach(), mirror=data.mirror)
        distilled = replace(distilled, view_labels=views.cpu())
    if beginning.context is not None or not isinstance(
        settled.parametrization, AbstractReadable
    ):
        return distilled
    stored = {
        name: each.cpu().contiguous().clone()  # a later step changes these in place
        for name, each in synthetic.stored().items()
    }
    constants = {name: each.cpu() for name, each in synthetic.constants().items()}
    return replace(distilled, stored=stored, decoder=constants)


def _privacy(beginning: Beginning, own: PrivacyRecord | None) -> PrivacyRecord | None:
    """Return the guarantee of the whole set, with that of the nearest private context.

    It stands at any depth, and has those of its own contexts added.
    """
    context = beginning.context_record
    while own is not None and context is not None:
        if context.header.privacy is not None:
            return own.together_with(context.header.privacy)
        context = context.header.context
    return own
