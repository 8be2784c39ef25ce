"""Private training as a mechanism."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from mechanism_runs import weights
from privacy_data import noisy_data

from dd_plugins.errors import OptionError
from dd_privacy.audit.mechanisms import PrivateTraining
from dd_privacy.private.trainer import PrivateTrainer


def test_private_training_is_repeated_by_the_seed_of_the_run() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    trainer = PrivateTrainer(
        network="mlp(width=4)", epsilon=8.0, batch_size=20, epochs=1, device="nowhere"
    )
    private = PrivateTraining("private", "cpu", trainer)
    data = noisy_data(80)
    first, same = (private.run(data, 3) for _ in range(2))
    weights = [
        torch.nn.utils.parameters_to_vector(each.network.parameters())
        for each in (first, same)
    ]
    assert torch.equal(*weights)
    assert first.distilled is None
    assert first.epsilon is not None
    assert 7.9 < first.epsilon <= 8.0
    assert private.expected_seconds(data) > 0


def small(**changes: object) -> PrivateTraining:
    options = {"network": "mlp(width=4)", "epsilon": 8.0, "batch_size": 20, "epochs": 1}
    return PrivateTraining("private", "cpu", PrivateTrainer(**options | changes))  # type: ignore[arg-type]


def test_a_run_draws_by_its_own_seed_whatever_the_trainer_has() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    data = noisy_data(80)
    first, same, other = (
        weights(small(seed=own).run(data, seed))
        for own, seed in ((None, 3), (11, 3), (None, 4))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_private_model_maps_images_by_no_statistic_of_its_members() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    ends = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    for seed in (0, 1):
        release = small().run(noisy_data(80, seed=seed), 0)
        assert not release.network.training
        assert release.transform(ends).amax(dim=(1, 2, 3)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("members", "batch_size"),
    [(1, 1), (7, 1), (8, 1), (79, 9), (4096, 512), (1_000_000, 512)],
)
def test_a_batch_is_an_eighth_of_the_members_at_most(
    members: int, batch_size: int
) -> None:
    private = PrivateTraining.at(2.5, 1e-6, members=members, device="cpu")
    assert private.trainer.batch_size == batch_size
    assert (private.trainer.epsilon, private.trainer.delta) == (2.5, 1e-6)
    assert (private.device, private.trainer.network) == ("cpu", PrivateTrainer.network)
    assert "2.5" in private.name


def test_a_description_has_every_option_of_the_trainer() -> None:
    found = json.loads(json.dumps(small(delta=1e-3).description()))
    assert found["trainer"] == asdict(small(delta=1e-3).trainer)
    assert set(found) == {"mechanism", "device", "trainer"}


@pytest.mark.parametrize(
    ("epsilon", "delta", "named"),
    [(0.0, 1e-5, "epsilon"), (-1.0, 1e-5, "epsilon"), (1.0, 2.0, "delta")],
)
def test_a_guarantee_that_there_is_not_is_refused(
    epsilon: float, delta: float, named: str
) -> None:
    with pytest.raises(OptionError, match=named):
        PrivateTraining.at(epsilon, delta, members=80, device="cpu")


def test_a_delta_that_lets_an_example_out_is_refused_by_its_number() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    data = noisy_data(80)
    with pytest.raises(OptionError, match=r"0\.1\b.*\b76\b"):
        replace(small(delta=0.1)).run(data, 0)
