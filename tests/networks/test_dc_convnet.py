import pytest
import torch
from torch import nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import HalvingAvgPool2d
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.runtime.randomness import generator_for


def _build(network, image_shape, num_classes=10):
    return network.build(
        image_shape, num_classes, generator=generator_for(0, "weights")
    )


@pytest.mark.parametrize(
    ("network", "image_shape", "features"),
    [
        (DCConvNet(), (3, 32, 32), 4 * 4 * 128),
        (DCConvNet(), (1, 28, 28), 4 * 4 * 128),  # padded to 32
        (DCConvNet(width=4, depth=4), (3, 64, 64), 4 * 4 * 4),
        (DCConvNet(width=4, depth=2), (3, 9, 13), 2 * 3 * 4),
    ],
)
def test_features_have_the_size_of_the_last_block(network, image_shape, features):
    module = _build(network, image_shape, num_classes=7)

    images = torch.zeros(2, *image_shape)

    assert module.features(images).shape == (2, features)
    assert module(images).shape == (2, 7)


@pytest.mark.parametrize(
    ("normalization", "layer"),
    [
        ("instance", nn.GroupNorm),
        ("group", nn.GroupNorm),
        ("batch", nn.BatchNorm2d),
        ("none", nn.Identity),
    ],
)
def test_blocks_are_convolution_normalisation_relu_pooling(normalization, layer):
    network = DCConvNet(width=4, depth=2, normalization=normalization)

    body = _build(network, (3, 8, 8)).body

    block = [nn.Conv2d, layer, nn.ReLU, HalvingAvgPool2d]
    expected = [*block, *block, nn.Flatten]
    assert all(map(isinstance, body, expected))
    assert len(body) == len(expected)
    convolutions = [part for part in body if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions] == [4, 4]


def test_weights_are_uniform_as_torch_initialises_them():
    module = _build(DCConvNet(width=32), (3, 32, 32))

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            assert layer.weight.abs().max().item() <= fan_in**-0.5
            assert layer.bias.abs().max().item() <= fan_in**-0.5
            expected = 1 / (3 * fan_in)
            assert layer.weight.var().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("depth", "image_shape"), [(3, (3, 7, 32)), (6, (1, 28, 28))])
def test_images_that_the_pooling_uses_up_are_an_error(depth, image_shape):
    with pytest.raises(OptionError, match="a smaller depth, or the network 'mlp'"):
        _build(DCConvNet(width=1, depth=depth), image_shape)


@pytest.mark.parametrize(
    ("side", "depth"), [(8, 2), (16, 2), (28, 3), (32, 3), (64, 4)]
)
def test_depth_follows_the_size_of_the_images(side: int, depth: int) -> None:
    """On maps of 2x2 instance normalisation leaves gradient matching nothing."""
    network = DCConvNet(width=4).build((1, side, side), 3, generator=torch.Generator())
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert len(layers) == depth
