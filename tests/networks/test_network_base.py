"""Networks as plugins write them, and how the library calls them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    HalvingAvgPool2d,
    features_in_chunks,
    norm,
)
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.mlp import MLP
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import record

IMAGE_SHAPE = (3, 8, 8)


@record
class _Guest(AbstractNetwork):
    """What a third party may write: torch's own initialisers, and global draws."""

    name = "guest"

    def construct(self, image_shape, num_classes, *, generator):
        channels, _, _ = image_shape
        body = nn.Sequential(
            nn.Conv2d(channels, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        nn.init.orthogonal_(body[0].weight)
        body.register_buffer("offset", torch.rand(2))
        return FeatureNetwork(body, nn.Linear(2, num_classes))


@record
class _Failing(AbstractNetwork):
    name = "failing"

    def construct(self, image_shape, num_classes, *, generator):
        torch.rand(1)
        raise OptionError("failing: images are too small")


NETWORKS = [Conv(width=4), DCConvNet(width=4, depth=2), MLP(width=4), _Guest()]


def _weights(network, generator):
    return network.build(IMAGE_SHAPE, 5, generator=generator).state_dict()


def _equal(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_the_same_generator_gives_the_same_weights(network):
    first = _weights(network, generator_for(0, "weights"))
    torch.rand(1)  # the global state must not matter

    assert _equal(_weights(network, generator_for(0, "weights")), first)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_successive_builds_differ(network):
    generator = generator_for(0, "weights")

    assert not _equal(_weights(network, generator), _weights(network, generator))


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_building_leaves_the_global_state_untouched(network):
    before = torch.get_rng_state()

    _weights(network, generator_for(0, "weights"))

    assert torch.equal(torch.get_rng_state(), before)


def test_failing_to_build_leaves_the_global_state_untouched():
    before = torch.get_rng_state()

    with pytest.raises(OptionError, match="too small"):
        _weights(_Failing(), generator_for(0, "weights"))

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_logits_are_the_head_of_the_flat_features(network):
    module = network.build(IMAGE_SHAPE, 5, generator=generator_for(0, "weights")).eval()
    images = torch.rand(3, *IMAGE_SHAPE, generator=generator_for(0, "images"))

    features, logits = module.features(images), module(images)

    assert features.shape == (3, module.head.in_features)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(
        logits, features @ module.head.weight.mT + module.head.bias
    )


@pytest.mark.parametrize("network", [MLP(), DCConvNet(), _Guest()], ids=repr)
def test_a_network_is_the_same_for_distillation_and_evaluation(network):
    assert network.for_distillation() == network
    assert network.for_evaluation() == network


def test_batch_normalisation_has_the_momentum_of_flax():
    layer, images = (
        norm("batch", 2),
        torch.rand(6, 2, 4, 4, generator=generator_for(0, "x")),
    )

    layer(images)

    # A new running mean is 0.1 of the old one, here 0, and 0.9 of the batch's.
    assert isinstance(layer, nn.BatchNorm2d)
    torch.testing.assert_close(layer.running_mean, 0.9 * images.mean(dim=(0, 2, 3)))


def test_instance_normalisation_is_affine_and_by_channel():
    layer, images = (
        norm("instance", 3),
        torch.rand(2, 3, 4, 4, generator=generator_for(0, "")),
    )

    expected = nn.functional.instance_norm(images)

    torch.testing.assert_close(layer(images), expected)
    assert [tuple(p.shape) for p in layer.parameters()] == [(3,), (3,)]


@pytest.mark.parametrize(
    ("channels", "groups"), [(6, 6), (32, 32), (48, 24), (96, 32), (37, 1)]
)
def test_group_normalisation_has_at_most_32_groups(channels, groups):
    layer, images = norm("group", channels), torch.rand(2, channels, 3, 3)

    grouped = images.view(2, groups, -1)
    expected = (grouped - grouped.mean(dim=2, keepdim=True)) / torch.sqrt(
        grouped.var(dim=2, keepdim=True, correction=0) + 1e-5
    )

    torch.testing.assert_close(layer(images), expected.view_as(images))


def test_no_normalisation_changes_nothing():
    images = torch.rand(2, 3, 4, 4)

    assert torch.equal(norm("none", 3)(images), images)


@pytest.mark.parametrize("count", [1, 64, 65, 150])
def test_chunks_give_the_same_features_and_gradients(count):
    network = Conv(width=4, normalization="batch").build(
        (1, 32, 32), 3, generator=torch.Generator().manual_seed(0)
    )
    network.double().eval()
    images = torch.rand(count, 1, 32, 32, dtype=torch.float64, requires_grad=True)

    whole = network.features(images)
    (whole_gradient,) = torch.autograd.grad(whole.square().sum(), [images])
    chunked = features_in_chunks(network, images)
    (gradient,) = torch.autograd.grad(chunked.square().sum(), [images])

    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(gradient, whole_gradient)


@pytest.mark.parametrize("kind", ["instance", "group"])
def test_group_normalisation_is_torch_s_and_keeps_channels_last(kind: Any) -> None:
    layer = norm(kind, 64)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    groups = 64 if kind == "instance" else 32
    images = torch.randn(3, 64, 5, 7).to(memory_format=torch.channels_last)
    found = layer(images.requires_grad_())
    expected = F.group_norm(images, groups, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(3, 64, 5, 7)
    (one,) = torch.autograd.grad((found * weights).sum(), images)
    (other,) = torch.autograd.grad((expected * weights).sum(), images)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 6), (7, 6)], ids=str)
def test_pooling_is_that_of_torch_to_the_last_bit(layout, dtype, size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 5, *size, generator=generator).to(dtype)
    weights = torch.randn(3, 5, size[0] // 2, 3, generator=generator).to(dtype)
    pooled, gradients = [], []
    for pooling in (nn.AvgPool2d(2), HalvingAvgPool2d()):
        pixels = images.to(memory_format=layout).requires_grad_()
        pooled.append(pooling(pixels))
        (gradient,) = torch.autograd.grad((pooled[-1] * weights).sum(), pixels)
        gradients.append(gradient)
    assert torch.equal(*pooled)
    assert torch.equal(*gradients)
    assert gradients[1].is_contiguous(memory_format=layout)


def test_pooling_takes_single_images_and_compiles_whole():
    pooling = HalvingAvgPool2d()
    image = torch.randn(3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(pooling(image).sum(), image)
    assert torch.equal(gradient, torch.full((3, 4, 4), 0.25))
    compiled = torch.compile(pooling, fullgraph=True, backend="aot_eager")
    images = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert torch.equal(compiled(images.requires_grad_()), pooling(images))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch's own
def test_pooling_is_differentiated_in_every_way():
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 4, 4)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    images = images.to(memory_format=torch.channels_last)
    tangent = torch.randn(shape, generator=generator, dtype=torch.float64)
    pooling = HalvingAvgPool2d()
    pixels = images.clone().requires_grad_()
    assert torch.autograd.gradcheck(pooling, pixels, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(pooling, pixels)
    _, derivative = torch.func.jvp(pooling, (images,), (tangent,))
    assert torch.equal(derivative, F.avg_pool2d(tangent, 2))

    def energy(image, layer):
        return layer(image.unsqueeze(0)).square().sum()

    found, expected = (
        torch.func.vmap(torch.func.grad(energy), in_dims=(0, None))(images, layer)
        for layer in (pooling, nn.AvgPool2d(2))
    )
    assert torch.allclose(found, expected)
