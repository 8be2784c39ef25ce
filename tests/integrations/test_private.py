"""Training under differential privacy: what is spent, and what is refused."""

import copy
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor, nn

import dd_plugins
from dd_plugins.errors import DataError, FileError, OptionError, RunError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.networks.mlp import MLP
from dd_privacy import accounting
from dd_privacy.accounting import noise_multiplier_for, spent
from dd_privacy.private import PrivateModel, PrivateTrainer
from dd_privacy.validation import (
    check_example_gradients,
    module_obstacles,
    prepare_for_opacus,
)

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")

SMALL = {"network": "conv(width=32, depth=2, normalization='group')", "batch_size": 64}


@pytest.mark.parametrize(
    ("noise", "sample_rate", "steps", "epsilon"),
    [
        (1.777, 256 / 60000, 10000, 0.991),
        (1.0, 0.01, 1000, 1.838),
        (5.0, 1.0, 1, 0.736),
    ],
)
def test_accountant_has_the_values_that_are_known(
    noise: float, sample_rate: float, steps: int, epsilon: float
) -> None:
    found = spent(noise, sample_rate=sample_rate, steps=steps, delta=1e-5)
    assert found.epsilon == pytest.approx(epsilon, abs=2e-3)
    assert (found.accountant, found.fallback) == ("prv", None)


def test_one_release_by_the_formula_of_the_gaussian_mechanism() -> None:
    """Theorem 8 of Balle and Wang (2018): exact for one step with all examples."""
    noise, delta = 3.0, 1e-5

    def excess(epsilon: float) -> float:
        a, b = 1 / (2 * noise), epsilon * noise
        return float(norm.cdf(a - b) - math.exp(epsilon) * norm.cdf(-a - b)) - delta

    found = spent(noise, sample_rate=1.0, steps=1, delta=delta)
    assert found.epsilon == pytest.approx(brentq(excess, 0, 10), abs=0.02)


def test_noise_for_an_epsilon_is_the_least() -> None:
    found = noise_multiplier_for(1.0, sample_rate=256 / 60000, steps=10000, delta=1e-5)
    assert 0.995 <= found.epsilon <= 1.0
    assert found.noise_multiplier == pytest.approx(1.77, abs=0.01)
    assert found.accountant == "prv"


def test_fallback_to_rdp_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"sample_rate": 0.02, "steps": 50, "delta": 1e-4}
    small = spent(0.2, **about)  # type: ignore[arg-type]
    assert small.accountant == "rdp"
    assert small.fallback == "PRV is too dear for noise below 0.3"
    known = accounting._epsilon

    def overflows(accountant: str, *values: float) -> float:
        if accountant == "prv":
            raise OverflowError("the grid is too large")
        return known(accountant, *values)  # type: ignore[arg-type]

    monkeypatch.setattr(accounting, "_epsilon", overflows)
    found = spent(1.1, **about)  # type: ignore[arg-type]
    assert found.accountant == "rdp"
    assert found.fallback == "PRV failed: the grid is too large"
    least = noise_multiplier_for(3.3, **about)  # type: ignore[arg-type]
    assert least.accountant == "rdp"
    assert least.epsilon <= 3.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be positive and finite, got 0.0"),
        ({"epsilon": float("inf")}, "epsilon must be positive and finite"),
        ({"delta": 1.0}, r"delta must be in \(0, 1\), got 1.0"),
        ({"epochs": 0}, "epochs must be positive"),
        ({"clipping": "none"}, "clipping must be 'hooks' or 'ghost'"),
        ({"batch_size": 500}, "300 images are fewer than a batch of 500"),
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


class ChannelsLast(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)


def test_wrong_gradients_of_single_examples_are_found_out() -> None:
    """Opacus 1.6 takes them of a convolution in channels last, and takes them wrong."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), ChannelsLast(), nn.Conv2d(4, 4, 3), nn.Flatten()
    )
    module.append(nn.Linear(4 * 12 * 12, 3))
    with pytest.raises(OptionError, match="of this network are wrong"):
        check_example_gradients(module, (1, 16, 16), 3)
    del module[1]
    check_example_gradients(module, (1, 16, 16), 3)


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize(
    "spec",
    [
        "conv(width=32, depth=2, normalization='group')",
        "conv(width=8, depth=2, normalization='instance')",
        "dc_convnet(width=8, depth=2)",
        "vgg11(width=8, normalization='group')",
        "alexnet(width=8)",
        "mlp(width=8)",
    ],
)
def test_prepared_networks_compute_the_same_with_right_gradients(
    spec: str, ghost: bool
) -> None:
    shape = (1, 16, 16)
    network = dd_plugins.get_network(spec).for_evaluation()
    module = network.build(shape, 3, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(module).eval()
    prepare_for_opacus(module)
    images = torch.rand(2, *shape)
    torch.testing.assert_close(copy.deepcopy(module).eval()(images), before(images))
    check_example_gradients(module, shape, 3, ghost=ghost)


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


def test_command_trains_writes_and_says_what_is_not_covered(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["train-private", "--dataset", "digits", "--epsilon", "8"]
    words += ["--epochs", "4", "--batch-size", "128", "--out", "m.safetensors"]
    words += ["--network", "conv(width=32, depth=2, normalization='group')"]
    done = command_line(*words, "--json", "m.json", "--test")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    figures = json.loads((tmp_path / "m.json").read_text())
    assert 7.9 < figures["budget"]["epsilon"] <= 8
    assert figures["accuracy"] > 0.3
    assert figures["accuracy_on"] == "test"
    assert "The choice of hyper-parameters on the same data" in done.stdout
    model = PrivateModel.load(tmp_path / "m.safetensors")
    assert model.budget.epsilon == figures["budget"]["epsilon"]
    data = dd_plugins.get_dataset("digits")
    test = data.read_test()
    with torch.no_grad():
        right = model.network(model.transform(test.images[:])).argmax(1) == test.labels
    assert float(right.float().mean()) == pytest.approx(figures["accuracy"], abs=0.01)
    file = tmp_path / "m.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(FileError, match="cannot be read as a private model"):
        PrivateModel.load(file)
    refused = command_line(*words[:4], "-1", *words[5:])
    assert refused.returncode == 2
    assert "epsilon must be positive" in refused.stderr
    (tmp_path / "folder").mkdir()
    for option in ("--out", "--json"):
        lost = command_line(*words, option, "folder")
        assert lost.returncode == 1
        assert "cannot write folder: it is a folder" in lost.stderr
        assert "steps on" not in lost.stdout, "before anything is spent"


def test_training_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PrivateTrainer(network="mlp(width=4)", batch_size=20, epochs=1).fit(
            torch.rand(40, 1, 8, 8), torch.arange(40) % 3
        )


TINY: dict[str, object] = {"network": "mlp(width=4)", "batch_size": 20, "epochs": 1}
IMAGES, LABELS = torch.rand(60, 1, 8, 8), torch.arange(60) % 3


def tiny(**options: object) -> PrivateTrainer:
    return PrivateTrainer(**{**TINY, **options})  # type: ignore[arg-type]


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


def test_steps_to_be_accounted_for_are_whole_numbers() -> None:
    about = {"sample_rate": 0.1, "delta": 1e-5}
    whole = spent(1.0, steps=1, **about)
    assert spent(1.0, steps=np.int64(1), **about) == whole  # type: ignore[arg-type]
    for steps in (True, 1.0, 4.5):  # the first two are what 1 is, to a cache
        with pytest.raises(OptionError, match="steps must be a whole number"):
            spent(1.0, steps=steps, **about)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="steps must be a whole number"):
            noise_multiplier_for(1.0, steps=steps, **about)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="epochs must be a whole number"):
        tiny().budget(60, epochs=1.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="batch_size must be positive"):
        tiny().budget(60, batch_size=0)


def test_numbers_of_numpy_are_saved_as_those_of_python(tmp_path: Path) -> None:
    trainer = tiny(
        epochs=np.int64(1),
        batch_size=np.int32(20),
        seed=np.int16(3),
        epsilon=np.float32(8),
        delta=np.float64(1e-3),
    )
    model = trainer.fit(IMAGES, LABELS)
    again = PrivateModel.load(model.save(tmp_path / "model.safetensors"))
    assert again.budget == model.budget
    assert again.about["trainer"]["epsilon"] == 8.0


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


def test_diverged_training_writes_nothing(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["train-private", "--dataset", "digits", "--epsilon", "8", "--epochs", "1"]
    words += ["--network", "mlp(width=4)", "--learning-rate", "1e38"]
    done = command_line(*words, "--out", "m.safetensors", "--json", "m.json")
    assert done.returncode == 1
    assert "is spent on these images" in done.stderr
    assert "model:" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delta", [1 / 60, 0.5])
def test_delta_that_lets_an_image_out_is_refused(delta: float) -> None:
    with pytest.raises(OptionError, match="too large for 60 images"):
        tiny(delta=delta).budget(60)
    assert tiny(delta=1 / 61).budget(60).delta == 1 / 61


def layers() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()),
        nn.Linear(4 * 36, 3),
    )


@pytest.mark.parametrize("ghost", [False, True])
@pytest.mark.parametrize(
    "frozen",
    [
        ["0.weight", "0.bias", "1.weight", "1.bias"],
        ["4.weight"],
        ["4.bias"],
        ["0.bias", "1.weight"],
    ],
)
def test_frozen_parameters_take_no_gradient(frozen: list[str], ghost: bool) -> None:
    module = layers()
    for name in frozen:
        module.get_parameter(name).requires_grad_(False)
    assert module_obstacles(module) == []
    check_example_gradients(module, (1, 8, 8), 3, ghost=ghost)


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


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = layers(), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Any:
        return self.used(images)


class TwoHeads(Unused):
    def forward(self, images: Tensor) -> Any:
        found = self.used(images)
        return {0: found, 1: self.spare(found)}


class ByTask(Unused):
    def forward(self, images: Tensor, task_labels: Tensor) -> Any:
        return self.used(images) + task_labels


class InPlace(Unused):
    def forward(self, images: Tensor) -> Any:
        found = self.used(images)
        found += self.spare(images.flatten(1)[:, :3])
        return found


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Unused(), r"no output depends on spare.weight, spare.bias; freeze"),
        (TwoHeads(), r"gives a dict .* of several heads"),
        (ByTask(), r"images alone \(.*task_labels.*\); one of several heads"),
        (InPlace(), r"changes the output of a layer in place"),
        (nn.Sequential(layers(), nn.Linear(3, 2)), "tells 2 classes, .* are of 3"),
        (nn.Sequential(nn.Conv2d(1, 3, 3)), r"outputs of shape \(3, 3, 6, 6\)"),
        (
            nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), layers()),
            "changes '0.running_mean' by the images",
        ),
    ],
)
def test_networks_that_cannot_be_trained_so_say_why(
    module: nn.Module, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        check_example_gradients(module, (1, 8, 8), 3)


def test_frozen_batchnorm_and_networks_without_gradients_are_obstacles() -> None:
    for layer in (
        nn.BatchNorm2d(4).requires_grad_(False),
        nn.BatchNorm2d(4, affine=False),
        nn.SyncBatchNorm(4).requires_grad_(False),
    ):
        module = layers()
        module[1] = layer
        (obstacle,) = module_obstacles(module)
        assert "BatchNorm layer '1' mixes the examples" in obstacle
    (obstacle,) = module_obstacles(layers().requires_grad_(False))
    assert "no parameter takes a gradient" in obstacle


@pytest.mark.parametrize("normalization", ["none", "group"])
def test_a_network_that_adds_in_place_is_refused_with_that_reason(
    normalization: str,
) -> None:
    spec = f"resnet18(width=8, normalization={normalization!r})"
    with pytest.raises(OptionError, match=r"out = out \+ identity"):
        tiny(network=spec).fit(IMAGES, LABELS)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--network", "nonsense"], 2, "unknown network 'nonsense'"),
        (["--network", "conv(depth=9)"], 2, "depth 9 halves the image 9 times"),
        (["--device", "nonsense"], 2, "device 'nonsense' cannot be used"),
        (["--delta", "0.5"], 2, "delta 0.5 is too large for 1298 images"),
        (["--json", "m"], 2, "m is named for two outputs"),
        (["--json", "./m"], 2, "m is named for two outputs"),
        (["--json", "notes.txt"], 2, "notes.txt exists, and holds no JSON"),
        (["--out", "notes.txt"], 2, "notes.txt exists, and holds what may not be"),
        (["--out", "distilled.safetensors", "--overwrite"], 2, "belongs to a run"),
    ],
)
def test_what_is_wrong_is_said_before_the_budget(
    words: list[str],
    status: int,
    message: str,
    command_line: Command,
    tmp_path: Path,
) -> None:
    for name in ("notes.txt", "distilled.safetensors"):
        (tmp_path / name).write_text("mine")
    done = command_line(
        *("train-private", "--dataset", "digits", "--epsilon", "8", "--out", "m"),
        *("--network", "mlp(width=4)", *words),
    )
    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.strip().splitlines()
    assert message in line
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "m").exists()


def test_a_model_is_replaced_where_that_is_asked_for(
    command_line: Command, tmp_path: Path
) -> None:
    (tmp_path / "[red]m").write_text("older")
    words = ["train-private", "--dataset", "digits", "--epsilon", "8", "--epochs", "1"]
    words += ["--network", "mlp(width=4)", "--out", "[red]m", "--overwrite"]
    done = command_line(*words)
    assert done.returncode == 0, done.stderr
    assert PrivateModel.load(tmp_path / "[red]m").budget.epsilon <= 8
    assert "model: [red]m" in done.stdout, "a name is no markup"
