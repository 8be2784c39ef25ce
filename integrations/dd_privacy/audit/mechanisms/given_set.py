"""An existing set, and the distillation for its shadow runs."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import dd_plugins
from dd_plugins.api import (
    Header,
    ImageShape,
    OptionError,
    Task,
    UnknownNameError,
)
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.distillation import Distillation
from dd_privacy.audit.mechanisms.relabelling import Relabelling
from dd_privacy.audit.mechanisms.training import trained_on, training_seconds

__all__ = ["GivenSet"]


@dataclass(frozen=True)
class GivenSet(AbstractMechanism):
    """An existing set: a run only trains a network on it.

    Shadow runs repeat the distillation recorded in its header.

    Attributes:
        distilled: the set; if a teacher labels its views, it holds these labels (see
            :func:`dd_plugins.api.labels_stored`).
        training_steps: training steps on the set; None for the protocol's number.
    """

    distilled: dd_plugins.DistilledSet | None = None
    training_steps: int | None = None

    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Release:
        """Train a network on the set."""
        del data, folder
        assert self.distilled is not None
        return trained_on(self.distilled, seed, self.device, self.training_steps)

    def description(self) -> dict[str, object]:
        """Return the hash of the set, and how a network is trained on it."""
        assert self.distilled is not None
        return {
            "mechanism": type(self).__name__,
            "content": self.distilled.content_hash(),
            "training_steps": self.training_steps,
            "device": self.device,
        }

    def records(self) -> list[dd_plugins.Record]:
        """Return the network trained on the set."""
        assert self.distilled is not None
        return [dd_plugins.get_network(self.distilled.header.evaluation_network)]

    def for_shadows(self) -> AbstractMechanism:
        """Return the recorded distillation, with the distillation of its refined set.

        Format version 1 records neither the coreset of the first images nor the
        context. Such a set starts from the distiller's default, or from noise if its
        initial images are unknown.

        Raises:
            OptionError: shadow runs cannot repeat its context, or the header lacks an
                option of its distiller.
        """
        assert self.distilled is not None
        _, channels, height, width = self.distilled.images.shape
        again = _distillation(
            self.distilled.header, (channels, height, width), self.name, self.device
        )
        relabelling = Relabelling.of_header(self.distilled.header, self.name)
        return replace(
            again, training_steps=self.training_steps, relabelling=relabelling
        )

    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Estimate how long training takes."""
        del data
        assert self.distilled is not None
        return training_seconds(self.distilled, self.device, self.training_steps)


def _distillation(
    header: Header, image_shape: ImageShape, name: str, device: str
) -> Distillation:
    """Return the distillation recorded in a header, for other members."""
    _check_options(header, image_shape, name)
    options = header.run
    if header.format_version < 2 and header.initial_indices is None:
        options = replace(options, initial_images="noise")
    refined = None
    if header.context is not None:
        _check_context(header, name)
        refined = _distillation(header.context.header, image_shape, name, device)
    return Distillation(
        name,
        device,
        options,
        evaluation_network=header.evaluation_network,
        refined=refined,
    )


def _check_options(header: Header, image_shape: ImageShape, name: str) -> None:
    """Refuse a header without a record of every option of its distiller.

    An option newer than the header has a default now, but the older code may have
    behaved in another way.
    """
    try:
        distiller = dd_plugins.get_distiller(header.distiller)
    except UnknownNameError as error:
        raise OptionError(
            f"shadow runs need the method of {name}, got {header.distiller}, which is "
            "not installed here; audit it with --shadows 0"
        ) from error
    task = Task(
        header.dataset.name,
        image_shape,
        len(header.class_names),
        max(Counter(header.initial_classes).values()),
        header.steps or None,
        header.mirror,
    )
    # Settling changes no option of a spec that gives all of them.
    settled = distiller.for_task(task).options()
    unknown = sorted(
        option
        for option, value in distiller.options().items()
        if option not in header.options or settled[option] != value
    )
    if unknown:
        raise OptionError(
            f"shadow runs need every option of {distiller.name} in full, and {name} "
            f"does not tell {', '.join(unknown)}: options were added after it was "
            "made; audit it with --shadows 0"
        )


def _check_context(header: Header, name: str) -> None:
    """Refuse a context that shadow runs cannot make: kept, or of other images."""
    assert header.context is not None
    first = header.context.header
    if (
        not header.context.refined
        or first.initial_classes != header.initial_classes
        or first.dataset.fingerprint != header.dataset.fingerprint
    ):
        raise OptionError(
            "shadow runs can repeat only a refined context of the same classes and "
            f"data, got another one in {name}; audit it with --shadows 0"
        )
