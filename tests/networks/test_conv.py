import pytest
import torch
from scipy import stats
from torch import nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import HalvingAvgPool2d
from dd_plugins.networks.conv import Conv, lecun_normal_
from dd_plugins.runtime.randomness import generator_for


def _build(network, image_shape, num_classes=10):
    return network.build(
        image_shape, num_classes, generator=generator_for(0, "weights")
    )


def _convolutions(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("network", "image_shape", "features"),
    [
        (Conv(), (3, 32, 32), 4 * 4 * 512),
        (Conv(), (1, 28, 28), 4 * 4 * 512),  # padded to 32
        (Conv(width=4), (3, 8, 8), 2 * 2 * 8),  # of depth 2
        (Conv(width=4), (3, 16, 32), 4 * 8 * 8),
        (Conv(width=4, depth=1), (2, 8, 8), 4 * 4 * 4),
        (Conv(width=4, depth=3), (1, 31, 31), 3 * 3 * 16),
    ],
)
def test_features_have_the_size_of_the_last_block(network, image_shape, features):
    module = _build(network, image_shape, num_classes=7)

    images = torch.zeros(2, *image_shape)

    assert module.features(images).shape == (2, features)
    assert module(images).shape == (2, 7)


@pytest.mark.parametrize(
    ("side", "depth"), [(8, 2), (16, 2), (28, 3), (32, 3), (64, 4), (128, 5)]
)
def test_the_default_depth_grows_with_each_doubling(side, depth):
    module = _build(Conv(width=1), (1, side, side))

    channels = [layer.out_channels for layer in _convolutions(module)]

    assert channels == [2**block for block in range(depth)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "padded"), [(28, 32), (30, 32), (32, 32), (29, 29)])
def test_images_are_padded_until_the_pooling_divides_them(channels, side, padded):
    module = _build(Conv(width=1), (channels, side, side))
    first, *others = _convolutions(module)
    shapes = []
    first.register_forward_hook(lambda *seen: shapes.append(seen[-1].shape))

    module(torch.zeros(1, channels, side, side))

    assert shapes == [(1, 1, padded, padded)]
    assert all(layer.padding == (1, 1) for layer in others)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [28, 32])
def test_all_maps_keep_channels_last(channels, side):
    module = _build(Conv(width=2), (channels, side, side))
    found = []
    for layer in module.body[:-1]:
        layer.register_forward_hook(lambda *seen: found.append(seen[-1]))
    images = torch.rand(3, channels, side, side)

    module(images.contiguous(memory_format=torch.channels_last))

    assert len(found) >= 9
    for maps in found:
        assert maps.permute(0, 2, 3, 1).stride() == _dense(maps), maps.shape


def _dense(maps):
    channels, height, width = maps.shape[1:]
    return (height * width * channels, width * channels, channels, 1)


def test_batch_normalisation_stands_before_every_convolution_but_the_first():
    body = _build(Conv(width=2, normalization="batch"), (3, 32, 32)).body

    block = [nn.Conv2d, nn.ReLU, HalvingAvgPool2d]
    later = [nn.BatchNorm2d, *block]
    assert [type(layer) for layer in body] == [*block, *later, *later, nn.Flatten]
    norms = [layer for layer in body if isinstance(layer, nn.BatchNorm2d)]
    assert [layer.num_features for layer in norms] == [2, 4]
    assert [layer.momentum for layer in norms] == [0.9, 0.9]


def _normalisations(network):
    return [
        layer
        for layer in _build(network, (3, 8, 8)).modules()
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm)
    ]


def test_by_default_batch_normalisation_is_for_distillation_only():
    network = Conv(width=2, depth=3)

    distilling, evaluating = network.for_distillation(), network.for_evaluation()

    assert distilling == Conv(width=2, depth=3, normalization="batch")
    assert evaluating == Conv(width=2, depth=3, normalization="none")
    assert [type(layer) for layer in _normalisations(distilling)] == [
        nn.BatchNorm2d,
        nn.BatchNorm2d,
    ]
    assert _normalisations(evaluating) == []
    assert _normalisations(network) == []


@pytest.mark.parametrize("normalization", ["batch", "instance", "group", "none"])
def test_a_chosen_normalisation_is_kept(normalization):
    network = Conv(width=2, normalization=normalization)

    assert network.for_distillation() == network
    assert network.for_evaluation() == network


def test_weights_are_truncated_normal_with_variance_one_over_fan_in():
    module = _build(Conv(width=64), (3, 32, 32))

    # Variance 1 / fan_in after the cut at two deviations of the uncut normal.
    unit = stats.truncnorm(-2, 2)
    for layer in [*_convolutions(module)[1:], module.head]:
        weight = layer.weight.detach()
        fan_in = weight[0].numel()
        scaled = (weight * fan_in**0.5).flatten().double().numpy()
        assert scaled.var() == pytest.approx(1, rel=0.02)
        assert scaled.mean() == pytest.approx(0, abs=0.02)
        assert abs(scaled).max() == pytest.approx(2 / unit.std(), rel=1e-3)
        law = stats.truncnorm(-2, 2, scale=1 / unit.std())
        assert stats.kstest(scaled[:20_000], law.cdf).pvalue > 1e-3


def test_biases_are_zero():
    module = _build(Conv(width=2), (3, 8, 8))

    biases = [layer.bias for layer in [*_convolutions(module), module.head]]

    assert all(torch.equal(bias, torch.zeros_like(bias)) for bias in biases)


def test_the_fan_in_of_a_grouped_convolution_counts_its_group_only():
    layer = nn.Conv2d(64, 256, 3, groups=4, bias=False)

    lecun_normal_(layer, generator_for(0, "weights"))

    assert layer.weight.var().item() == pytest.approx(1 / (16 * 9), rel=0.03)


@pytest.mark.parametrize(
    ("network", "image_shape"),
    [
        (Conv(width=1), (3, 1, 1)),
        (Conv(width=1, depth=3), (1, 7, 32)),
        (Conv(width=1, depth=6), (1, 32, 32)),
    ],
)
def test_images_that_the_pooling_uses_up_are_an_error(network, image_shape):
    with pytest.raises(OptionError, match="a smaller depth, or the network 'mlp'"):
        _build(network, image_shape)


@pytest.mark.parametrize(
    "options", [{"width": 0}, {"depth": 0}, {"normalization": "layer"}]
)
def test_options_out_of_range_are_errors(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Conv(**options)
