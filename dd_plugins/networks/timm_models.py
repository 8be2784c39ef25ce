"""The models of timm, built for small images too."""

from difflib import get_close_matches
from typing import Any

import torch

from dd_plugins.errors import FileError, MissingExtraError, OptionError, one_line
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, ImageShape
from dd_plugins.networks.splitting import split_behind_features
from dd_plugins.spec import record

__all__ = ["Timm"]

_WEIGHTS = "model.safetensors"


@record
class Timm(AbstractNetwork):
    """A model of timm (PyTorch Image Models), by its name there.

    It is built for the channels, the classes and, where its sizes are fixed, the height
    and width of the images. The depth and the strides are the model's own; many models
    see little of images of 32 pixels.

    Args:
        model: a name from ``timm.list_models()``, such as ``"resnet18"``.
        pretrained: whether to start from published weights in the cache of Hugging
            Face; nothing is downloaded. The head is freshly initialised.

    Reference: Wightman, PyTorch Image Models, doi 10.5281/zenodo.4414861.
    """

    name = "timm"
    positional = ("model",)

    model: str
    pretrained: bool = False

    @property
    def architecture(self) -> str:
        """Return the spec of the model, pretrained or not."""
        return f"{self.name}({self.model!r})"

    def construct(
        self, image_shape: ImageShape, num_classes: int, *, generator: torch.Generator
    ) -> FeatureNetwork:
        """Make a module, freshly initialised unless it is pretrained.

        Raises:
            MissingExtraError: timm is not installed.
            OptionError: timm has no such model, or it does not take such images.
            FileError: the weights are not in the cache.
        """
        del generator  # timm's initialisers draw from the seeded global state
        timm = _timm()
        self._check_name(timm)
        settings = timm.get_pretrained_cfg(self.model)
        channels, height, width = image_shape
        options: dict[str, Any] = {"in_chans": channels, "num_classes": num_classes}
        if settings is not None and settings.fixed_input_size:
            options["img_size"] = (height, width)
        if self.pretrained:
            options["pretrained_cfg_overlay"] = {"file": _kept_weights(settings)}
        origin = repr(self)
        try:
            module = timm.create_model(self.model, self.pretrained, **options)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            reason = one_line(error)
            raise OptionError(
                f"{origin} cannot be built for images of shape {image_shape} "
                f"(channels, height, width): {reason}"
            ) from error
        return split_behind_features(module, image_shape, num_classes, origin=origin)

    def _check_name(self, timm: Any) -> None:
        """Refuse names unknown to timm; it would download the models of some."""
        if timm.is_model(self.model):
            return
        near = ", ".join(get_close_matches(self.model, timm.list_models(), 5, 0.5))
        raise OptionError(
            f"timm has no model {self.model!r}; known, nearest first: {near or 'none'};"
            " timm.list_models() names all"
        )


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError(
            "network 'timm' needs the package timm: pip install 'dd-plugins[timm]'"
        ) from error
    return timm


def _kept_weights(settings: Any) -> str:
    """Return the file of a model's weights in the cache.

    Raises:
        FileError: there is none.
    """
    from huggingface_hub import try_to_load_from_cache

    source = getattr(settings, "hf_hub_id", None)
    found = try_to_load_from_cache(source, _WEIGHTS) if source else None
    if isinstance(found, str):
        return found
    where = f"; fetch them: hf download {source}" if source else ", and none published"
    raise FileError(
        "pretrained=True: the cache of Hugging Face has no weights of this model"
        f"{where}"
    )
