"""MetaDD adds the gradient it should, from networks that are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from dd_plugins import get_distiller
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.dm import DM
from dd_plugins.errors import DDError, FileError, OptionError, UnknownNameError
from dd_plugins.networks.activation_maps import meta_ratio, observe
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.mlp import MLP
from dd_plugins.networks.vgg import VGG11
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.training import kept_networks
from dd_plugins.wrappers.metadd import FrozenState, MetaDD, auxiliaries
from dd_plugins.wrappers.metadd.agreement import Loss

CPU = torch.device("cpu")
TASK = Task("toy", (1, 8, 8), 3, 2)
NETWORKS = (Conv(width=4, depth=2), VGG11(width=4), DCConvNet(width=4, depth=1))
VARIANTS = get_args(Loss)


def _metadd(**options: Any) -> MetaDD:
    defaults: dict[str, Any] = {
        "networks": NETWORKS,
        "variant": "variance",
        "every": 1,
        "start": 0,
        "augment": False,
        "stages": (3,),
    }
    return MetaDD(base=DM(real_batch_size=8), **(defaults | options))


def _run() -> Run:
    return Run(TASK, "metadd", Conv(width=4, depth=2), 10, 0, CPU)


def _images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def _leaves() -> Leaves:
    labels = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 2, 2]), 3).float()
    return Leaves(_images(6, 0).requires_grad_(), labels, labels.argmax(dim=1))


def _real(content: str | None = "toy images") -> RealSampler:
    return RealSampler(
        _images(30, 1), torch.arange(30) % 3, seed=0, device=CPU, content=content
    )


def _added(
    distiller: MetaDD, step: int = 0
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the base's gradient, what was added to it, and the metrics."""
    state, leaves = distiller.setup(_run(), _real()), _leaves()
    metrics = distiller.accumulate(state, leaves, _real(), step)
    alone = _leaves()
    distiller.base.accumulate(state.base, alone, _real(), step)
    assert leaves.pixels.grad is not None
    assert alone.pixels.grad is not None
    return alone.pixels.grad, leaves.pixels.grad - alone.pixels.grad, metrics


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_network_at_a_time_gives_the_gradient_of_all_at_once(
    variant: str, augment: bool
) -> None:
    distiller = _metadd(variant=variant, weight=1.0, augment=augment)
    state = distiller.setup(_run(), _real())
    leaves, step = _leaves(), 2
    classes = leaves.labels.argmax(dim=1)
    agreement = distiller._agreement
    view = agreement.view(state.run, leaves.pixels, step)
    seen = [
        observe(auxiliary.network, auxiliary.layer, view, classes)
        for (auxiliary,) in state.auxiliaries
    ]
    auxiliaries = [auxiliary for (auxiliary,) in state.auxiliaries]
    loss = agreement.value(
        state.run, auxiliaries, state.teacher, seen, view, classes, step
    )
    (expected,) = torch.autograd.grad(loss, leaves.pixels)

    _, added, metrics = _added(distiller, step)
    scale = float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(added, expected, rtol=0, atol=1e-3 * scale)
    assert metrics["meta_loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    ratio = meta_ratio(torch.stack([outputs.maps for outputs in seen])).mean()
    assert metrics["meta_ratio"].item() == pytest.approx(ratio.item())


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_see_a_few_images_at_a_time(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    distiller = _metadd(variant=variant, weight=1.0, augment=True)
    _, at_once, _ = _added(distiller)
    monkeypatch.setattr("dd_plugins.networks.base._PIXELS_IN_CHUNK", 2 * 8 * 8)
    state, seen = distiller.setup(_run(), _real()), []
    modules = [auxiliary.network for (auxiliary,) in state.auxiliaries]
    for module in [*modules, *filter(None, [state.teacher])]:
        module.body.register_forward_hook(lambda *given: seen.append(len(given[1][0])))
    leaves = _leaves()
    distiller.adjust(state, _with_gradient(leaves), _real(), 0)
    assert set(seen) == {2}
    assert leaves.pixels.grad is not None
    scale = float(at_once.abs().max())
    torch.testing.assert_close(leaves.pixels.grad, at_once, rtol=0, atol=1e-3 * scale)


def _with_gradient(leaves: Leaves) -> Leaves:
    """Give the pixels a gradient of zero, as a base without any loss would."""
    leaves.pixels.grad = torch.zeros_like(leaves.pixels)
    return leaves


@pytest.mark.parametrize("rho", [0.0, 0.1, 1.0])
def test_added_gradient_is_as_long_as_asked_for(rho: float) -> None:
    base, added, _ = _added(_metadd(rho=rho))
    assert float(added.norm()) == pytest.approx(rho * float(base.norm()), rel=1e-3)


def test_a_context_counts_in_no_length() -> None:
    fixed = torch.tensor([True, False, False, True, False, False])
    distiller, leaves = _metadd(rho=0.5), replace(_leaves(), fixed=fixed)
    state, before = distiller.setup(_run(), _real()), _images(6, 5)
    before[fixed] *= 100
    leaves.pixels.grad = before.clone()
    distiller.adjust(state, leaves, _real(), 0)
    added = (leaves.pixels.grad - before)[~fixed]
    assert float(added.norm()) == pytest.approx(
        0.5 * float(before[~fixed].norm()), rel=1e-3
    )


@pytest.mark.parametrize(
    ("steps", "every"), [(1000, 16), (160, 16), (100, 10), (40, 4), (9, 1), (2, 1)]
)
def test_a_short_run_has_five_applications_if_it_can(steps: int, every: int) -> None:
    task = replace(TASK, steps=steps)
    distiller = get_distiller("metadd(dm)").for_task(task)
    assert isinstance(distiller, MetaDD)
    assert distiller.every == every
    assert _metadd(every=7).for_task(task).every == 7
    gradients = get_distiller("metadd(dm, variant='gradients')").for_task(task)
    assert isinstance(gradients, MetaDD)
    assert gradients.every == 1


def test_gradient_is_added_from_the_start_on_and_every_few_steps() -> None:
    distiller = _metadd(start=2, every=3)
    applied = [step for step in range(9) if "meta_loss" in _added(distiller, step)[2]]
    assert applied == [2, 5, 8]


def test_gradient_is_added_in_the_second_half_if_nobody_says() -> None:
    distiller = _metadd(start=None)
    assert distiller.for_task(replace(TASK, steps=31)).start == 15
    own = distiller.base.default_steps(TASK)
    assert distiller.for_task(TASK).start == own // 2
    assert _metadd(start=3).for_task(TASK).start == 3


def test_one_stage_of_each_drawn_architecture_looks() -> None:
    distiller = _metadd(variant="real_features", stages=(1, 2, 3), drawn=2)
    state = distiller.setup(_run(), _real())
    places = {
        id(auxiliary): (number, stage)
        for number, stages in enumerate(state.auxiliaries)
        for stage, auxiliary in enumerate(stages)
    }
    assert len(places) == 9
    draws = []
    for step in range(60):
        found, _ = state.chosen(distiller._picks(state.run, step))
        draws.append([places[id(one)] for one in found])
        numbers = [number for number, _ in draws[-1]]
        assert len(set(numbers)) == 2
        again, _ = state.chosen(distiller._picks(state.run, step))
        assert again == found
    assert {place for draw in draws for place in draw} == set(places.values())


def test_real_features_are_a_mean_over_many_augmentations_if_there_are_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts: list[int] = []

    def negative(images: Tensor, **options: object) -> Tensor:
        parts.append(len(images))
        return -images

    monkeypatch.setattr(auxiliaries, "random_augmentation", negative)
    distiller = _metadd(variant="real_features", augment=True)
    (auxiliary,) = distiller.setup(_run(), _real()).auxiliaries[0]
    # Ten images of each of three classes, before each of the three networks.
    assert parts == [4, 4, 2] * 9
    images = -_real().class_batch(0, 1, 256).images
    expected = auxiliary.network.features(images).mean(dim=0)
    torch.testing.assert_close(auxiliary.statistics.means[1], expected)


def test_networks_are_trained_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    first = _metadd().setup(_run(), _real())
    assert len(list(tmp_path.iterdir())) == len(NETWORKS)

    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(kept_networks, "training_steps_of", refuse)
    second = _metadd().setup(replace(_run(), seed=7), _real())
    for (one,), (other,) in zip(first.auxiliaries, second.auxiliaries, strict=True):
        for name, weight in one.network.state_dict().items():
            assert torch.equal(weight, other.network.state_dict()[name])
    for other in (_metadd(stages=(4,)), _metadd(networks=NETWORKS[::-1])):
        if other.stages == (4,):
            with pytest.raises(AssertionError, match="trained again"):
                other.setup(_run(), _real())
        else:
            other.setup(_run(), _real())  # the same two, whatever their order
    with pytest.raises(AssertionError, match="trained again"):
        _metadd().setup(_run(), _real("other images"))
    with pytest.raises(AssertionError, match="trained again"):
        _metadd().setup(_run(), _real(None))  # images without a name


def test_training_of_networks_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    distiller = _metadd(variant="paper", stages=(3, 5))
    distiller.setup(replace(_run(), progress=True), _real())
    first, *steps = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert first == "7 of 7 networks to be trained first, 3 to 5 steps each"
    assert steps[-1] == "network 7 of 7: 5 of 5 training steps"
    distiller.setup(replace(_run(), progress=True), _real())
    assert not capsys.readouterr().err


@pytest.mark.parametrize("augment", [False, True])
def test_real_features_are_of_the_same_images_in_each_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: bool
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    distiller = _metadd(variant="real_features", augment=augment)
    alone, *others = (
        distiller.setup(replace(_run(), rank=rank, ranks=ranks), real)
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
        for real in [
            RealSampler(
                *(_images(30, 1), torch.arange(30) % 3),
                seed=0,
                device=CPU,
                content="toy images",
                rank=rank,
                ranks=ranks,
            )
        ]
    )
    for other in others:
        for (one,), (two,) in zip(alone.auxiliaries, other.auxiliaries, strict=True):
            assert torch.equal(one.statistics.means, two.statistics.means)
            assert torch.equal(one.statistics.spread, two.statistics.spread)


def test_kept_network_that_does_not_match_its_key_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    _metadd().setup(_run(), _real())
    one, other, *_ = sorted(tmp_path.iterdir())
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(FileError, match="does not match its key"):
        _metadd().setup(_run(), _real())
    one.write_bytes(content[: len(content) // 2])
    with pytest.raises(FileError, match="cannot be read as a trained network"):
        _metadd().setup(_run(), _real())


def test_auxiliary_networks_are_frozen_and_leave_the_state_to_the_base() -> None:
    distiller = _metadd()
    state = distiller.setup(_run(), _real())
    before = [
        {name: value.clone() for name, value in auxiliary.network.state_dict().items()}
        for (auxiliary,) in state.auxiliaries
    ]
    leaves = _leaves()
    distiller.accumulate(state, leaves, _real(), 0)
    distiller.advance(state, leaves, 0)
    assert isinstance(state, FrozenState)
    assert state.state_dict() == state.base.state_dict()
    for (auxiliary,), kept in zip(state.auxiliaries, before, strict=True):
        assert not any(p.requires_grad for p in auxiliary.network.parameters())
        for name, value in auxiliary.network.state_dict().items():
            assert torch.equal(value, kept[name])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"networks": (MLP(), Conv(width=4))},
            OptionError,
            "mlp cannot be used: no",
        ),
        (
            {"variant": "features", "metric_loss": "NTXent"},
            UnknownNameError,
            "unknown metric-learning class 'NTXent'; known, nearest first: NTXentLoss",
        ),
        (
            {"variant": "features", "metric_loss": "NTXentLoss(heat=1)"},
            OptionError,
            "NTXentLoss: .*heat",
        ),
        (
            {"variant": "features", "metric_loss": "ProxyAnchorLoss(6, 128)"},
            OptionError,
            "has weights to learn",
        ),
        (
            {
                "variant": "features",
                "metric_loss": "CrossBatchMemory(NTXentLoss(), 128)",
            },
            OptionError,
            "a memory of images",
        ),
        (
            {"variant": "features", "metric_loss": "BaseMetricLossFunction()"},
            OptionError,
            "BaseMetricLossFunction\\(\\) fails on features",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    options: dict[str, Any], error: type[DDError], message: str
) -> None:
    with pytest.raises(error, match=message):
        _metadd(**options).setup(_run(), _real())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("metadd(conv)", "base"),
        ("metadd()", r"a wrapper needs the distiller that it wraps: metadd\(frepo\)"),
        ("metadd(dm, networks=())", r"networks must have at least 1 item, got \(\)"),
        ("metadd(dm, networks=(vgg11, mlp, vgg11()))", "networks must differ"),
        (
            "metadd(dm, variant='paper', networks=(vgg11,))",
            "compares architectures with each other",
        ),
        (
            "metadd(dm, variant='overlap', drawn=1)",
            "compares architectures with each other",
        ),
        (
            "metadd(dm, drawn=3)",
            "drawn must be at most 2, the number of networks, got 3",
        ),
        ("metadd(dm, stages=())", "stages"),
        ("metadd(dm, variant='cam')", "variant"),
        ("metadd(dm, threshold=1.0)", "threshold"),
        ("metadd(dm, miner='A()')", "variant='paper' has no use for it: .* no miner"),
        (
            "metadd(dm, variant='overlap', temperature=2.0)",
            "variant='overlap' has no use for it: expected no temperature, got 2.0",
        ),
        (
            "metadd(dm, variant='logit_variance', second_order=True)",
            "expected no second_order, got True",
        ),
    ],
)
def test_wrong_specs_are_one_line(spec: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        get_distiller(spec)


def test_a_base_that_moves_no_image_is_refused() -> None:
    for base in ("random", "clip(herding)"):
        with pytest.raises(OptionError, match=r"moves none of them, .* without metadd"):
            get_distiller(f"metadd({base})").for_task(TASK)


def test_networks_that_never_take_part_are_refused() -> None:
    message = "start must be below the 10 steps of the run, got 10"
    with pytest.raises(OptionError, match=message):
        _metadd(start=10).for_task(replace(TASK, steps=10))


def test_spec_holds_networks_and_metric_loss() -> None:
    spec = (
        "metadd(dm, networks=(vgg11(width=8), vit), variant='features', "
        "metric_loss='TripletMarginLoss(margin=0.1, distance=CosineSimilarity())')"
    )
    built = get_distiller(spec)
    assert get_distiller(repr(built)) == built
    assert isinstance(built, MetaDD)
    assert built.networks[0] == VGG11(width=8)


def test_any_loss_and_miner_of_metric_learning_will_do() -> None:
    losses = []
    for loss, miner in (
        ("TripletMarginLoss(margin=0.5, distance=CosineSimilarity())", None),
        ("MultiSimilarityLoss", "MultiSimilarityMiner(epsilon=0.5)"),
    ):
        distiller = _metadd(variant="features", metric_loss=loss, miner=miner)
        losses.append(_added(distiller)[2]["meta_loss"].item())
    assert losses[0] != losses[1]


def test_a_metric_loss_draws_by_the_seed_of_the_run() -> None:
    loss = "TripletMarginLoss(margin=0.5, triplets_per_anchor=2)"
    distiller = _metadd(variant="features", metric_loss=loss)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(_added(distiller)[1])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*found)


def test_a_class_without_real_images_has_no_mean_to_match() -> None:
    classes = torch.tensor([0, 0, 1, 1, 2, 2])
    real = RealSampler(_images(20, 1), torch.arange(20) % 2, seed=0, device=CPU)
    distiller = _metadd(variant="real_features", weight=1.0)
    state, leaves = distiller.setup(_run(), real), _with_gradient(_leaves())
    assert leaves.classes.tolist() == classes.tolist()
    distiller.adjust(state, leaves, real, 0)
    assert leaves.pixels.grad is not None
    moved = leaves.pixels.grad.flatten(1).norm(dim=1) > 0
    assert moved.tolist() == [True] * 4 + [False] * 2


def test_the_memory_of_a_run_counts_the_images_that_networks_look_at() -> None:
    task = replace(TASK, images_per_class=100)
    base = DM(real_batch_size=8).images_in_graph(task)
    assert base < 256
    assert _metadd().images_in_graph(task) == 256
    learning = get_distiller("metadd(dm, auxiliaries='learning')")
    assert learning.images_in_graph(task) == 300
    assert _metadd().images_in_graph(TASK) == 6
