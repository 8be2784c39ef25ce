"""A network made by a Python function, for models without a plugin."""

import functools
import hashlib
import inspect
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeGuard
from weakref import WeakSet

import torch
from torch import Tensor, nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.networks.splitting import split_behind_features
from dd_plugins.runtime.held_values import PLAIN, held_by
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import record

__all__ = ["FactoryNetwork", "NetworkLike", "is_factory"]

NetworkLike = str | AbstractNetwork | Callable[..., nn.Module]
"""A network as callers give it: a spec, a network, or a function that makes a module.

The function is called with ``num_classes``, and with ``channels`` and ``image_size`` if
it has such parameters, always by name.
"""

_EXAMPLE = "network=lambda num_classes: MyNet(num_classes)"
_DIGITS = 16  # of a digest, in hexadecimal
_modules_returned_before: "WeakSet[nn.Module]" = WeakSet()


def is_factory(given: object) -> TypeGuard[Callable[..., nn.Module]]:
    """Tell whether an object is a function, or a class, for making torch modules.

    Raises:
        OptionError: it is itself a torch module; no fresh ones can be made of it.
    """
    if isinstance(given, nn.Module):
        raise OptionError(
            "a network is built anew many times in a run: expected a function that "
            f"returns a fresh module, such as {_EXAMPLE}, got a module of the class "
            f"{type(given).__name__}"
        )
    if isinstance(given, type):
        return issubclass(given, nn.Module)
    return callable(given) and not isinstance(given, AbstractNetwork)


class _Contiguous(nn.Module):
    """Puts the channels of images first in memory, as ``Tensor.view`` expects them."""

    def forward(self, images: Tensor) -> Tensor:
        # Flat in between: with one channel the strides may still put channels last.
        return images.contiguous().flatten().view(images.shape)


@record
class FactoryNetwork(AbstractNetwork):
    """A network made by a Python function, given in place of a spec.

    The function gets the number of classes as ``num_classes`` and, if it has such
    parameters, ``channels`` and ``image_size``: the side of square images in pixels,
    otherwise height and width. It returns a fresh module at each call. The inputs of
    the last linear layer are the features.

    Args:
        function: the function; or its name, in the spec recorded for it. From the name
            alone no network can be built.
    """

    name = "factory"
    positional = ("function",)

    function: Callable[..., Any] | str

    @property
    def architecture(self) -> str:
        """Return the spec: two functions make two architectures."""
        return repr(self)

    @property
    def only_named(self) -> bool:
        """Tell whether there is only the name of the function, and nothing to call."""
        return isinstance(self.function, str)

    def __repr__(self) -> str:
        """Return the spec for a header, with the qualified name of the function."""
        return f"{self.name}({_name_of(self.function)!r})"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a fresh module.

        Raises:
            OptionError: there is only the name of the function, or the function takes
                other arguments, or does not return a fresh classifier of images.
        """
        del generator  # the function draws from the seeded global state
        if isinstance(self.function, str):
            raise OptionError(
                f"the network {self.function!r} is a function of Python, which no spec "
                "and no file can hold; pass the function itself in Python, or name "
                "another network (--network conv)"
            )
        origin = f"the network of {_name_of(self.function)}"
        module = self.function(**self._arguments(image_shape, num_classes, origin))
        if not isinstance(module, nn.Module):
            raise OptionError(
                f"{origin} must be a torch.nn.Module, got {type(module).__name__}"
            )
        if module in _modules_returned_before:
            raise OptionError(
                f"{origin} must be a fresh module at each call, got the same one "
                f"twice; make it in the function: {_EXAMPLE}"
            )
        _modules_returned_before.add(module)
        network = split_behind_features(module, image_shape, num_classes, origin=origin)
        network.layout = _Contiguous()  # type: ignore[assignment]
        return network

    def build(
        self,
        image_shape: ImageShape,
        num_classes: int,
        *,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> FeatureNetwork:
        """Make a fresh module; its weights keep their memory layout."""
        module = super().build(image_shape, num_classes, generator=generator)
        return module if device is None else module.to(device)

    @property
    def is_identified(self) -> bool:
        """Tell whether all values that the function holds have a known content."""
        return self._values is not None

    def identity(self, image_shape: ImageShape, num_classes: int) -> str:
        """Return the spec with a digest of the layers and the shapes of the weights.

        If the function holds values, such as those of a closure, a digest of them
        follows.
        """
        generator = generator_for(0, "layers of a network")
        module = self.build(image_shape, num_classes, generator=generator)
        layers = re.sub(r" at 0x[0-9a-f]+", "", repr(module))  # addresses of functions
        shapes = [
            (name, tuple(each.shape)) for name, each in module.state_dict().items()
        ]
        digest = hashlib.sha256(f"{layers} {shapes}".encode()).hexdigest()
        values = f" and values {self._values[:_DIGITS]}" if self._values else ""
        return f"{self!r} with layers {digest[:_DIGITS]}{values}"

    @cached_property
    def _values(self) -> str | None:
        """The digest of the values before the first call: a call may change them."""
        return "" if self.only_named else held_by(self.function).values

    def _arguments(
        self, image_shape: ImageShape, num_classes: int, origin: str
    ) -> dict[str, Any]:
        """Return the arguments for the function."""
        channels, height, width = image_shape
        offered = {
            "num_classes": num_classes,
            "channels": channels,
            "image_size": height if height == width else (height, width),
        }
        parameters = inspect.signature(self.function).parameters  # type: ignore[arg-type]
        given = {name: each for name, each in offered.items() if name in parameters}
        kinds = {each.kind for each in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD in kinds:  # like the models of torchvision
            given["num_classes"] = num_classes
        needed = {
            name
            for name, each in parameters.items()
            if each.default is each.empty
            and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        }
        if "num_classes" not in given or needed - set(given):
            raise OptionError(
                f"{origin}: the function must take num_classes, and may take channels "
                f"and image_size, got one that takes {', '.join(parameters) or 'none'};"
                f" such as {_EXAMPLE}"
            )
        return given


def _name_of(function: Callable[..., Any] | str) -> str:
    """Return the qualified name of a function, with the arguments bound to it."""
    if isinstance(function, str):
        return function
    if isinstance(function, functools.partial):
        bound = [*map(_shown, function.args)]
        bound += [f"{name}={_shown(each)}" for name, each in function.keywords.items()]
        return f"{_name_of(function.func)}({', '.join(bound)})"
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _shown(value: object) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    return getattr(value, "__name__", type(value).__name__)
