"""Class activation maps against a plain definition, and the ratio of meta features."""

import pytest
import torch
import torch.nn.functional as F

from dd_plugins import get_network
from dd_plugins.errors import OptionError
from dd_plugins.networks.activation_maps import map_layer, meta_ratio, observe
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.runtime.randomness import generator_for


def _network(spec: str, side: int = 32) -> FeatureNetwork:
    network = get_network(spec).build(
        (3, side, side), 5, generator=generator_for(0, "test")
    )
    return network.eval().requires_grad_(False)


def _images(side: int = 32) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=generator_for(0, "images"))


CLASSES = torch.tensor([0, 3, 1])


@pytest.mark.parametrize("name", ["conv(width=4)", "resnet18(width=4)"])
def test_map_of_a_linear_head_is_the_weighted_sum_of_its_inputs(name: str) -> None:
    """Behind an average and one linear layer the weights are those of the head."""
    network, images = _network(name), _images().requires_grad_()
    layer = map_layer(network, (3, 32, 32))
    maps = observe(network, layer, images, CLASSES).maps

    kept: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda *passed: kept.append(passed[2]))
    network(images)
    handle.remove()
    (activation,) = kept
    head = network.head.weight
    assert isinstance(head, torch.Tensor)
    weights = head[CLASSES]
    if name.startswith("conv"):  # pooled 2x2, then flattened
        weights = weights.view(3, -1, 4, 4).mean(dim=(2, 3)) / 4
    expected = F.relu((weights[:, :, None, None] * activation).sum(1, keepdim=True))
    expected = F.interpolate(expected, size=(32, 32), mode="bilinear")[:, 0]
    low, high = expected.amin((1, 2), True), expected.amax((1, 2), True)
    expected = (expected - low.detach()) / (high - low).detach()
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=0)
    gradients = [
        torch.autograd.grad(found.square().sum(), images, retain_graph=True)[0]
        for found in (maps, expected)
    ]
    scale = float(gradients[1].abs().max())
    assert scale > 0
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize(
    ("name", "side", "size"),
    [
        ("conv(width=4)", 32, 8),
        ("conv(width=4, depth=2)", 8, 4),
        ("vgg11(width=4)", 32, 4),
        ("alexnet(width=8)", 32, 8),
        ("resnet18(width=4)", 32, 4),
        ("mobilenet_v2(width=8)", 32, 4),
        ("shufflenet_v2(width=8)", 32, 4),
        ("vit(width=12, depth=1)", 32, 8),
    ],
)
def test_last_map_that_is_large_enough_is_taken(
    name: str, side: int, size: int
) -> None:
    network = _network(name, side)
    layer = map_layer(network, (3, side, side))
    sizes: list[tuple[int, ...]] = []
    layer.register_forward_hook(lambda *passed: sizes.append(passed[2].shape[-2:]))
    outputs = observe(network, layer, _images(side), CLASSES)
    assert sizes == [(size, size)]
    assert outputs.maps.shape == (3, side, side)
    assert float(outputs.maps.min()) >= 0
    assert float(outputs.maps.max()) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(outputs.logits, network(_images(side)))
    assert torch.equal(outputs.features, network.features(_images(side)))


@pytest.mark.parametrize(("name", "side"), [("mlp", 32), ("conv(width=4)", 3)])
def test_network_without_a_map_is_refused(name: str, side: int) -> None:
    spec = name if side == 32 else "dc_convnet(width=4, depth=1)"
    with pytest.raises(OptionError, match="no layer gives a map of 4x4"):
        map_layer(_network(spec, side), (3, side, side))


def test_observing_leaves_the_network_as_it_was() -> None:
    network = _network("conv(width=4)").train()
    layer = map_layer(network, (3, 32, 32))
    assert network.training
    before = [hook for module in network.modules() for hook in module._forward_hooks]
    observe(network.eval(), layer, _images(), CLASSES)
    after = [hook for module in network.modules() for hook in module._forward_hooks]
    assert before == after == []


def test_meta_ratio_is_the_overlap_of_what_is_seen() -> None:
    one = torch.tensor([[0.9, 0.6, 0.1, 0.0]])
    other = torch.tensor([[0.5, 0.1, 0.7, 0.0]])
    maps = torch.stack([one[None], other[None]])  # two architectures, one image
    assert meta_ratio(maps).tolist() == pytest.approx([1 / 3])
    assert meta_ratio(maps, threshold=0.95).tolist() == [1.0]  # nobody sees anything
    assert meta_ratio(maps[:1]).tolist() == [1.0]
    assert meta_ratio(maps, 0.05).tolist() == [1.0]
