"""What a release shows of each example."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from privacy_data import MLP, noisy_data

import dd_plugins
from dd_privacy.audit.mechanisms import Release
from dd_privacy.audit.mechanisms.training import trained_on
from dd_privacy.audit.observations import observe, scale_of_outputs


@pytest.fixture(scope="module")
def release() -> Release:
    """Release random real images, and a network trained on them for two steps."""
    made = dd_plugins.distill(
        noisy_data(200), "random", images_per_class=2, network=MLP, device="cpu"
    )
    return trained_on(made, 0, "cpu", 2)


def test_a_copy_of_a_member_has_no_distance_to_the_released_images(
    release: Release,
) -> None:
    assert release.distilled is not None
    copies = release.distilled.pixels()
    others = noisy_data(20, seed=5).train.images[:]
    examples = torch.cat([copies, others])
    found = observe(release, examples, torch.zeros(len(examples), dtype=torch.int64))
    assert set(found) == {"outputs", "pixel_distance", "feature_distance"}
    for name in ("pixel_distance", "feature_distance"):
        distances = found[name]
        assert distances.dtype == torch.float32
        assert float(distances[: len(copies)].max()) < 1e-3
    assert float(found["pixel_distance"][len(copies) :].min()) > 1


def test_outputs_are_those_of_the_network(release: Release) -> None:
    images = noisy_data(30, seed=5).train.images[:]
    found = observe(release, images, torch.zeros(len(images), dtype=torch.int64))
    with torch.no_grad():
        wanted = release.network(release.transform(images))
    torch.testing.assert_close(found["outputs"], wanted, rtol=1e-4, atol=1e-5)


def test_distances_are_to_the_nearest_image_and_in_the_value_space(
    release: Release,
) -> None:
    assert release.distilled is not None
    images = noisy_data(30, seed=5).train.images[:]
    found = observe(release, images, torch.zeros(len(images), dtype=torch.int64))
    values = release.transform(images).double().flatten(1)
    wanted = torch.cdist(values, release.distilled.images.double().flatten(1))
    torch.testing.assert_close(
        found["pixel_distance"].double(), wanted.min(dim=1).values, rtol=1e-4, atol=1e-5
    )
    with torch.no_grad():
        features, released = (
            torch.nn.functional.normalize(release.network.features(each)).double()
            for each in (release.transform(images), release.distilled.images)
        )
    torch.testing.assert_close(
        found["feature_distance"].double(),
        torch.cdist(features, released).min(dim=1).values,
        rtol=1e-3,
        atol=1e-4,
    )


def test_a_model_alone_has_outputs_alone(release: Release) -> None:
    alone: Any = SimpleNamespace(
        network=release.network, transform=release.transform, distilled=None
    )
    images = noisy_data(30, seed=5).train.images[:]
    labels = torch.zeros(len(images), dtype=torch.int64)
    found = observe(alone, images, labels)
    assert set(found) == {"outputs"}
    both = observe(release, images, labels)["outputs"]
    torch.testing.assert_close(found["outputs"], both, rtol=1e-4, atol=1e-5)


def test_regression_outputs_are_scaled_to_the_greatest_likelihood() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=generator)
    logits = torch.randn(400, 4, generator=generator)
    logits[torch.arange(400), labels] += 3.0
    own = scale_of_outputs(logits, labels)
    for shrunk in (8.0, 32.0):
        assert scale_of_outputs(logits / shrunk, labels) == own * shrunk
    wrong = (labels + 1) % 4
    assert scale_of_outputs(logits, wrong) == 0.25, "the least that is tried"
    assert scale_of_outputs(logits[:0], labels[:0]) == 1.0
