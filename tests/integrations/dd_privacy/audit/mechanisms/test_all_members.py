"""Training on all members."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from mechanism_runs import same_run, weights
from privacy_data import MLP, noisy_data

from dd_plugins.errors import DDError
from dd_privacy.audit.mechanisms import AllMembers


def test_all_members_release_a_model_that_the_seed_decides() -> None:
    data = noisy_data(60)
    model = AllMembers("all", "cpu", MLP, 3)
    releases = [model.run(data, seed) for seed in (0, 0, 1)]
    first, same, other = (
        torch.nn.utils.parameters_to_vector(each.network.parameters())
        for each in releases
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert releases[0].distilled is None
    assert releases[0].epsilon is None
    network = replace(model, augment=False).run(data, 0).network
    plain = torch.nn.utils.parameters_to_vector(network.parameters())
    assert not torch.equal(first, plain)


def test_the_members_are_learned() -> None:
    data = noisy_data(120)
    release = AllMembers("all", "cpu", MLP, 60).run(data, 0)
    assert not release.network.training
    with torch.no_grad():
        found = release.network(release.transform(data.train.images[:])).argmax(dim=1)
    assert float((found == data.train.labels).float().mean()) > 0.9


def test_images_are_standardised_by_the_members_alone() -> None:
    data = noisy_data(80)
    release = AllMembers("all", "cpu", MLP, 1).run(data, 0)
    values = release.transform(data.train.images[:]).double()
    assert float(values.mean()) == pytest.approx(0, abs=1e-4)
    assert float(values.std()) == pytest.approx(1, abs=1e-3)
    darker = replace(data, train=data.train._replace(images=0.5 * data.train.images[:]))
    other = AllMembers("all", "cpu", MLP, 1).run(darker, 0)
    torch.testing.assert_close(
        other.transform(darker.train.images[:]).double(), values, rtol=1e-3, atol=1e-3
    )


def test_nothing_but_members_and_seed_decides_about_a_model() -> None:
    same_run(AllMembers("all", "cpu", MLP, 3), noisy_data(60))


def test_one_member_more_or_less_makes_another_model() -> None:
    data = noisy_data(60)
    fewer = data.train._replace(
        images=data.train.images[:-1], labels=data.train.labels[:-1]
    )
    model = AllMembers("all", "cpu", MLP, 3)
    first, second = (
        weights(model.run(each, 0)) for each in (data, replace(data, train=fewer))
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": "nowhere"}, "nowhere"),
        ({"training_steps": 0}, "steps"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_its_name(
    changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(DDError, match=named):
        replace(AllMembers("all", "cpu", MLP, 1), **changes).run(noisy_data(40), 0)


def test_a_description_has_every_option_but_the_name() -> None:
    assert AllMembers("all", "cpu", MLP, 7, augment=False).description() == {
        "mechanism": "dd_privacy.mechanisms.AllMembers",
        "device": "cpu",
        "network": MLP,
        "training_steps": 7,
        "augment": False,
    }
