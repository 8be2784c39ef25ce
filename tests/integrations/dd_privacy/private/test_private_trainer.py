"""Training under differential privacy: its steps, its noise, its refusals."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dd_plugins
from dd_plugins.errors import DataError, OptionError, RunError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.networks.mlp import MLP
from dd_privacy.private.trainer import PrivateTrainer, _flipped_at_random

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")


SMALL = {"network": "conv(width=32, depth=2, normalization='group')", "batch_size": 64}


TINY: dict[str, object] = {"network": "mlp(width=4)", "batch_size": 20, "epochs": 1}


IMAGES, LABELS = torch.rand(60, 1, 8, 8), torch.arange(60) % 3


def tiny(**options: object) -> PrivateTrainer:
    return PrivateTrainer(**{**TINY, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ({"epsilon": float("inf")}, "epsilon must be positive and finite"),
        ({"delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"clipping": "none"}, "clipping must be 'hooks' or 'ghost'"),
        ({"batch_size": 500}, "at most the 300 images, got a size of 500"),
        ({"epsilon": 1e-4, "delta": 1e-12}, "no noise keeps"),
        ({"network": "resnet18(width=8, normalization='batch')"}, "BatchNorm"),
        ({"network": "vit(width=48, depth=1)"}, "MultiheadAttention"),
    ],
)
def test_what_would_void_the_guarantee_is_refused(
    options: dict[str, object], message: str
) -> None:
    images = torch.rand(300, 1, 16, 16)
    with pytest.raises(OptionError, match=message):
        PrivateTrainer(**(SMALL | {"epochs": 1} | options)).fit(  # type: ignore[arg-type]
            images, torch.arange(300) % 3
        )


def test_both_ways_of_clipping_train_the_same_network() -> None:
    images, labels = torch.rand(200, 1, 16, 16), torch.arange(200) % 3
    trained = [
        PrivateTrainer(
            network="conv(width=32, depth=2, normalization='group')",
            batch_size=64,
            epochs=2,
            clipping=clipping,  # type: ignore[arg-type]
            seed=1,
        ).fit(images, labels)
        for clipping in ("hooks", "ghost")
    ]
    weights = [
        nn.utils.parameters_to_vector(each.network.parameters()) for each in trained
    ]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_without_a_seed_the_noise_differs_and_with_one_it_is_not_covered() -> None:
    images, labels = torch.rand(80, 1, 16, 16), torch.arange(80) % 3
    options = {**SMALL, "epochs": 1, "batch_size": 40, "network": "mlp(width=4)"}
    secret = [PrivateTrainer(**options).fit(images, labels) for _ in range(2)]  # type: ignore[arg-type]
    first, second = (
        nn.utils.parameters_to_vector(each.network.parameters()) for each in secret
    )
    assert not torch.allclose(first, second)
    assert not any("knows the seed" in each for each in secret[0].not_covered)
    seeded = [
        PrivateTrainer(**options, seed=5).fit(images, labels)  # type: ignore[arg-type]
        for _ in range(2)
    ]
    first, second = (
        nn.utils.parameters_to_vector(each.network.parameters()) for each in seeded
    )
    assert torch.equal(first, second)
    assert any("knows the seed" in sentence for sentence in seeded[0].not_covered)
    assert "seed" not in seeded[0].about["trainer"], "nobody is told"


@dd_plugins.record
class Dropping(MLP):
    """A network with dropout."""

    name = "dropping"

    def construct(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        generator: torch.Generator,
    ) -> FeatureNetwork:
        made = super().construct(image_shape, num_classes, generator=generator)
        made.body.append(nn.Dropout(0.5))
        return made


@pytest.mark.parametrize("clipping", ["hooks", "ghost"])
def test_dropout_draws_by_the_seed(
    clipping: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_plugins.get_network", lambda spec: Dropping(width=4))
    weights = []
    for seed, global_seed in ((5, 1), (5, 2), (6, 2)):
        torch.manual_seed(global_seed)
        model = tiny(seed=seed, clipping=clipping).fit(IMAGES, LABELS)
        weights.append(nn.utils.parameters_to_vector(model.network.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_images_and_labels_are_checked_first() -> None:
    trainer = PrivateTrainer(network="mlp(width=4)", batch_size=20, epochs=1)
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 3
    for given, message in (
        ((255 * images, labels), "must be in"),
        ((images, labels[:-1]), "40"),
        ((images[0, 0], labels), "shape"),
    ):
        with pytest.raises(DataError, match=message):
            trainer.fit(*given)


def test_noise_has_the_deviation_that_is_accounted_for() -> None:
    """With gradients of no length, all that moves the weights is noise."""
    images = torch.zeros(100, 1, 8, 8)
    trainer = PrivateTrainer(
        network="mlp(width=64)",
        epochs=1,
        batch_size=100,
        learning_rate=1.0,
        clipping_norm=1e-6,
        seed=0,
    )
    before = trainer._module(images, 3)
    start = nn.utils.parameters_to_vector(before.parameters()).detach()
    model = trainer.fit(images, torch.arange(100) % 3)
    end = nn.utils.parameters_to_vector(model.network.parameters()).detach()
    assert model.budget.steps == 1
    wanted = model.budget.noise_multiplier * 1e-6 / 100
    assert float((end - start).std()) == pytest.approx(wanted, rel=0.05)


def test_training_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PrivateTrainer(network="mlp(width=4)", batch_size=20, epochs=1).fit(
            torch.rand(40, 1, 8, 8), torch.arange(40) % 3
        )


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("epochs", 1.5, "a whole number"),
        ("epochs", "3", "a whole number"),
        ("epochs", True, "a whole number"),
        ("batch_size", 20.0, "a whole number"),
        ("batch_size", np.float32(20), "a whole number"),
        ("seed", 1.5, "a whole number"),
        ("seed", np.True_, "a whole number"),
        ("epsilon", "4", "a number"),
        ("learning_rate", True, "a number"),
        ("delta", [1e-5], "a number"),
    ],
)
def test_an_option_of_another_type_is_refused(
    name: str, value: object, what: str
) -> None:
    with pytest.raises(OptionError, match=f"{name} must be {what}, got"):
        tiny(**{name: value})


@pytest.mark.parametrize("clipping", ["hooks", "ghost"])
def test_steps_made_are_those_accounted_for_where_batches_are_empty(
    clipping: str,
) -> None:
    made: list[int] = []
    sizes: list[int] = []
    trainer = tiny(batch_size=1, epochs=2, clipping=clipping, seed=0)
    module = type(trainer)._module

    def watched(self: PrivateTrainer, images: Tensor, classes: int) -> nn.Module:
        found = module(self, images, classes)
        found.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateTrainer, "_module", watched)
        model = trainer.fit(
            IMAGES[:20], LABELS[:20], on_step=lambda done, total: made.append(done)
        )
    assert made == list(range(1, 41))
    assert model.budget.steps == 40
    assert 0 in sizes, "some batches are empty"
    assert all(bool(each.isfinite().all()) for each in model.network.parameters())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.uint8])
def test_labels_of_any_whole_dtype_are_trained_on(dtype: torch.dtype) -> None:
    model = tiny(seed=1).fit(IMAGES.double(), LABELS.to(dtype))
    usual = tiny(seed=1).fit(IMAGES, LABELS)
    for found, wanted in zip(
        model.network.parameters(), usual.network.parameters(), strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"learning_rate": 1e30, "clipping": "ghost"},
        {"learning_rate": 1e36, "epochs": 1, "batch_size": 60},  # by its outputs alone
        {"clipping_norm": 1e38, "epsilon": 0.5},
    ],
)
def test_training_that_diverges_is_no_model(options: dict[str, object]) -> None:
    network = "conv(width=4, depth=2, normalization='none')"
    with pytest.raises(RunError, match=r"diverged: .* epsilon \d.* is spent") as raised:
        tiny(**{"network": network, "seed": 0, **options}).fit(IMAGES, LABELS)
    assert "learning rate" in str(raised.value)


@pytest.mark.parametrize("delta", [1 / 60, 0.5])
def test_delta_that_lets_an_image_out_is_refused(delta: float) -> None:
    with pytest.raises(OptionError, match="less than 1/60 for 60 images"):
        tiny(delta=delta).budget(60)
    assert tiny(delta=1 / 61).budget(60).delta == 1 / 61


@dd_plugins.record
class FrozenMLP(MLP):
    """A network whose first layers are not trained."""

    name = "frozen_mlp"

    def construct(self, *args: Any, **options: Any) -> FeatureNetwork:
        network = super().construct(*args, **options)
        network.body.requires_grad_(False)
        return network


def test_a_head_is_trained_on_features_that_stay() -> None:
    trainer = tiny(network=FrozenMLP(width=4), seed=0)
    before = trainer._module(IMAGES, 3)
    network = trainer.fit(IMAGES, LABELS).network
    trained = dict(network.named_parameters())
    changed = {
        name
        for name, value in before.named_parameters()
        if not torch.equal(value, trained[name])
    }
    assert changed == {name for name in trained if name.startswith("head")}


@pytest.mark.parametrize("normalization", ["none", "group"])
def test_a_network_that_adds_in_place_is_refused_with_that_reason(
    normalization: str,
) -> None:
    spec = f"resnet18(width=8, normalization={normalization!r})"
    with pytest.raises(OptionError, match=r"out = out \+ identity"):
        tiny(network=spec).fit(IMAGES, LABELS)


def test_numbers_of_a_budget_are_checked() -> None:
    with pytest.raises(OptionError, match="epochs must be a whole number"):
        tiny().budget(60, epochs=1.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="batch_size must be positive"):
        tiny().budget(60, batch_size=0)


def test_a_budget_is_of_batches_as_opacus_counts_them() -> None:
    found = tiny(epochs=3).budget(65)
    assert found.sample_rate == 1 / 4, "four batches of twenty"
    assert found.steps == 12
    assert found.delta == pytest.approx(0.1 / 65)
    assert found.epsilon <= 4.0
    other = tiny().budget(65, batch_size=65, epochs=2)
    assert (other.sample_rate, other.steps) == (1.0, 2)


def test_generators_are_of_a_purpose_a_training_and_the_seed() -> None:
    def drawn(trainer: PrivateTrainer, *words: Any) -> list[float]:
        return torch.rand(3, generator=trainer.generator(*words)).tolist()

    seeded = tiny(seed=3)
    assert drawn(seeded, "noise") == drawn(tiny(seed=3), "noise")
    found = [
        drawn(seeded, "noise"),
        drawn(seeded, "noise", 1),
        drawn(seeded, "batches"),
        drawn(tiny(seed=4), "noise"),
        drawn(tiny(), "noise"),
        drawn(tiny(), "noise"),
    ]
    assert len({tuple(each) for each in found}) == len(found)


def test_what_fit_refuses_is_refused_before() -> None:
    tiny().check((1, 8, 8), 3)
    with pytest.raises(OptionError, match="such as 'cuda:1'; got 'nowhere'"):
        tiny(device="nowhere").check((1, 8, 8), 3)
    batch_norm = "conv(width=4, depth=2, normalization='batch')"
    with pytest.raises(OptionError, match="cannot be trained under differential"):
        tiny(network=batch_norm).check((1, 8, 8), 3)


def test_half_of_the_images_are_flipped() -> None:
    images = torch.rand(400, 1, 2, 2)
    found = _flipped_at_random(images, torch.Generator().manual_seed(0))
    same = (found == images).flatten(1).all(dim=1)
    flipped = (found == images.flip(3)).flatten(1).all(dim=1)
    assert (same ^ flipped).all()
    assert 160 < int(flipped.sum()) < 240
    again = _flipped_at_random(images, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)


def test_a_model_records_how_it_was_trained() -> None:
    model = tiny(seed=0, learning_rate=0.1).fit(
        IMAGES, LABELS, class_names=["a", "b", "c"], mirror=True
    )
    assert model.about["class_names"] == ["a", "b", "c"]
    assert (model.about["images"], model.about["seeded"]) == (60, True)
    assert model.about["image_shape"] == [1, 8, 8]
    trainer = model.about["trainer"]
    assert (trainer["learning_rate"], trainer["batch_size"]) == (0.1, 20)
    assert "seed" not in trainer
    assert not model.network.training
