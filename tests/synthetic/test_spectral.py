"""Spectral images: which coefficients are kept, and what they become."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from torch import Tensor

import dd_plugins
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run, Task
from dd_plugins.runtime import memory
from dd_plugins.synthetic.leaves import Codec, Synthetic
from dd_plugins.synthetic.parametrizations.spectral import Spectral

CPU = torch.device("cpu")


def smooth(count: int = 200) -> Tensor:
    """Return pixels in [0, 1], whose neighbours and channels are alike."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(count, 2, 10, 8, generator=generator)
    images = torch.nn.functional.avg_pool2d(noise, 3, 1)
    images[:, 1] = 0.7 * images[:, 1] + 0.3 * images[:, 0]
    return images


IMAGES = smooth()
CLASSES = torch.arange(8) % 2


def made(spectral: Spectral, kind: Any = "standardize") -> tuple[Codec, Transform]:
    transform = Transform.fit(IMAGES, kind)
    labels = torch.arange(len(IMAGES)) % 2
    real = RealSampler(IMAGES, labels, seed=0, device=CPU, transform=transform)
    run = Run(Task("toy", (2, 8, 6), 2, 4), "dm", MLP(), 1, 0, CPU)
    return spectral.codec(run, real, transform), transform


def test_the_kept_coefficients_are_the_largest_of_real_images_by_their_squares():
    codec, transform = made(Spectral(keep=0.25))
    colours, scales = codec.constants["colours"], codec.constants["scales"]
    pixels = transform(IMAGES).double().numpy()
    mixed = np.einsum("kc,nchw->nkhw", colours.double().numpy(), pixels)
    flat = mixed.transpose(1, 0, 2, 3).reshape(2, -1)
    products = flat @ flat.T
    assert abs(products[0, 1]) < 1e-4 * products.trace()  # colours are independent
    waves = dctn(mixed, type=2, norm="ortho", axes=(2, 3))
    sizes = np.sqrt((waves**2).mean(axis=0))
    kept = scales.numpy() > 0
    assert kept.sum() == 96 // 4
    assert sizes[kept].min() >= sizes[~kept].max()
    np.testing.assert_allclose(scales.numpy()[kept], sizes[kept], rtol=1e-4)


@pytest.mark.parametrize("kind", ["standardize", "zca"])
def test_an_image_becomes_what_its_kept_coefficients_make(kind: str) -> None:
    codec, transform = made(Spectral(keep=0.25), kind)
    images = transform(IMAGES[:8])
    stored = codec.encode(images, CLASSES)
    assert stored["coefficients"].shape == (2, 4, 24)
    assert float(stored["coefficients"].square().mean()) == pytest.approx(1, abs=0.3)
    colours = codec.constants["colours"].double().numpy()
    kept = codec.constants["scales"].numpy() > 0
    pixels = transform.to_standardised(images).double().numpy()
    mixed = np.einsum("kc,nchw->nkhw", colours, pixels)
    waves = dctn(mixed, type=2, norm="ortho", axes=(2, 3)) * kept
    back = idctn(waves, type=2, norm="ortho", axes=(2, 3))
    expected = np.einsum("kc,nkhw->nchw", colours, back)
    found = codec.decode(stored)
    mapped = transform.from_standardised(torch.from_numpy(expected).float())
    torch.testing.assert_close(found, mapped, atol=1e-4, rtol=1e-4)


def test_with_every_coefficient_images_come_back() -> None:
    codec, transform = made(Spectral(keep=1.0), "zca")
    images = transform(IMAGES[:3])
    torch.testing.assert_close(
        codec.decode(codec.encode(images, CLASSES)), images, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("keep", "images", "values"),
    [(1.0, 1, 96), (0.5, 2, 96), (0.4, 2, 2 * 38), (1 / 3, 3, 96), (0.1, 10, 90)],
)
def test_a_stored_image_holds_as_many_as_fit(keep, images, values) -> None:
    spectral = Spectral(keep=keep)
    assert spectral.images_per_stored == images
    assert spectral.values_per_stored((2, 8, 6), 2) == values
    assert values <= 96


def test_a_share_of_less_than_one_coefficient_is_refused() -> None:
    with pytest.raises(
        OptionError, match=r"spectral.*less than one; the least is 0.01"
    ):
        Spectral(keep=0.01).values_per_stored((2, 8, 6), 2)
    with pytest.raises(OptionError, match="keep"):
        Spectral(keep=0.0)


def test_a_bounded_method_s_images_are_moved_towards_the_unit_range() -> None:
    codec, transform = made(Spectral(keep=0.25))
    stored = {
        "coefficients": 5 * codec.encode(transform(IMAGES[:8]), CLASSES)["coefficients"]
    }

    def outside() -> float:
        pixels = transform.invert(codec.decode(stored))
        return float((pixels - pixels.clamp(0, 1)).square().sum())

    before = outside()
    assert codec.clamp is not None
    codec.clamp(stored)
    assert outside() < 0.1 * before


def test_a_file_s_coefficients_are_decoded_as_a_run_s() -> None:
    codec, transform = made(Spectral(keep=0.25), "zca")
    stored = codec.encode(transform(IMAGES[:8]), CLASSES)
    found = Spectral(keep=0.25).read(stored, codec.constants, transform)
    assert torch.equal(found, codec.decode(stored))


def test_images_beyond_the_memory_are_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codec, transform = made(Spectral(keep=0.25))
    stored = codec.encode(transform(IMAGES[:8]), CLASSES)
    monkeypatch.setattr(memory, "memory_limit", lambda: 1_000)
    with pytest.raises(OptionError, match="memory, got 8 of shape \\(2, 8, 6\\)"):
        Spectral(keep=0.25).read(stored, codec.constants, transform)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"colours": torch.eye(3)}, r"colours of shape \(2, 2\)"),
        ({"scales": torch.ones(2, 8)}, "three dimensions"),
        ({"scales": -torch.ones(2, 8, 6)}, "none below"),
        ({"scales": torch.ones(2, 8, 6)}, "with 24 above 0"),
        ({"more": torch.ones(1)}, "decoder.colours and decoder.scales"),
    ],
)
def test_a_decoder_of_another_form_is_refused(change: Any, told: str) -> None:
    codec, transform = made(Spectral(keep=0.25))
    stored = codec.encode(transform(IMAGES[:8]), CLASSES)
    with pytest.raises(ValueError, match=told):
        Spectral(keep=0.25).read(stored, {**codec.constants, **change}, transform)


@pytest.mark.parametrize("kind", ["standardize", "zca"])
def test_colours_that_are_all_grey_stay_finite(kind: str) -> None:
    data = dd_plugins.get_dataset("digits")
    images, labels = data.train.images[:300], data.train.labels[:300]
    grey = dd_plugins.RealData.from_tensors(
        images.repeat(1, 3, 1, 1), labels, preprocessing=kind
    )
    made = dd_plugins.distill(
        grey, "dm", parametrization="spectral(keep=0.5)", steps=2, network="mlp"
    )
    assert made.images.abs().max() < 100


def test_constants_are_those_of_the_checkpoint() -> None:
    codec, transform = made(Spectral(keep=0.25))
    images, labels = transform(IMAGES[:8]), torch.eye(8)
    synthetic = Synthetic(images, labels, CLASSES, learn_labels=False, codec=codec)
    before, state = synthetic.decode().pixels, copy.deepcopy(synthetic.state_dict())
    codec.constants["colours"].neg_()  # as on another machine
    assert not torch.equal(synthetic.decode().pixels, before)
    synthetic.load_state_dict(state)
    assert torch.equal(synthetic.decode().pixels, before)


def test_the_least_share_keeps_one_coefficient() -> None:
    codec, _ = made(Spectral(keep=1 / 96))
    assert int((codec.constants["scales"] > 0).sum()) == 1
    assert math.isclose(Spectral(keep=1 / 96).images_per_stored, 96)
