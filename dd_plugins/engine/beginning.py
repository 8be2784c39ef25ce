"""The first images of a set: real ones or noise, with a context or without."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.returned import (
    check_averaging,
    check_codec,
    check_first_images,
    check_indices,
    check_labels,
    check_learnables,
    check_stored,
)
from dd_plugins.engine.settled import Settled
from dd_plugins.errors import OptionError
from dd_plugins.run import Run
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.header import ContextRecord
from dd_plugins.synthetic.labels import as_kind
from dd_plugins.synthetic.leaves import Codec, Leaves, Synthetic
from dd_plugins.synthetic.parametrizations.base import Identity

__all__ = ["Beginning"]


@dataclass(frozen=True, eq=False)
class Beginning:
    """The start of a run.

    Attributes:
        run: the run.
        settled: its choices.
        transform: the map to the value space.
        sampler: draws of real images.
        readable: draws of images for everything but the distiller: the same, unless
            the distiller is private.
        context: the existing set to extend, or None.
        classes: int64, the class of each new image.
        chosen: int64, the indices of the training images chosen by the distiller or
            coreset, also for the classes of the context; None if the set starts from
            noise or public images.
        new: bool, True for the entries of ``chosen`` with a new image; None for all.
    """

    run: Run
    settled: Settled
    transform: Transform
    sampler: RealSampler
    readable: RealSampler
    context: DistilledSet | None
    classes: Tensor
    chosen: Tensor | None
    new: Tensor | None = None

    @classmethod
    def of(
        cls,
        run: Run,
        settled: Settled,
        transform: Transform,
        sampler: RealSampler,
        readable: RealSampler,
        context: DistilledSet | None,
    ) -> "Beginning":
        """Choose the first images of the set.

        Raises:
            OptionError: the context does not fit, or leaves nothing to distil.
            PluginError: a method of the distiller returned a wrong value.
        """
        classes, chosen = _first_images(run, settled, sampler)
        new = None
        if context is not None:
            _check_context(context, settled, transform)
            held = torch.tensor(context.header.initial_classes)
            new = ~torch.isin(classes, held)
            if not new.any() and not settled.options.refine_context:
                raise OptionError(
                    "the context must leave out at least one class, got images of all "
                    f"{run.task.num_classes}; leave out those that are to be made "
                    "anew, or refine it"
                )
            classes = classes[new]
        return cls(
            run=run,
            settled=settled,
            transform=transform,
            sampler=sampler,
            readable=readable,
            context=context,
            classes=classes,
            chosen=chosen,
            new=new,
        )

    @property
    def indices(self) -> Tensor | None:
        """The index of the training image behind each new image, int64."""
        if self.chosen is None or self.new is None:
            return self.chosen
        return self.chosen[self.new]

    def synthetic(self) -> Synthetic:
        """Return the learnable set at the start of the run."""
        run, distiller = self.run, self.settled.distiller
        count, num_classes = len(self.classes), run.task.num_classes
        images = self._images()
        labels = distiller.initial_labels(self.classes, num_classes)
        labels = check_labels(distiller, labels, count, num_classes)
        classes, fixed = self.classes, None
        if self.context is not None:
            held = torch.tensor(self.context.header.initial_classes)
            if self.settled.options.refine_context:
                images = torch.cat([self.context.images, images])
                labels = torch.cat([self._known_labels(self.context), labels])
                classes = torch.cat([held, classes])
            else:
                fixed = Leaves(
                    self.context.images.to(run.device),
                    self.context.labels.to(run.device),
                    held.to(run.device),
                )
        others = check_learnables(distiller, distiller.learnables(run))
        synthetic = Synthetic(
            images.to(run.device),
            labels.to(run.device),
            classes,
            learn_labels=distiller.learns_labels,
            others={name: each.to(run.device) for name, each in others.items()},
            codec=self._codec(),
            fixed=fixed,
            clamp=self._clamp() if distiller.bounded else None,
            averaging=check_averaging(distiller, distiller.averaging),
        )
        parametrization = self.settled.parametrization
        values = parametrization.values_per_stored(run.task.image_shape, num_classes)
        check_stored(parametrization, synthetic.stored(), values)
        return synthetic

    def _known_labels(self, context: DistilledSet) -> Tensor:
        """Return the labels of a refined context, in the kind of this method.

        Regression targets are as large as the method's own at the start.
        """
        distiller, held = self.settled.distiller, context.header.label_kind
        known = as_kind(context.labels, held, distiller.label_kind)
        if distiller.label_kind != "regression" or held == "regression":
            return known
        first = distiller.initial_labels(torch.tensor([0]), known.shape[1])
        return known * (first[0, 0] - first[0, -1])

    def history(self) -> tuple[list[int], list[int] | None]:
        """Return the class of each image, and the index of its real image.

        The images of the context come first. The indices are None if one is unknown.
        """
        classes, data = self.classes.tolist(), self.settled.data
        indices = []
        known = self.indices is not None or not classes
        if self.indices is not None:
            indices = data.train_indices[self.indices].tolist()
        if self.context is not None:
            held = self.context.header
            known &= held.dataset.fingerprint == data.fingerprint
            known &= held.initial_indices is not None
            classes = [*held.initial_classes, *classes]
            indices = [*(held.initial_indices or ()), *indices]
        return classes, indices if known else None

    @cached_property
    def context_record(self) -> ContextRecord | None:
        """The record of the context in the header of the set."""
        if self.context is None:
            return None
        hashed = {"content_hash": self.context.content_hash()}
        header = self.context.header.model_copy(update=hashed)
        return ContextRecord(refined=self.settled.options.refine_context, header=header)

    def budget(self, synthetic: Synthetic) -> dict[str, int]:
        """Return the numbers of stored images, values and decoder values."""
        stored = list(synthetic.stored().values())
        images = len(stored[0])
        values = sum(each.numel() for each in stored)
        if self.context is not None and not self.settled.options.refine_context:
            held = self.context.header
            images += held.stored_images or len(self.context)
            values += held.stored_values or self.context.images.numel()
        return {
            "stored_images": images,
            "stored_values": values,
            "decoder_values": synthetic.decoder_values,
        }

    def _images(self) -> Tensor:
        """Return the new images, in the value space."""
        if self.chosen is not None:
            chooser = _chooser(self.settled)
            found = chooser.first_images(
                self.run, self.sampler, self.chosen, self._read
            )
            shape = (len(self.chosen), *self.run.task.image_shape)
            images = check_first_images(chooser, found, shape)
            return images if self.new is None else images[self.new]
        count = len(self.classes)
        if self.settled.initial_images == "public":  # whatever their class
            generator = self.run.generator("initial public images")
            public = len(self.readable.labels)
            drawn = torch.randint(public, (count,), generator=generator)
            return self.transform(self.readable.pixels(drawn))
        shape = (count, *self.run.task.image_shape)
        noise = torch.randn(shape, generator=self.run.generator("initial noise"))
        return self.settled.distiller.noise_deviation * noise

    def _clamp(self) -> Callable[[Tensor], Tensor] | None:
        """Return the map of images into [0, 1]; None for data without pixels.

        Such data has no range of values.
        """
        transform = self.transform.to(self.run.device)
        if transform.is_identity:
            return None
        return lambda images: transform(transform.invert(images).clamp(0, 1))

    def _read(self, indices: Tensor) -> Tensor:
        """Return real images in the value space, exactly."""
        return self.transform(self.settled.data.train.images[indices])

    def _codec(self) -> Codec | None:
        """Return the codec of stored images; None if pixels are stored as they are."""
        options, parametrization = self.settled.options, self.settled.parametrization
        if options.refine_context and parametrization.name != Identity.name:
            raise OptionError(
                "a context is refined pixel by pixel: expected the parametrization "
                f"identity, got {options.parametrization}"
            )
        transform = self.transform.to(self.run.device)
        found = parametrization.codec(self.run, self.readable, transform)
        return check_codec(parametrization, found, parametrization.images_per_stored)


def _first_images(
    run: Run, settled: Settled, sampler: RealSampler
) -> tuple[Tensor, Tensor | None]:
    """Return the class of each image, and the index of the real image it starts from.

    The indices are None if the set starts from noise or public images.
    """
    task = run.task
    if not any(task.class_counts):  # a context has all images of all classes
        return torch.empty(0, dtype=torch.int64), None
    if settled.initial_images in ("noise", "public"):
        classes = torch.arange(task.num_classes)
        return classes.repeat_interleave(torch.tensor(task.class_counts)), None
    chooser = _chooser(settled)
    labels = settled.data.train.labels
    chosen = chooser.choose(run, sampler)
    indices = check_indices(chooser, chosen, labels, task.class_counts)
    return labels[indices], indices


def _chooser(settled: Settled) -> AbstractDistiller[Any]:
    """Return the chooser of the first images: a coreset, or the distiller."""
    if isinstance(settled.initial_images, str):
        return settled.distiller
    return settled.initial_images


def _check_context(
    context: DistilledSet, settled: Settled, transform: Transform
) -> None:
    """Refuse a context that the new set cannot extend."""
    header, data = context.header, settled.data
    compared = {
        "classes": (header.class_names, list(data.class_names)),
        "image shape": (tuple(context.images.shape[1:]), data.image_shape),
        "value space": (context.transform.fingerprint, transform.fingerprint),
    }
    for what, (held, wanted) in compared.items():
        if held != wanted:
            raise OptionError(f"context: expected {what} {wanted}, got {held}")
    kind = settled.distiller.label_kind
    if header.label_kind != kind and not settled.options.refine_context:
        raise OptionError(
            f"context: expected labels of kind {kind}, got {header.label_kind}; a "
            "context that is refined has its labels converted"
        )
