"""Relabelling: a teacher labels the views of any set."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from dd_plugins.data.draws import sampler_of
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, OptionError, one_line
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.teacher_of_set import (
    prepared_for,
    run_and_sampler_for_teachers,
    space_shared_with,
    teacher_of,
)
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, has_batch_norm
from dd_plugins.networks.factory import NetworkLike, is_factory
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.device import plain_torch, resolve_device
from dd_plugins.runtime.progress import OnProgress, part_of
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.artifact import DistilledSet, as_set
from dd_plugins.synthetic.header import current_header
from dd_plugins.synthetic.labels import one_hot
from dd_plugins.synthetic.views import Views, get_views
from dd_plugins.training.default_steps import SQUEEZE_STEPS
from dd_plugins.training.kept_networks import TrainedNetwork
from dd_plugins.training.kept_sequence import KeptNetworks
from dd_plugins.training.recipes import (
    Recipe,
    get_recipe,
    post_training_recipe,
    squeeze_recipe,
)
from dd_plugins.training.teacher import Teacher, check_labelling
from dd_plugins.training.view_labels import check_room_for_labels

__all__ = ["labels_stored", "relabel"]

_SHOWN_TO = 2  # images with which a module's outputs are checked

TeacherSpec = NetworkLike | nn.Module


def relabel(
    distilled: DistilledSet | str | Path,
    teachers: TeacherSpec | Sequence[TeacherSpec],
    *,
    teacher_recipe: str | Recipe | None = None,
    views: str | Views = "views(count=300, mix='cutmix')",
    temperature: float = 20.0,
    group: int | None = None,
    store_labels: bool = False,
    student: str | Recipe | None = None,
    data: "RealData | str | tuple[Tensor, Tensor] | Dataset[Any] | None" = None,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    plugins: Plugins | None = None,
    on_progress: OnProgress | None = None,
) -> DistilledSet:
    """Return a set of the same images, with views labelled by a teacher.

    Networks trained on the result see a different view of each image in every epoch,
    with the teacher's label of this view. The images themselves get the labels of their
    classes; learned labels are lost.

    Args:
        distilled: any set, or the path of an artifact or of a run's folder.
        teachers: one or more networks; their logits are averaged. An architecture, or
            its spec, is trained on the real data, or found among kept networks. A
            module, in evaluation mode, maps images in the value space of the set to
            logits; its labels are stored. A copy of it labels if it is on another
            device.
        teacher_recipe: how architectures are trained: a recipe or its spec; by default
            1,000 steps of SGD (:func:`~dd_plugins.training.recipes.squeeze_recipe`).
        views: the views of the images, or their spec.
        temperature: the divisor of the logits before the softmax, above 0.
        group: the number of views, at least 2, in a group for BatchNorm's statistics;
            None for the statistics of the real data.
        store_labels: whether the set holds the labels of all views, float16
            ``(views, n, classes)``; else it only names
            the teachers, and they must be kept wherever networks are trained on the
            set.
        student: how networks are trained on the set: a recipe or its spec; by default
            AdamW for 300 epochs (:func:`~dd_plugins.training.recipes.\
post_training_recipe`).
        data: the real data, in any form accepted by :func:`~dd_plugins.distill`; by
            default found by the name in the artifact.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        device: the device for training the teachers and for labelling.
        plugins: where names are looked up; by default all installed plugins.
        on_progress: called after each training step with the teacher, the work done and
            all work, in seconds, estimated from a few timed steps of each.

    Raises:
        OptionError: an option is out of its range; a teacher has other classes than the
            set; labels to store do not fit into memory.
        UnknownNameError: no plugin registers a name.
        FileError: the artifact, or a kept network, cannot be read.
        DataError: the real data cannot be read, or is not the set's.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", "random")
        >>> teacher = dd_plugins.get_network("mlp(width=8)")
        >>> taught = relabel(distilled, teacher, teacher_recipe="recipe(steps=5)")
        >>> taught.header.views.teacher.network
        'mlp(width=8)'
    """
    plugins, target = plugins or loaded_plugins(), resolve_device(device)
    distilled = as_set(distilled)
    distilled = replace(distilled, header=current_header(distilled))
    views = get_views(views) if isinstance(views, str) else views
    student = get_recipe(student) if isinstance(student, str) else student
    _check_labels(distilled, temperature, group, student)
    chosen = _listed(teachers)
    given = _modules_among(chosen, teacher_recipe)
    store_labels = store_labels or bool(given)
    if store_labels:
        check_room_for_labels(views.count, *distilled.labels.shape)
    kept: tuple[TrainedNetwork, ...] = ()
    if given:
        modules: Sequence[nn.Module] = [_on(each, target) for each in given]
    else:
        kept = _kept_teachers(chosen, teacher_recipe, plugins)
        for each in kept:
            _check_group(each.network, group, distilled)
        real_data = real_data_of(
            distilled, data, data_root, plugins.real_data, download=download
        )
        modules = _trained(kept, distilled, real_data, target, on_progress)
    records = tuple(each.record() for each in kept)
    teacher = Teacher(modules, views, temperature, group, records, store_labels)
    return _relabelled(distilled, teacher, student, target)


def _check_labels(
    distilled: DistilledSet,
    temperature: float,
    group: int | None,
    student: Recipe | None,
) -> None:
    """Refuse labels that a set cannot take, or its networks would misread.

    Raises:
        OptionError: the set is private; the student learns at another temperature; or
            the temperature or the group is out of its range.
    """
    if distilled.header.privacy is not None:
        raise OptionError(
            "a private set must keep its own labels: those of a teacher are not "
            "covered by its epsilon"
        )
    if student is not None and student.temperature != temperature:
        raise OptionError(
            f"the student must learn at the temperature of the labels, {temperature}, "
            f"got {student.temperature}; write temperature={temperature:g} in its "
            "recipe, or ask for labels of the other temperature"
        )
    check_labelling(temperature, group)


def _listed(teachers: Any) -> list[TeacherSpec]:
    """Return one teacher, or several, as a list."""
    single = isinstance(teachers, str | AbstractNetwork | nn.Module)
    return [teachers] if single or is_factory(teachers) else list(teachers)


def _modules_among(
    teachers: Sequence[TeacherSpec], teacher_recipe: str | Recipe | None
) -> list[nn.Module]:
    """Return the teachers if they are modules; none if they are to be trained.

    Raises:
        OptionError: there are no teachers, or of both kinds, or a recipe for modules.
    """
    if not teachers:
        raise OptionError("expected at least one teacher, got none")
    given = [each for each in teachers if isinstance(each, nn.Module)]
    if given and len(given) < len(teachers):
        raise OptionError("expected specs of teachers or modules, got both")
    if given and teacher_recipe is not None:
        raise OptionError("modules are trained already: leave teacher_recipe out")
    return given


def _kept_teachers(
    teachers: Sequence[TeacherSpec],
    teacher_recipe: str | Recipe | None,
    plugins: Plugins,
) -> tuple[TrainedNetwork, ...]:
    """Return the keys of the teachers among kept networks.

    Raises:
        OptionError: a teacher is named twice, or the recipe is malformed.
        UnknownNameError: no plugin registers a name.
    """
    names = [each for each in teachers if not isinstance(each, nn.Module)]
    recipe = teacher_recipe or squeeze_recipe(SQUEEZE_STEPS)
    recipe = get_recipe(recipe) if isinstance(recipe, str) else recipe
    networks = plugins.network_list(names)
    if len({repr(each) for each in networks}) < len(networks):
        raise OptionError("teachers must differ: name each once")
    for network in networks:
        if not network.is_identified:
            raise OptionError(
                f"a teacher is kept in a file, but the function of {network!r} holds "
                "an object of unknown content, such as a lock; make it in the function"
            )
    return tuple(TrainedNetwork(each, recipe) for each in networks)


def _on(module: nn.Module, device: torch.device) -> nn.Module:
    """Return a module on a device: itself, or a copy if any of it is elsewhere."""
    place = torch.empty(0, device=device).device  # with the number of a GPU
    held = [*module.parameters(), *module.buffers()]
    if all(each.device == place for each in held):
        return module
    return copy.deepcopy(module).to(device)


@plain_torch()
def _trained(
    wanted: Sequence[TrainedNetwork],
    distilled: DistilledSet,
    data: RealData,
    device: torch.device,
    on_progress: OnProgress | None,
) -> KeptNetworks:
    """Return networks trained on the real data in the value space of a set.

    Raises:
        DataError: the data is not that of the set.
        OptionError: the data gives another value space than the set has.
    """
    if data.fingerprint != distilled.header.dataset.fingerprint:
        raise DataError(
            f"{data.name} is not the data that the set was distilled from, by "
            "which a teacher is found again; give a trained module, whose labels "
            "are stored"
        )
    folder = cache_folder()
    run, real = run_and_sampler_for_teachers(distilled, data, device)
    prepared = prepared_for(distilled, data)
    transform = space_shared_with(distilled, prepared)
    if transform is None:
        raise OptionError(
            "the set maps images to another value space than its data gives, for which "
            "no teacher is trained; give a trained module"
        )
    if not all(each.is_kept(run, real, folder) for each in wanted):
        _, real = sampler_of(
            prepared,
            seed=0,
            device=device,
            precision=run.precision,
            transform=transform,
        )
    seconds = [
        each.seconds(run, real, folder) if on_progress is not None else 0.0
        for each in wanted
    ]
    before, total = 0.0, sum(seconds)
    for each, share in zip(wanted, seconds, strict=True):
        step, what = share / each.training_steps, f"teacher {each.network!r}"
        on_step = part_of(on_progress, what, before, total, step)
        each.obtain(run, real, folder, on_step)
        before += share
    return KeptNetworks(wanted, run, real, folder)


def _check_group(
    network: AbstractNetwork, group: int | None, distilled: DistilledSet
) -> None:
    """Refuse groups for a teacher without BatchNorm, before it is trained."""
    if group is None:
        return
    channels, height, width = distilled.images.shape[1:]
    shape = network.build(
        (channels, height, width), 2, generator=generator_for(0, "shape")
    )
    if not has_batch_norm(shape):
        raise OptionError(
            f"{network!r} is a teacher without BatchNorm, and has no statistics of "
            "groups to take; leave the group out"
        )


@plain_torch()
def _relabelled(
    distilled: DistilledSet,
    teacher: Teacher,
    student: Recipe | None,
    device: torch.device,
) -> DistilledSet:
    """Return a set with the labels of a teacher."""
    header, count = distilled.header, len(distilled)
    classes = torch.tensor(header.initial_classes)
    num_classes = len(header.class_names)
    images = distilled.images.to(device)
    for module in teacher.modules:
        if module.training:
            raise OptionError(
                "a teacher must be in evaluation mode, got one in training mode; call "
                "its eval()"
            )
        _check_outputs(module, images[:_SHOWN_TO], num_classes)
    labels = None
    if teacher.stored:
        labels = teacher.all_labels(images, mirror=header.mirror).cpu()
    names = set(header.architectures or ())
    if not teacher.kept:  # the record names kept ones
        names |= {name for module in teacher.modules for name in _architectures(module)}
    student = student or post_training_recipe(count, temperature=teacher.temperature)
    changes = {
        "label_kind": "probabilities",
        "architectures": sorted(names) or header.architectures,
        "views": teacher.record(),
        "recipe": repr(student),
    }
    return replace(
        distilled,
        labels=one_hot(classes, num_classes),
        header=header.model_copy(update=changes),
        view_labels=labels,
    )


def _architectures(module: nn.Module) -> set[str]:
    """Return the architectures in a module, or its class if there are none."""
    inside = module.modules()
    found = {each.architecture for each in inside if isinstance(each, FeatureNetwork)}
    return found or {type(module).__name__}


@torch.no_grad()
def _check_outputs(module: nn.Module, images: Tensor, num_classes: int) -> None:
    """Refuse a teacher for images or classes other than those of a set."""
    try:
        logits = module(images)
    except RuntimeError as error:
        reason = one_line(error)
        raise OptionError(
            f"the teacher takes no images of shape {tuple(images.shape[1:])} like "
            f"those of the set: {reason}"
        ) from error
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (len(images), num_classes):
        raise OptionError(
            f"a teacher must give {num_classes} logits for each image, one for each "
            f"class of the set, got an output of shape {shape} for {len(images)} images"
        )


@plain_torch()
def labels_stored(
    distilled: DistilledSet | str | Path,
    *,
    data: "RealData | str | tuple[Tensor, Tensor] | Dataset[Any] | None" = None,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    plugins: Plugins | None = None,
) -> DistilledSet:
    """Return a set with the labels of its views stored, made by its kept teacher.

    A set without views, or with these labels already, is returned as it is.

    Args:
        distilled: the set, or the path of an artifact or of a run's folder.
        data: the real data, as for :func:`relabel`.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        device: the device of the teacher.
        plugins: where names are looked up; by default all installed plugins.

    Raises:
        OptionError: the teacher is not kept here, or the labels do not fit into memory.
        UnknownNameError: no plugin registers a name.
        FileError: the artifact, or a kept network, cannot be read.
        DataError: the real data cannot be read, or is not the set's.
    """
    distilled = as_set(distilled)
    if distilled.header.views is None or distilled.view_labels is not None:
        return distilled
    plugins, target = plugins or loaded_plugins(), resolve_device(device)
    real_data = real_data_of(
        distilled, data, data_root, plugins.real_data, download=download
    )
    teacher = teacher_of(distilled, real_data, plugins.network, target)
    assert teacher is not None  # a file without labels names it
    check_room_for_labels(teacher.views.count, *distilled.labels.shape)
    with torch.no_grad():
        images = distilled.images.to(target)
        labels = teacher.all_labels(images, mirror=distilled.header.mirror)
    header = current_header(distilled)
    return replace(distilled, view_labels=labels.cpu(), header=header)
