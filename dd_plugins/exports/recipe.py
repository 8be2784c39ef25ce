"""The recipe in an export: how a network is trained on its images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dd_plugins.errors import OptionError, UnknownNameError
from dd_plugins.exports.plain import networks as plain
from dd_plugins.networks.alexnet import AlexNet
from dd_plugins.networks.base import AbstractNetwork, ImageShape, default_depth
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.mlp import MLP
from dd_plugins.networks.mobilenet import MobileNetV2
from dd_plugins.networks.resnet import ResNet18
from dd_plugins.networks.vgg import VGG11
from dd_plugins.synthetic.header import Content
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.training.recipes import Recipe, default_recipe, get_recipe

__all__ = ["ExportedRecipe", "recipe_of"]

_PLAIN: dict[type[AbstractNetwork], Callable[..., nn.Module]] = {
    Conv: plain.conv,
    DCConvNet: plain.dc_convnet,
    MLP: plain.mlp,
    AlexNet: plain.alexnet,
    VGG11: plain.vgg11,
    ResNet18: plain.resnet18,
    MobileNetV2: plain.mobilenet_v2,
}
"""The function of plain torch that builds the same network, with the same options."""

_LOSSES: dict[LabelKind, str] = {
    "regression": "half the squared error, summed over classes",
    "probabilities": "cross-entropy with labels that are probabilities",
    "classes": "cross-entropy with the class of the largest score",
}

_OPERATIONS: dict[str, list[str]] = {
    "frepo": [
        "colour: brightness -0.25 to 0.25, saturation and contrast exp(-0.25 to 0.25)",
        "crop: zoom 0.8 to 1.25, and a shift inside it",
        "shift: up to an eighth of the side",
        "rotation: up to 15 degrees",
        "cut-out: a square of a quarter of the side",
    ],
    "dsa": [
        "colour: brightness -0.5 to 0.5, saturation 0 to 2, contrast 0.5 to 1.5",
        "shift: up to an eighth of the side, in whole pixels",
        "cut-out: a square of half the side",
        "scale: each axis 1/1.2 to 1.2",
        "rotation: up to 15 degrees",
    ],
    "crop": ["shift: up to an eighth of the side, of every image"],
    "none": [],
}
"""What an augmentation does; where there are several, one is drawn for each batch."""


@dataclass(frozen=True)
class ExportedRecipe:
    """How a network is trained on an exported set.

    Attributes:
        recipe: the library's recipe.
        network: builds the network in plain torch.
        fields: the whole recipe, ready for JSON.
        left_out: sentences on the differences of a script in plain torch.
    """

    recipe: Recipe
    network: Callable[..., nn.Module]
    fields: dict[str, Any]
    left_out: tuple[str, ...]


def recipe_of(
    distilled: Content, find: Callable[[str], AbstractNetwork]
) -> ExportedRecipe:
    """Return how to train a network on a set, as ``evaluate`` does by default.

    Args:
        distilled: the set.
        find: returns the network of a spec.
    """
    header, left_out = distilled.header, []
    recipe = default_recipe(header.label_kind, len(distilled.images))
    try:
        recipe = recipe if header.recipe is None else get_recipe(header.recipe)
    except (OptionError, UnknownNameError):
        left_out.append(
            "The recipe of the set is not known to the dd-plugins that wrote this: "
            "it is that of its kind of labels."
        )
    build, options = _plain_network(distilled, find)
    if build is None:
        build = plain.conv
        left_out.append(
            "The network of the set has no plain form here: this trains FRePo's "
            "convolutional network in its place."
        )
    if header.views is not None:
        left_out.append(
            "The library trains on labels of random views of the images. This trains "
            "on the labels of the images, shifted and flipped, and scores lower."
        )
    if recipe.loss == "cross-entropy" and header.label_kind == "regression":
        left_out.append(
            "The library trains by cross-entropy. This takes squared error."
        )
    if recipe.mix != "none":
        left_out.append(f"The library mixes the images of a batch by {recipe.mix}.")
    flips = ["flip: half of the images"] if header.mirror else []
    fields = recipe.options() | {
        "network": {
            "spec": header.evaluation_network,
            "name": build.__name__,
            "options": options,
        },
        "label_kind": header.label_kind,
        "loss": _LOSSES[header.label_kind],
        "weight_decay": recipe.effective_weight_decay,
        "warm_up": min(recipe.warm_up, recipe.steps // 2),
        "steps_done": recipe.steps_done,
        "augmentation_operations": [
            *_OPERATIONS[recipe.augmentation],
            *(flips if recipe.augmentation != "none" else []),
        ],
        "mirror": header.mirror,
        "transform_stride": header.transform_stride,
        "left_out": left_out,
    }
    return ExportedRecipe(recipe, build, fields, tuple(left_out))


def _plain_network(
    distilled: Content, find: Callable[[str], AbstractNetwork]
) -> tuple[Callable[..., nn.Module] | None, dict[str, Any]]:
    """Return the function for building the network of a set, and its options.

    Without a plain form the function is None, and the options are those of ``conv``.
    """
    channels, height, width = distilled.image_shape
    shape = (channels, height, width)
    try:
        network = find(distilled.header.evaluation_network).for_evaluation()
    except (OptionError, UnknownNameError):
        return None, _options(Conv().for_evaluation(), shape)
    build = _PLAIN.get(type(network))
    if build is None:
        return None, _options(Conv().for_evaluation(), shape)
    return build, _options(network, shape)


def _options(network: AbstractNetwork, shape: ImageShape) -> dict[str, Any]:
    """Return the options of a plain network, with all defaults filled in."""
    options = network.options()
    if isinstance(network, Conv | DCConvNet):
        depth = network.depth or default_depth(shape)
        options |= {"depth": depth, "padding": network.padding(shape)}
    return options
