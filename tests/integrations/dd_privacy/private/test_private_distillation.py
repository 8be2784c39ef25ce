"""Private distillers: the guarantee that a set states, and what would void it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq, lsq_linear

import dd_plugins
from dd_plugins.api import (
    AbstractWrapper,
    DDError,
    DDWarning,
    FeatureNetwork,
    Leaves,
    Metrics,
    OptionError,
    RealData,
    RealSampler,
    Transform,
    add_gradient,
    record,
)
from dd_plugins.testing import DISTILLER_CHECKS, toy_data
from dd_plugins.testing.laws import name_of
from dd_privacy.audit.statistics.epsilon import one_run_epsilon
from dd_privacy.private.distillation import PrivateState
from dd_privacy.private.dp_dm import DPDM
from dd_privacy.private.dp_frepo import (
    DPFRePo,
    clipped_gradients_of_images,
    clipped_gradients_of_weights,
)
from dd_privacy.private.noise import SecretNoise

SPECS = ["dp_frepo(1, batch_size=50)", "dp_dm(1, batch_size=50)"]
NETWORK = "conv(width=4, depth=2)"

# The noise covers the loss, and that of dp_frepo is the length of its noisy gradient.
FALLING = "check_loss_falls"


@pytest.mark.parametrize("check", DISTILLER_CHECKS, ids=name_of)
@pytest.mark.parametrize("kind", [DPFRePo, DPDM])
@pytest.mark.filterwarnings("ignore:.*noise_seed is for tests")
def test_it_is_a_distiller(check: Any, kind: Any) -> None:
    if check.__name__ != FALLING:
        check(kind(10.0, batch_size=50, noise_seed=3))


def distilled(spec: str, **options: Any) -> dd_plugins.DistilledSet:
    return dd_plugins.distill(
        toy_data(validation=0.0), spec, steps=5, network=NETWORK, **options
    )


@pytest.mark.parametrize("spec", SPECS)
def test_the_set_states_its_guarantee(spec: str) -> None:
    header = distilled(spec).header
    privacy = header.privacy
    assert privacy is not None
    assert 0.9 < privacy.epsilon <= 1
    assert (privacy.delta, privacy.accountant, privacy.steps) == (1e-5, "prv", 5)
    assert (privacy.sampling, privacy.sample_rate) == ("poisson", 50 / 120)
    assert "Attacks on floating-point noise" in " ".join(privacy.not_covered)
    assert "epsilon" in privacy.line()
    # Nothing that was read from the images:
    assert header.initial_indices is None
    assert header.initial_images == "noise"
    assert header.value_space == "constant"
    assert header.dataset.fingerprint == ""


def test_a_secure_run_says_so() -> None:
    privacy = distilled("dp_dm(1, secure_noise=True)").header.privacy
    assert privacy is not None
    assert privacy.secure_noise
    assert not any("floating-point" in each for each in privacy.not_covered)


@pytest.mark.parametrize("spec", SPECS)
def test_two_runs_of_one_seed_have_noise_of_their_own(spec: str) -> None:
    first, second = distilled(spec), distilled(spec)
    assert not torch.equal(first.images, second.images)


def test_epsilon_by_the_formula_of_the_gaussian_mechanism() -> None:
    """Where every image is in every batch, the steps are one Gaussian release."""
    spec = "dp_frepo(2.0, batch_size=1000)"
    privacy = distilled(spec).header.privacy
    assert privacy is not None
    assert privacy.sample_rate == 1
    mu, normal = privacy.steps**0.5 / privacy.noise_multiplier, stats.norm.cdf

    def delta(epsilon: float) -> float:
        far = normal(-mu / 2 - epsilon / mu)
        return float(normal(mu / 2 - epsilon / mu) - np.exp(epsilon) * far)

    exact = brentq(lambda epsilon: delta(epsilon) - 1e-5, 0.1, 10)
    assert exact <= privacy.epsilon < exact + 0.02


def test_epsilon_by_an_independent_calculation() -> None:
    """The privacy loss of a step on a grid; its sum over steps by a convolution."""
    privacy = distilled("dp_dm(1.5, batch_size=20)").header.privacy
    assert privacy is not None
    rate, noise = privacy.sample_rate, privacy.noise_multiplier

    def delta(epsilon: float) -> float:
        return max(
            _composed_delta(epsilon, rate, noise, privacy.steps, removed)
            for removed in (False, True)
        )

    independent = brentq(lambda epsilon: delta(epsilon) - 1e-5, 0.5, 3, xtol=1e-3)
    assert independent - 2e-3 <= privacy.epsilon < independent + 0.02


def _composed_delta(
    epsilon: float, rate: float, noise: float, steps: int, removed: bool
) -> float:
    """Return delta at epsilon of steps that see a sum of 0, or of 1 at a rate."""
    points = np.linspace(-40 * noise, 40 * noise + 1, 400_001)
    without = stats.norm.pdf(points, 0, noise)
    with_it = (1 - rate) * without + rate * stats.norm.pdf(points, 1, noise)
    upper, lower = (with_it, without) if removed else (without, with_it)
    there = (upper > 0) & (lower > 0)
    mass = upper[there] * (points[1] - points[0])
    loss = np.log(upper[there] / lower[there])
    width, most = 2e-4, 12.0
    grid = np.arange(-most, most, width)
    histogram, _ = np.histogram(
        loss, bins=np.append(grid, most) - width / 2, weights=mass
    )
    spectrum = np.fft.rfft(np.roll(histogram, -len(grid) // 2)) ** steps
    total = np.roll(np.fft.irfft(spectrum, len(grid)), len(grid) // 2)
    above = grid > epsilon
    return float((total[above] * (1 - np.exp(epsilon - grid[above]))).sum())


def test_gradients_of_weights_are_those_of_single_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 7, generator=generator, dtype=torch.float64)
    targets = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    for clipping_norm in (0.5, 5.0, 1e9):
        expected = torch.zeros_like(weights)
        for feature, target in zip(features, targets, strict=True):
            leaf = weights.clone().requires_grad_()
            error = 0.5 * (feature @ leaf - target).square().sum()
            (gradient,) = torch.autograd.grad(error, [leaf])
            expected += gradient * min(1.0, clipping_norm / float(gradient.norm()))
        found = clipped_gradients_of_weights(features, targets, weights, clipping_norm)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients_of_images_are_those_of_single_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(16, 6, generator=generator, dtype=torch.float64)
    images = torch.randn(4, 1, 4, 4, generator=generator, dtype=torch.float64)
    labels = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    features = torch.randn(70, 6, generator=generator, dtype=torch.float64)
    targets = torch.randn(70, 3, generator=generator, dtype=torch.float64)

    def weights_of(view: torch.Tensor) -> torch.Tensor:
        own = torch.tanh(view.flatten(1) @ mixing)
        gram = own @ own.mT + 0.1 * torch.eye(4, dtype=torch.float64)
        return own.mT @ torch.linalg.solve(gram, labels)

    clipping_norm = 0.3
    expected = torch.zeros_like(images)
    for feature, target in zip(features, targets, strict=True):
        leaf = images.clone().requires_grad_()
        error = 0.5 * (feature @ weights_of(leaf) - target).square().sum()
        (gradient,) = torch.autograd.grad(error, [leaf])
        expected += gradient * min(1.0, clipping_norm / float(gradient.norm()))
    found = clipped_gradients_of_images(
        weights_of, images, features, targets, clipping_norm
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*noise_seed is for tests")
def test_both_ways_to_clip_agree_where_nothing_is_clipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SecretNoise, "gaussian", lambda self, step, shape: 0.0)
    options = "1, batch_size=1000, clipping_norm=1e6, noise_seed=1"
    made = [
        distilled(f"dp_frepo({options}, clipped='{what}')", precision="float32")
        for what in ("weights", "images")
    ]
    torch.testing.assert_close(made[0].images, made[1].images, rtol=1e-3, atol=1e-3)


CANARIES = 40


@record
class Catching(DPFRePo):
    """Keeps the gradients that its steps give the set: all that a run tells."""

    name = "catching"

    def accumulate(self, state: Any, leaves: Leaves, *rest: Any) -> Metrics:
        metrics = super().accumulate(state, leaves, *rest)
        assert leaves.pixels.grad is not None
        caught.append(leaves.pixels.grad.clone())
        return metrics


caught: list[torch.Tensor] = []


def released(
    members: torch.Tensor, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the gradient that a step of ``dp_frepo`` on some images gives the set."""
    data = RealData.from_values(
        images[members], labels[members], class_names=["a", "b"], name="canaries"
    )
    distiller = Catching(1.0, batch_size=10_000, clipping_norm=0.01, pool_size=1)
    dd_plugins.distill(
        data, distiller, steps=1, network=NETWORK, images_per_class=4, device="cpu"
    )
    return caught.pop().flatten().double()


def epsilons_of_canaries(runs: int) -> list[float]:
    """Return what runs prove of epsilon, if the adversary knows all but their coins.

    Canaries are images of huge values with the wrong label: each is clipped to the
    clipping norm. The gradient is a sum of theirs, known up to the noise.
    """
    labels = torch.arange(CANARIES) % 2
    generator = torch.Generator().manual_seed(0)
    images = 1e3 * torch.randn(CANARIES, 1, 8, 8, generator=generator)
    with pytest.MonkeyPatch.context() as patch:  # what each would add, without noise
        patch.setattr(SecretNoise, "gaussian", lambda self, step, shape: 0.0)
        one_each = [torch.arange(CANARIES) == number for number in range(CANARIES)]
        alone = torch.stack([released(one, images, labels) for one in one_each])
    found = []
    for _ in range(runs):
        coins = torch.rand(CANARIES, generator=generator) < 0.5
        # Gradients are divided by how many images there are, which is public.
        count = int(coins.sum())
        gradient = released(coins, images, labels) * count
        # The gradient has fewer dimensions than there are canaries: bounds help.
        guessed = lsq_linear(alone.mT.numpy(), gradient.numpy(), (0, 1), tol=1e-14).x
        order = torch.tensor(guessed).argsort()
        quarter = CANARIES // 4
        out, inside = order[:quarter], order[-quarter:]
        correct = int((~coins[out]).sum() + coins[inside].sum())
        found.append(
            one_run_epsilon(
                examples=CANARIES, guesses=2 * quarter, correct=correct, delta=1e-5
            )
        )
    return found


def test_canaries_prove_no_more_than_epsilon() -> None:
    found = epsilons_of_canaries(20)
    assert max(found) <= 1.0, found


def test_without_noise_canaries_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SecretNoise, "gaussian", lambda self, step, shape: 0.0)
    assert min(epsilons_of_canaries(5)) > 1.0


@record
class Reading(AbstractWrapper):
    """A wrapper that reads real images."""

    name = "reading"

    def adjust(
        self, state: PrivateState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        mean = real.batch(step, 10).images.mean()
        add_gradient(leaves.pixels, torch.zeros_like(leaves.pixels) + mean)
        return {}


def given_validation() -> RealData:
    data = toy_data()
    return RealData.from_tensors(
        data.train.images, data.train.labels, validation=tuple(data.validation)
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"preprocessing": "zca"}, "expected preprocessing 'constant', got 'zca'"),
        ({"preprocessing": "standardize"}, "expected preprocessing 'constant'"),
        ({"initial_images": "real"}, "must start from noise or public images"),
        ({"initial_images": "herding"}, "must start from noise or public images"),
        ({"initial_images": "public"}, "need a private distiller that names public"),
        ({"images_per_class": "proportional(total=4)"}, "must not count the images"),
        ({"parametrization": "spectral(keep=0.5)"}, "name public ones for it"),
        ({"distiller": "dp_frepo(1, delta=0.01)"}, "delta must be less than 1/120"),
        ({"distiller": "dp_frepo(1e-9)"}, "no noise keeps 5 steps"),
        ({"distiller": Reading(DPFRePo(1.0))}, "reading reads real images without"),
        ({"distiller": "rotated(dp_dm(1))"}, "rotated reads real images without"),
        ({"distiller": "dp_frepo(1, public='digits')", "data": "digits"}, "not be the"),
        ({"distiller": "dp_frepo(-1)"}, "greater than 0"),
        ({"distiller": "dp_frepo(1, noise_seed=-1)"}, "noise_seed"),
        ({"distiller": "dp_dm(1, clipping_norm=1e-40)"}, "clipping_norm"),
        ({"distiller": "dp_dm(1, clipping_norm=1e300)"}, "clipping_norm"),
        ({"distiller": "dp_frepo"}, "epsilon"),
        ({"distiller": "dp_frepo(1, public='no-such-set')"}, "no-such-set"),
    ],
)
def test_what_would_void_the_guarantee_is_refused(
    options: dict[str, Any], told: str
) -> None:
    asked = {"data": toy_data(validation=0.0), "distiller": "dp_frepo(1)", "steps": 5}
    with pytest.raises(DDError) as refused:
        dd_plugins.distill(**asked | {"network": NETWORK} | options)
    assert re.search(told, str(refused.value)), refused.value
    assert "\n" not in str(refused.value)


def test_a_network_that_mixes_a_batch_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mixing(self: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
        flat = images.flatten(1)
        return flat - flat.mean(dim=0)

    monkeypatch.setattr(FeatureNetwork, "features", mixing)
    for spec in SPECS:
        with pytest.raises(OptionError, match="mixes a batch"):
            distilled(spec)


def test_given_validation_images_stay_unread() -> None:
    with pytest.warns(DDWarning, match="validation images that were given"):
        dd_plugins.distill(given_validation(), "dp_dm(1)", steps=2, network=NETWORK)


def test_a_split_that_depends_on_the_images_is_undone() -> None:
    """One image less of a class would move others in and out of the training images."""
    made = dd_plugins.distill(toy_data(), "dp_dm(1)", steps=2, network=NETWORK)
    assert made.header.dataset.train_images == 120


PUBLIC = "fake:2x1x8x8x30"


def of_data(data: Any, **options: Any) -> dd_plugins.DistilledSet:
    """Return a set that is not private."""
    asked = {"steps": 1, "network": NETWORK, "preprocessing": "constant"}
    return dd_plugins.distill(data, "random", **asked | options)


def named(name: str, count: int = 40) -> RealData:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(count) % 2
    return RealData.from_tensors(images, labels, class_names=list("01"), name=name)


def test_a_set_of_public_images_can_be_the_start() -> None:
    asked = {"data": named("private"), "steps": 2, "network": NETWORK}
    public = of_data(PUBLIC)
    spec = f"dp_dm(1, public='{PUBLIC}')"
    made = dd_plugins.distill(
        **asked, distiller=spec, context=public, refine_context=True
    )
    first = made.header.privacy
    assert first is not None
    assert first.epsilon <= 1
    # A set that is private itself may be the start of another one: both are spent.
    further = dd_plugins.distill(
        **asked, distiller=spec, context=made, refine_context=True
    )
    assert further.header.context is not None
    both = further.header.privacy
    assert both is not None
    assert both.epsilon == pytest.approx(2 * first.epsilon)
    assert both.delta == pytest.approx(2 * first.delta)
    assert "added to the epsilon of its context" in both.line()
    assert both.not_covered == first.not_covered


def test_a_private_set_below_a_public_one_is_spent_too() -> None:
    spec = f"dp_dm(1, public='{PUBLIC}')"
    asked = {"data": named("private"), "distiller": spec, "steps": 2}
    asked |= {"network": NETWORK, "refine_context": True}
    below = dd_plugins.distill(**asked | {"refine_context": False})
    between = of_data(PUBLIC, context=below, refine_context=True)
    assert between.header.privacy is None
    made = dd_plugins.distill(**asked, context=between)
    first, both = below.header.privacy, made.header.privacy
    assert first is not None
    assert both is not None
    assert both.epsilon == pytest.approx(2 * first.epsilon)
    further = dd_plugins.distill(**asked, context=made).header.privacy
    assert further is not None
    assert further.epsilon == pytest.approx(3 * first.epsilon), "each is added once"


def test_a_set_of_private_images_cannot_be_the_start() -> None:
    """Whatever part of them it was made of, and however deep it lies."""
    data = named("private")
    asked = {"data": data, "steps": 2, "network": NETWORK, "distiller": "dp_dm(1)"}
    for own in (
        of_data(data),
        of_data(named("private", 30)),
        of_data(data, context=of_data(data), refine_context=True),
    ):
        with pytest.raises(OptionError, match="its context must be private too or be"):
            dd_plugins.distill(**asked, context=own, refine_context=True)


@pytest.mark.filterwarnings("ignore:.*noise_seed is for tests")
def test_a_set_whose_noise_is_known_cannot_be_the_start() -> None:
    known = distilled("dp_dm(1, noise_seed=1)")
    assert known.header.privacy is None
    with pytest.raises(OptionError, match="its context must be private too"):
        distilled("dp_dm(1)", context=known, refine_context=True)


def test_a_given_value_space_must_be_constant() -> None:
    data = toy_data(validation=0.0)
    fitted = Transform.fit(data.train.images, "zca")
    with pytest.raises(OptionError, match="expected preprocessing 'constant'"):
        dd_plugins.distill(
            data.with_transform(fitted), "dp_dm(1)", steps=2, network=NETWORK
        )
    values = RealData.from_values(data.train.images[:] - 0.5, data.train.labels)
    made = dd_plugins.distill(values, "dp_dm(1)", steps=2, network=NETWORK)
    assert made.header.privacy is not None


def test_every_class_has_images_though_none_is_there() -> None:
    """Of which classes there are images is private."""
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
    data = RealData.from_values(images, labels, class_names=list("abc"))
    made = dd_plugins.distill(
        data, "dp_dm(1)", images_per_class=(1, 2, 1), steps=2, network=NETWORK
    )
    assert made.header.initial_classes == [0, 1, 1, 2]


@pytest.mark.parametrize(
    "spec", ["dp_frepo(1)", "dp_frepo(1, clipped='images')", "dp_dm(1)"]
)
@pytest.mark.parametrize("value", [3e38, 1e30, 0.0])
def test_an_extreme_image_does_not_stop_a_run(spec: str, value: float) -> None:
    images = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[7] = value
    images[7, 0, 0, 0] = -value
    data = RealData.from_values(images, torch.arange(60) % 2)
    made = dd_plugins.distill(data, spec, steps=3, network=NETWORK)
    assert torch.isfinite(made.images).all()


@pytest.mark.parametrize("spec", SPECS)
def test_a_run_keeps_its_secret_before_its_first_step(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps that are made again with other noise would be spent twice."""
    steps = [0]
    gaussian = SecretNoise.gaussian

    def stopping(self: SecretNoise, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        steps.append(self.key)
        if len(steps) == 4:
            raise OSError("the power is gone")
        return gaussian(self, step, shape)

    monkeypatch.setattr(SecretNoise, "gaussian", stopping)
    with pytest.raises(OSError, match="power"):
        distilled(spec, out=tmp_path / "run")
    made = distilled(spec, out=tmp_path / "run", resume=True)
    assert made.header.steps == 5
    assert len(set(steps[1:])) == 1, "the same noise, step by step"


def test_a_run_does_not_go_on_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same noise would hide sums that differ in their last bits."""
    gaussian = SecretNoise.gaussian

    def stopping(self: SecretNoise, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        if step == 2:
            raise OSError("the power is gone")
        return gaussian(self, step, shape)

    with monkeypatch.context() as patch:
        patch.setattr(SecretNoise, "gaussian", stopping)
        with pytest.raises(OSError, match="power"):
            distilled("dp_dm(1)", out=tmp_path / "run")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "ANOTHER")
    with pytest.raises(OptionError, match="a private run cannot go on elsewhere"):
        distilled("dp_dm(1)", out=tmp_path / "run", resume=True)


@pytest.mark.parametrize("parametrization", ["identity", "spectral(keep=0.5)"])
def test_public_images_may_be_read(parametrization: str) -> None:
    """The set starts from them, and the waves that are kept are chosen by them."""
    public = "dp_dm(1, public='fake:3x1x8x8x30', learning_rate=1e-9)"
    made = distilled(public, parametrization=parametrization)
    assert made.header.initial_images == "public"
    assert made.header.initial_indices is None
    assert made.header.privacy is not None
    assert any("taken for public" in each for each in made.header.privacy.not_covered)
    if parametrization == "identity":
        images = dd_plugins.get_dataset("fake:3x1x8x8x30").undivided().train.images[:]
        distances = torch.cdist(made.pixels().flatten(1), images.flatten(1) / 255)
        assert distances.amin(dim=1).max() < 0.05
    with pytest.raises(OptionError, match="must have the shape"):
        distilled("dp_dm(1, public='fake:3x1x4x4x30')")


def test_a_generator_refuses_public_images_of_more_classes() -> None:
    options = {"parametrization": "generator(conv_decoder(width=4), weights='random')"}
    distilled("dp_dm(1, public='fake:2x1x8x8x30')", **options)
    with pytest.raises(OptionError, match=r"of the classes 0 to 1, .* got class 2"):
        distilled("dp_dm(1, public='fake:3x1x8x8x30')", **options)


def test_labels_of_a_teacher_are_refused() -> None:
    made = distilled("dp_dm(1)")
    with pytest.raises(OptionError, match="must keep its own labels"):
        dd_plugins.relabel(made, "mlp", data=toy_data())


def test_by_the_command_line(command_line: Any, tmp_path: Path) -> None:
    words = ["distill", "--dataset", "digits", "--distiller", "dp_frepo(epsilon=3)"]
    words += ["--steps", "6", "--network", NETWORK, "--out", str(tmp_path / "run")]
    assert command_line(*words).returncode == 0
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line).keys() == {"step", "loss", "seconds"} for line in log)
    shown = command_line("info", str(tmp_path / "run")).stdout
    assert "delta 1e-05" in shown
    assert "not covered by epsilon" in shown
    scored = ["evaluate", tmp_path / "run", "--repeats", 1]
    scored += ["--protocol", "recipe(steps=5)"]
    assert command_line(*scored).returncode == 0
    other = [word.replace("epsilon=3", "epsilon=9") for word in words]
    refused = command_line(*other, "--resume")
    assert refused.returncode == 2
    assert "distiller was" in refused.stderr


def test_regression_refuses_a_single_class() -> None:
    data = RealData.from_values(torch.rand(8, 1, 8, 8), torch.zeros(8).long())
    with pytest.raises(OptionError, match=r"dp_frepo: expected at least two .* dp_dm"):
        dd_plugins.distill(data, "dp_frepo(epsilon=8, delta=0.01)", steps=1)
