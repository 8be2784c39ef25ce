"""The rule of private runs: the distiller alone reads the real images."""

import warnings
from typing import NoReturn

import torch
from torch import Tensor

from dd_plugins.data.draws import sampler_of
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import Batch, RealSampler
from dd_plugins.engine.settled import Settled
from dd_plugins.errors import DDWarning, OptionError
from dd_plugins.run import Run
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.wrappers.base import base_of, wrappers_of

__all__ = ["check_private", "readable_sampler"]


def check_private(settled: Settled, run: Run, context: DistilledSet | None) -> None:
    """Refuse options by which a private run would read images without noise.

    Args:
        settled: the choices of the run.
        run: the run.
        context: the existing set to extend, or None.

    Raises:
        OptionError: the distiller is private and an option would reveal its images; or
            there are no public images to start from.
    """
    distiller = settled.distiller
    if settled.initial_images == "public" and settled.public is None:
        raise OptionError(
            "initial images 'public' need a private distiller that names public data, "
            f"got {settled.options.distiller}"
        )
    if not distiller.private:
        return
    name = base_of(distiller).name
    for wrapper in wrappers_of(distiller):
        if not wrapper.keeps_privacy:
            raise OptionError(
                f"{name} is private, and {wrapper.name} reads real images without "
                f"noise; expected {name} alone"
            )
    if run.ranks > 1:
        raise OptionError(
            f"{name} is private, and draws its noise in one process, got {run.ranks}; "
            "start it without torchrun"
        )
    if settled.initial_images not in ("noise", "public"):
        raise OptionError(
            f"{name} is private, and must start from noise or public images, got "
            f"initial images {settled.options.initial_images!r}"
        )
    data = settled.data
    given = data.transform
    space = data.preprocessing if given is None else given.kind
    if space != "constant" and (given is None or not given.is_identity):
        raise OptionError(
            f"{name} is private, and must not fit a value space to private images: "
            f"expected preprocessing 'constant', got {space!r}"
        )
    if context is not None:
        _check_context(context, settled, name)
    _check_public(settled, name)
    held_out = len(data.validation.labels)
    if held_out and run.rank == 0:
        warnings.warn(
            f"{name} is private: it leaves the {held_out:,} validation images that "
            "were given unread; a figure of them would not be covered by its epsilon",
            DDWarning,
            stacklevel=2,
        )


def _check_context(context: DistilledSet, settled: Settled, name: str) -> None:
    """Refuse a set that may reveal private images.

    It must be private itself, or be made from the distiller's public data. So must its
    own context, and so on.
    """
    public = settled.distiller.public_data
    for header in context.header.lineage:
        if header.privacy is None and header.dataset.name != public:
            raise OptionError(
                f"{name} is private, and its context must be private too or be made of "
                f"public images, got one made of {header.dataset.name!r}; say by "
                "public=... if these are public"
            )


def _check_public(settled: Settled, name: str) -> None:
    """Refuse public images of another shape, or equal to the private data."""
    public, data = settled.public, settled.data
    if public is None:
        return
    if public.image_shape != data.image_shape:
        raise OptionError(
            f"{name}: public images must have the shape {data.image_shape} of the "
            f"private ones, got {public.image_shape}"
        )
    if public.fingerprint == data.fingerprint:
        raise OptionError(
            f"{name}: the public images must not be the private ones, got "
            f"{public.name} for both"
        )


def readable_sampler(
    settled: Settled, run: Run, transform: Transform, real: RealSampler
) -> RealSampler:
    """Return draws of images for everything but the distiller.

    Args:
        settled: the choices of the run.
        run: the run.
        transform: the map to the value space.
        real: draws of the real images.

    Returns:
        ``real``, if the distiller is not private; draws of its public images; or, if
        it has none, a sampler that refuses to read.
    """
    if not settled.distiller.private:
        return real
    if settled.public is None:
        return _Unreadable(base_of(settled.distiller).name, run.device)
    _, sampler = sampler_of(
        settled.public,
        transform=transform,
        seed=run.seed,
        device=run.device,
        precision=run.precision,
    )
    return sampler


class _Unreadable(RealSampler):
    """Draws of private images: each raises an error with the reason."""

    def __init__(self, name: str, device: torch.device) -> None:
        black, label = torch.zeros(1, 1, 1, 1), torch.zeros(1).long()
        super().__init__(black, label, seed=0, device=device)
        self._name = name

    @property
    def labels(self) -> Tensor:
        self._refuse()

    @property
    def classes(self) -> list[int]:
        self._refuse()

    def read(self, indices: Tensor) -> Batch:
        self._refuse()

    def pixels(self, indices: Tensor) -> Tensor:
        self._refuse()

    def batch(self, step: int, size: int) -> Batch:
        self._refuse()

    def class_batch(
        self, step: int, label: int, size: int, *, shared: bool = False
    ) -> Batch:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise OptionError(
            f"{self._name} is private, and what lies behind its pixels is measured on "
            "real images; name public ones for it, such as public='fashion-mnist'"
        )
