"""One distillation of a memory: fewer images, in the value space of the model."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dd_plugins
from dd_avalanche.memory.options import MemoryOptions
from dd_avalanche.memory.pool import ImagePool
from dd_avalanche.memory.randomness import untouched_randomness
from dd_avalanche.memory.stored import ClassImages, ImageGroups
from dd_plugins.api import (
    DistilledSet,
    Estimate,
    Header,
    Transform,
    estimate,
    resolve_device,
)

__all__ = ["Distillate", "as_distilled_set", "distil", "unit_range"]


class Distillate(NamedTuple):
    """The images and labels of a distillation.

    Attributes:
        images: in the value space of the model, as they are stored: grids, if they are
            packed.
        labels: float, scores of ``label_classes``.
        classes: the class of each image, as an index into ``label_classes``.
        label_classes: the classes scored by the labels.
        header: the header of the distilled set.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor
    label_classes: tuple[int, ...]
    header: Header

    def of_class(self, label: int, seen: int, options: MemoryOptions) -> ClassImages:
        """Return the images of a class as a memory with these options stores them.

        Args:
            label: the class.
            seen: the number of real images of the class so far.
            options: the options of the memory.
        """
        chosen = self.classes == self.label_classes.index(label)
        return ClassImages.of(
            self.images[chosen.view(len(self.images), -1)[:, 0]],
            options.store,
            labels=self.labels[chosen].contiguous(),
            label_classes=self.label_classes,
            label_kind=options.label_kind,
            seen=seen,
        )


def distil(
    pool: ImagePool,
    present: Sequence[int],
    counts: Sequence[int],
    *,
    options: MemoryOptions,
    seed: int,
    context: ImageGroups,
    last: Header | None,
) -> Distillate:
    """Distil the images of a pool.

    Args:
        pool: the images and their classes, in the value space of the model.
        present: all classes of the pool and the context, sorted.
        counts: images of each present class; ignored for classes of the context.
        options: the options of the memory: its distiller, value space and others.
        seed: the seed of the distillation.
        context: stored images for the distiller to see together with the new ones.
        last: the header of the previous distillation; needed if there is a context.
    """
    method, label_classes = options.method, options.label_classes(list(present))
    data = _as_data(pool, present, label_classes, options)
    transform = data.transform
    assert transform is not None
    scale = _label_scale(method, len(label_classes))
    beside = None
    if context:
        assert last is not None
        beside = as_distilled_set(
            context,
            transform(context.images()),
            transform,
            label_classes,
            last,
            label_scale=scale,
        )
    absent = [1] * (len(label_classes) - len(counts))  # no real images: none is made
    equal = counts[0] if len(set(counts)) == 1 else None
    asked = options.run_options(
        equal or (*counts, *absent), seed, refine_context=beside is not None
    ).arguments()
    # Pass the records themselves: one that no plugin registers has no spec.
    asked |= {"distiller": method, "network": options.network}
    with untouched_randomness(resolve_device(options.device)):
        if options.most_seconds is not None and method.moves_images:
            started = time.perf_counter()
            found = estimate(data, **asked, context=beside, device=options.device)
            asked["steps"] = _steps_within(
                options.most_seconds - (time.perf_counter() - started), found
            )
        distilled = dd_plugins.distill(
            data, **asked, context=beside, device=options.device
        )
    return Distillate(
        _as_stored(distilled),
        distilled.labels / scale,
        torch.tensor(distilled.header.initial_classes),
        tuple(label_classes),
        distilled.header,
    )


def _steps_within(seconds: float, found: Estimate) -> int:
    """Return how many of the steps fit into these seconds: at least one."""
    left = seconds - found.preparation_seconds
    return max(1, min(found.steps, int(left / max(found.step_seconds, 1e-9))))


def _as_stored(distilled: DistilledSet) -> Tensor:
    """Return a set's images, or packed grids, in the value space of the model."""
    transform = distilled.transform
    if "grids" not in distilled.stored:
        return transform.invert(distilled.images)
    mean, deviation = transform.mean, transform.deviation
    return distilled.stored["grids"] * deviation[:, None, None] + mean[:, None, None]


def _as_data(
    pool: ImagePool,
    present: Sequence[int],
    label_classes: Sequence[int],
    options: MemoryOptions,
) -> dd_plugins.RealData:
    """Return the images as real data, in the space of the distillation.

    This is the value space of the model, or its ZCA-whitened form.
    """
    fitted = None
    if isinstance(options.whitening, Tensor):
        fitted = options.whitening.float().cpu()
    elif options.whitening == "experience":
        fitted = pool.parts[0]  # the pool holds copies of stored images as well
    indices = torch.zeros(max(present) + 1, dtype=torch.int64)
    indices[list(present)] = torch.arange(len(present))
    images = pool.images()
    data = dd_plugins.RealData.from_values(
        # A tensor is whitened once; gathered images would be whitened at each draw.
        images if fitted is None else images[:],
        indices[pool.labels],
        class_names=_names(label_classes),
        name="experience",
        mirror=options.mirror,
    )
    if fitted is None:
        return data
    return data.with_transform(Transform.fit(fitted, "zca"))


def as_distilled_set(
    groups: ImageGroups,
    images: Tensor,
    transform: Transform,
    label_classes: Sequence[int],
    header: Header,
    *,
    label_scale: float = 1.0,
) -> DistilledSet:
    """Return stored images as a distilled set.

    Args:
        groups: the stored images, of one task.
        images: the same images in the value space of the set.
        transform: the map to that space.
        label_classes: the classes scored by the labels of the set.
        header: the header of the images' distillation.
        label_scale: the factor for stored labels.
    """
    classes = [label_classes.index(int(label)) for label in groups.each("label")]
    updated = header.of_pixels(classes, images.numel()).model_copy(
        update={
            "value_space": transform.kind,
            "transform_stride": transform.stride,
            "class_names": _names(label_classes),
            "context": None,  # images of several experiences have no single history
        }
    )
    labels = groups.labels(label_classes) * label_scale
    return DistilledSet(images, labels, transform, updated)


def unit_range(values: Tensor) -> Transform:
    """Return the transform whose inverse maps these values to pixels from 0 to 1."""
    low, high = (float(value) for value in values.aminmax())
    scale, channels = (high - low) or 1.0, values.shape[1]
    return Transform(
        torch.full((channels,), -low / scale), torch.full((channels,), 1 / scale)
    )


def _names(classes: Sequence[int]) -> list[str]:
    return [f"class {label}" for label in classes]


def _label_scale(method: dd_plugins.AbstractDistiller[Any], classes: int) -> float:
    """Return how much larger a method's labels are than centred targets.

    FRePo divides labels by ``sqrt(classes / 10)``: an experience of two classes has a
    scale 2.2 times as large as one of ten. In a memory all labels have the same scale.
    """
    if method.label_kind != "regression":
        return 1.0
    first = method.initial_labels(torch.zeros(1, dtype=torch.int64), classes)
    return float(first[0, 0]) / (1 - 1 / classes)
