"""The convolutional autoencoder: shapes at every layer, styles, sizes that are odd."""

import pytest
import torch

from dd_plugins.decoders.base import LatentDecoder
from dd_plugins.decoders.conv import ConvDecoder
from dd_plugins.errors import OptionError
from dd_plugins.runtime.randomness import generator_for

CLASSES = torch.tensor([0, 2, 1])


def built(decoder: ConvDecoder, *shape: int, seed: int = 0) -> LatentDecoder:
    generator = generator_for(seed, "test")
    return decoder.build((shape[0], shape[1], shape[2]), 3, generator=generator)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 13, 21), (1, 28, 28)])
def test_every_layer_leads_to_the_same_images(shape: tuple[int, ...]) -> None:
    module = built(ConvDecoder(width=4, channels=3), *shape)
    images = torch.randn(3, *shape)
    latents, styles = module.encode(images, CLASSES)
    made = [
        module.decode(module.advance(latents, styles, layer), styles, layer)
        for layer in range(module.layers)
    ]
    assert made[0].shape == images.shape
    for each in made[1:]:
        torch.testing.assert_close(each, made[0])


def test_sides_are_halved_until_they_are_about_eight_pixels() -> None:
    for side, depth in ((8, 1), (16, 1), (28, 2), (32, 2), (64, 3)):
        module = built(ConvDecoder(width=2, channels=5), 1, side, side)
        latents, _ = module.encode(torch.zeros(1, 1, side, side), CLASSES[:1])
        assert latents.shape == (1, 5, side // 2**depth, side // 2**depth)
        assert module.layers == depth + 2


def test_a_style_changes_images_and_begins_as_that_of_the_class() -> None:
    module = built(ConvDecoder(width=4), 1, 8, 8)
    latents, styles = module.encode(torch.zeros(3, 1, 8, 8), CLASSES)
    _, again = module.encode(torch.ones(3, 1, 8, 8), CLASSES)
    assert torch.equal(styles, again)
    same = latents[:1].expand(3, -1, -1, -1)
    made = module.decode(same, styles, 0)
    assert not torch.allclose(made[0], made[1], atol=1e-3)


def test_a_fresh_decoder_keeps_the_scale_of_its_latents() -> None:
    module = built(ConvDecoder(width=32), 3, 32, 32)
    with torch.no_grad():
        latents, styles = module.encode(torch.randn(3, 3, 32, 32), CLASSES)
    made = module.decode(latents / latents.square().mean().sqrt(), styles, 0)
    assert 0.1 < float(made.detach().square().mean().sqrt()) < 10


def test_weights_are_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (
        built(ConvDecoder(width=2), 1, 8, 8, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_images_that_cannot_be_halved_so_often_are_refused() -> None:
    with pytest.raises(OptionError, match=r"at least 16 pixels.*got 8"):
        built(ConvDecoder(depth=4), 1, 8, 8)
    with pytest.raises(OptionError, match=r"at least 2 pixels.*halved, got 1$"):
        built(ConvDecoder(), 1, 1, 8)
