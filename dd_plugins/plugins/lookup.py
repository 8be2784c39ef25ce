"""Look-up by name among all installed plugins."""

from pathlib import Path
from typing import Any, TypeVar

from dd_plugins.data.named import DataOptions
from dd_plugins.data.real import RealData
from dd_plugins.decoders.base import AbstractDecoder
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.factory import NetworkLike
from dd_plugins.plugins.manager import loaded_plugins
from dd_plugins.spec import Record, split_specs
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization

__all__ = [
    "get_dataset",
    "get_decoder",
    "get_distiller",
    "get_initial_images",
    "get_network",
    "get_parametrization",
    "get_record",
    "record_names",
    "record_versions",
    "split_specs",
]

RecordType = TypeVar("RecordType", bound=Record)


def get_distiller(spec: str) -> AbstractDistiller[Any]:
    """Build the distiller or wrapper of a spec.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: no plugin registers a name in it.

    Example:
        >>> get_distiller("clip(frepo(pool_size=20), max_norm=0.5)")
        clip(frepo(pool_size=20), max_norm=0.5)
    """
    return loaded_plugins().distiller(spec)


def get_network(spec: NetworkLike) -> AbstractNetwork:
    """Build the network of a spec, or of a function.

    Args:
        spec: the spec; or a function that returns a fresh torch module for
            ``num_classes``, and for ``channels`` and ``image_size`` if it takes them.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range, or a torch
            module is given.
        UnknownNameError: no plugin registers the name.

    Example:
        >>> get_network("conv(width=32)")
        conv(width=32)
    """
    return loaded_plugins().network(spec)


def get_parametrization(spec: str) -> AbstractParametrization:
    """Build the parametrization of a spec.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: no plugin registers the name.

    Example:
        >>> get_parametrization("packed(factor=2)").images_per_stored
        4
    """
    return loaded_plugins().parametrization(spec)


def get_decoder(spec: str) -> AbstractDecoder:
    """Build the decoder of a spec.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: no plugin registers the name.

    Example:
        >>> get_decoder("conv_decoder(width=64)")
        conv_decoder(width=64)
    """
    return loaded_plugins().decoder(spec)


def get_initial_images(spec: str) -> InitialImages | AbstractDistiller[Any]:
    """Return ``"real"``, ``"noise"`` or ``"public"`` as it is, or build a coreset.

    Raises:
        OptionError: the text is neither such a word nor the spec of a coreset.
    """
    return loaded_plugins().initial_images(spec)


def record_versions(*used: Record) -> dict[str, str]:
    """Return the version of each distribution offering some of these records.

    Records inside these records count too. The library's own records have none.
    """
    return loaded_plugins().versions(*used)


def get_record(
    spec: str, *, hook: str, kind: str, base: type[RecordType]
) -> RecordType:
    """Build the record of a spec, from those collected by a hook.

    A plugin specifies the hook (``dd_register_hookspecs``) with the single argument
    ``register``. Other plugins offer records through it.

    Args:
        spec: such as ``"lira(online=False)"``.
        hook: the name of the hook.
        kind: the kind of record, for messages: ``"attack"``.
        base: their common base class, a subclass of :class:`dd_plugins.Record`.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: no plugin registers the name.
        PluginError: a plugin registers something of another kind.
    """
    plugins = loaded_plugins()
    return plugins.record(plugins.records(hook, kind, base), spec)


def record_names(*, hook: str, kind: str, base: type[Record]) -> list[str]:
    """Return the names that :func:`get_record` knows, sorted."""
    return loaded_plugins().records(hook, kind, base).names()


def get_dataset(
    name: str,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
) -> RealData:
    """Load a named data set.

    Args:
        name: such as ``"digits"``, ``"cifar10"`` or ``"folder:PATH"``.
        data_root: the folder that holds data sets; by default the value of the
            environment variable ``DD_DATA``.
        download: whether a missing data set may be downloaded there.
        image_size: side in pixels of the resized and cropped images.

    Raises:
        OptionError: the name is malformed, or the data set needs ``data_root``.
        UnknownNameError: no plugin registers the name.
        DataError: the data is missing or not usable.

    Example:
        >>> data = get_dataset("digits")
        >>> data.num_classes, data.image_shape
        (10, (1, 8, 8))
    """
    root = Path(data_root) if data_root else None
    options = DataOptions(root=root, download=download, image_size=image_size)
    return loaded_plugins().dataset(name, options)
