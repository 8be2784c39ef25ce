import numpy as np
import pytest
import torch
from torch import nn

from dd_plugins.networks.base import has_batch_norm
from dd_plugins.networks.mlp import MLP
from dd_plugins.runtime.randomness import generator_for


def _build(network, image_shape):
    return network.build(image_shape, 7, generator=generator_for(0, "weights"))


def _layers(module):
    return [layer for layer in module.body if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize(
    ("network", "sizes"),
    [
        (MLP(), [(128, 60), (128, 128)]),
        (MLP(width=5, depth=1), [(5, 60)]),
        (MLP(width=5, depth=3), [(5, 60), (5, 5), (5, 5)]),
    ],
)
def test_hidden_layers_all_have_the_width(network, sizes):
    module = _build(network, (3, 4, 5))

    assert [tuple(layer.weight.shape) for layer in _layers(module)] == sizes
    assert tuple(module.head.weight.shape) == (7, network.width)


def test_features_are_the_last_rectified_layer():
    module = _build(MLP(width=6, depth=2), (2, 3, 3)).double()
    images = torch.rand(
        4, 2, 3, 3, generator=generator_for(0, "x"), dtype=torch.float64
    )

    features = module.features(images).detach().numpy()

    expected = images.numpy().reshape(4, 18)
    for layer in _layers(module):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        expected = np.maximum(expected @ weight.T + bias, 0)
    np.testing.assert_allclose(features, expected, atol=1e-12)
    assert (features == 0).any()


@pytest.mark.parametrize(
    ("kind", "layer"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)]
)
def test_normalisation_stands_before_each_rectifier(kind, layer):
    module = _build(MLP(width=6, depth=2, normalization=kind), (2, 3, 3))

    expected = [nn.Flatten, *2 * [nn.Linear, layer, nn.ReLU]]
    assert [type(part) for part in module.body] == expected
    assert has_batch_norm(module) == (kind == "batch")
    images = torch.rand(8, 2, 3, 3, generator=generator_for(0, "x"))
    hidden = module.body[:3](images)  # in training mode
    dimension = 0 if kind == "batch" else 1
    torch.testing.assert_close(
        hidden.mean(dimension),
        torch.zeros(hidden.shape[1 - dimension]),
        atol=1e-5,
        rtol=0,
    )
