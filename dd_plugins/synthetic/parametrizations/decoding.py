"""Reading sets that hold something else than pixels."""

from collections.abc import Mapping

from torch import Tensor

from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import OptionError
from dd_plugins.spec import parse, read
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
from dd_plugins.synthetic.parametrizations.packed import Packed
from dd_plugins.synthetic.parametrizations.spectral import Spectral

__all__ = ["decoded", "decodes_alone"]


def decodes_alone(parametrization: AbstractParametrization) -> bool:
    """Tell whether a file of parameters is enough to decode a set anywhere.

    It is for :class:`Packed` and :class:`Spectral`. A set that needs a generator, or
    code of a plugin, is saved in decoded form.
    """
    return isinstance(parametrization, Packed | Spectral)


def decoded(
    spec: str,
    stored: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    transform: Transform,
    images: int,
) -> Tensor:
    """Return the images that a file holds in encoded form.

    Args:
        spec: the spec of the parametrization.
        stored: its parameters, by name.
        constants: what else decoding needs, by name.
        transform: the map to the value space.
        images: the expected number of images.

    Raises:
        OptionError: the spec is of no parametrization that a file may hold.
        ValueError: the tensors are not of its form.
    """
    match parse(spec).name:
        case Packed.name:
            packed = read(Packed, spec, "packed(factor=2)")
            _check_grids(packed, stored, constants)
            found = packed.decode(stored, transform)
        case Spectral.name:
            spectral = read(Spectral, spec, "spectral(keep=0.25)")
            _check_spectra(spectral, stored, constants)
            found = spectral.decode(stored, constants, transform)
        case name:
            raise OptionError(f"expected packed or spectral, got {name}")
    if len(found) != images:
        count = len(next(iter(stored.values())))
        raise ValueError(
            f"{count} stored images decode to {len(found)}, expected {images}"
        )
    return found


def _check_grids(
    packed: Packed, stored: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> None:
    """Refuse tensors that are not of the form of packed images."""
    if list(stored) != ["grids"] or stored["grids"].ndim != 4:
        shapes = _shapes(stored)
        raise ValueError(f"expected stored.grids with four dimensions, got {shapes}")
    channels, height, width = stored["grids"].shape[1:]
    packed.values_per_stored((channels, height, width), 1)
    if constants:
        raise ValueError(f"packed needs no decoder, got {_shapes(constants)}")


def _check_spectra(
    spectral: Spectral, stored: Mapping[str, Tensor], constants: Mapping[str, Tensor]
) -> None:
    """Refuse tensors that are not of the form of spectra."""
    if sorted(constants) != ["colours", "scales"] or constants["scales"].ndim != 3:
        raise ValueError(
            "expected decoder.colours and decoder.scales with three dimensions, got "
            f"{_shapes(constants)}"
        )
    channels = len(constants["scales"])
    if constants["colours"].shape != (channels, channels):
        raise ValueError(
            f"expected decoder.colours of shape {(channels, channels)}, got "
            f"{tuple(constants['colours'].shape)}"
        )
    if (constants["scales"] < 0).any():
        raise ValueError("expected decoder.scales of at least 0")
    form = (spectral.images_per_stored, int((constants["scales"] > 0).sum()))
    coefficients = stored.get("coefficients")
    if len(stored) != 1 or coefficients is None or coefficients.shape[1:] != form:
        raise ValueError(
            f"expected stored.coefficients of shape (n, {form[0]}, {form[1]}), got "
            f"{_shapes(stored)}"
        )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
