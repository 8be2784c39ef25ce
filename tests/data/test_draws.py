"""Draws of a data set's training images: where and how they are mapped."""

import warnings
from typing import Any

import pytest
import torch

from dd_plugins.data.draws import sampler_of
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDWarning
from dd_plugins.testing import toy_data

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"seed": 0, "device": CPU, "precision": torch.float32}


def wanted(data: RealData, transform: Transform) -> torch.Tensor:
    images: torch.Tensor = transform(data.train.images)  # type: ignore[arg-type]
    return images


@pytest.mark.parametrize("kind", ["zca", "standardize"])
def test_images_are_the_same_mapped_before_or_when_they_are_drawn(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy_data().with_preprocessing(kind)
    asked: list[float] = []

    def fits(size: float) -> bool:
        asked.append(size)
        return len(asked) == 1

    monkeypatch.setattr("dd_plugins.data.draws.fits_in_memory", fits)
    every = torch.arange(len(data.train.labels))
    found = []
    for _ in range(2):
        transform, sampler = sampler_of(data, **OPTIONS)
        assert transform.kind == kind
        found.append(sampler.read(every).images)
    assert asked == [4 * data.train.images.numel()] * 2
    torch.testing.assert_close(*found)
    torch.testing.assert_close(found[0], wanted(data, transform))
    torch.testing.assert_close(
        found[0].mean(dim=0), torch.zeros(1, 8, 8), atol=2.0, rtol=0
    )


def test_images_are_kept_in_the_precision_in_which_networks_see_them() -> None:
    data = toy_data()
    low = OPTIONS | {"precision": torch.bfloat16}
    transform, sampler = sampler_of(data, **low)
    found = sampler.read(torch.arange(len(data.train.labels))).images
    exact = wanted(data, transform)
    assert torch.equal(found, exact.bfloat16().float())
    assert not torch.equal(found, exact)


def test_a_given_map_goes_before_the_data_s_own_and_that_before_a_fitted_one() -> None:
    own, given = (Transform(torch.tensor([v]), torch.tensor([2.0])) for v in (3.0, 5.0))
    plain = toy_data()
    data = plain.with_transform(own)
    for found, expected in (
        (sampler_of(data, **OPTIONS, transform=given), given),
        (sampler_of(data, **OPTIONS), own),
        (
            sampler_of(plain, **OPTIONS),
            Transform.fit(plain.train.images, "standardize"),
        ),
    ):
        transform, sampler = found
        assert transform.fingerprint == expected.fingerprint
        images = sampler.read(torch.tensor([4])).images
        torch.testing.assert_close(images, wanted(data, expected)[4:5])


def test_nothing_is_said_of_large_images_whose_map_is_given() -> None:
    data = RealData.from_tensors(torch.rand(8, 3, 41, 41), torch.arange(8) % 2)
    assert data.unfit_to_whiten
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler_of(data, **OPTIONS, transform=Transform.identity(3))


def test_images_that_cannot_be_whitened_are_standardised_with_the_reason() -> None:
    data = RealData.from_tensors(torch.rand(8, 1, 40, 101), torch.arange(8) % 2)
    with pytest.warns(DDWarning, match="1x40x101 are .* sides divisible by 2"):
        transform, _ = sampler_of(data, **OPTIONS)
    assert transform.kind == "standardize"


def test_what_is_made_from_draws_is_named_by_data_and_value_space() -> None:
    data = toy_data()
    own = data.with_transform(Transform.identity(1))
    names = [
        sampler_of(each, **OPTIONS)[1].content
        for each in (data, data.with_preprocessing("zca"), own, toy_data(validation=0))
    ]
    assert len({*names}) == 4
    assert names[0] == f"{data.fingerprint} standardize"
    again = sampler_of(toy_data(), **(OPTIONS | {"seed": 9}))[1].content
    assert again == names[0], "of no run"
