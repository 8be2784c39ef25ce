"""Class activation maps against a plain definition, and the ratio of meta features."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

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


def test_a_layer_that_is_used_twice_gives_its_last_large_map() -> None:
    class Shared(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1, stride=2)
            self.third = nn.Conv2d(4, 4, 3, padding=1, stride=4)
            self.relu = nn.ReLU()
            self.head = nn.Linear(4 * 2 * 2, num_classes)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            half = self.relu(self.second(self.relu(self.first(images))))
            maps = self.relu(self.third(half))  # of 2x2, too small
            return self.head(maps.flatten(1))

    network = get_network(Shared).build(
        (3, 16, 16), 5, generator=generator_for(0, "test")
    )
    network.eval().requires_grad_(False)
    layer = map_layer(network, (3, 16, 16))
    found = observe(network, layer, _images(16), CLASSES)
    body = network.body
    assert layer is body.relu
    with torch.no_grad():
        half = F.relu(body.second(F.relu(body.first(_images(16)))))
    half.requires_grad_()
    logits = network.head(F.relu(body.third(half)).flatten(1))
    scores = logits.gather(1, CLASSES[:, None]).sum()
    (gradient,) = torch.autograd.grad(scores, half)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    maps = F.relu((weights * half).sum(1, keepdim=True)).detach()
    maps = F.interpolate(maps, size=(16, 16), mode="bilinear")[:, 0]
    low, high = maps.amin((1, 2), True), maps.amax((1, 2), True)
    torch.testing.assert_close(found.maps, (maps - low) / (high - low))


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
