"""Evaluation: the protocol, the figures, and the single reading of the test set."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_sets import with_header
from scipy import stats
from torch import Tensor

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.data.images import Images
from dd_plugins.data.named import DataOptions
from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import DataError, DDWarning, OptionError, UnknownNameError
from dd_plugins.evaluation.cross_architecture import transfer
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.evaluate import EvaluationOptions, prepare_evaluation
from dd_plugins.evaluation.results import NetworkResult
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.mlp import MLP
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.testing import toy_data
from dd_plugins.training.outputs import accuracy
from dd_plugins.training.protocols import as_protocol, recipe_for
from dd_plugins.training.recipes import Recipe, real_data_recipe, training_steps
from dd_plugins.training.train import TrainingSet, train_network


@pytest.fixture(scope="module")
def distilled() -> DistilledSet:
    return dd_plugins.distill(
        toy_data(), "frepo(pool_size=2)", steps=5, network="conv(width=4, depth=2)"
    )


@pytest.fixture(autouse=True)
def short_training_on_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are learned in fewer steps than real data; what is expected is the same."""
    recipe = real_data_recipe(60)
    place = "dd_plugins.evaluation.evaluate.real_data_recipe"
    monkeypatch.setattr(place, lambda _: recipe)


def test_figures_are_mean_deviation_and_student_s_interval() -> None:
    scores = (0.5, 0.6, 0.8)
    result = NetworkResult("mlp", scores)
    low, high = stats.t.interval(0.95, 2, loc=np.mean(scores), scale=stats.sem(scores))
    assert result.mean == pytest.approx(np.mean(scores))
    assert result.std == pytest.approx(np.std(scores, ddof=1))
    assert result.ci95 == pytest.approx((low, high))


def test_one_network_has_no_interval() -> None:
    assert NetworkResult("mlp", (0.5,)).as_dict()["accuracy_ci95"] is None


@pytest.mark.parametrize(
    ("images", "steps"),
    [(2, 1000), (10, 1000), (100, 2000), (400, 5000), (1000, 10_000), (9999, 40_000)],
)
def test_steps_are_the_paper_s(images: int, steps: int) -> None:
    assert training_steps(images) == steps


def test_steps_grow_with_the_set() -> None:
    steps = [training_steps(count) for count in range(10, 3000, 7)]
    assert steps == sorted(steps)


def test_test_set_is_read_once_after_all_training(distilled: DistilledSet) -> None:
    events: list[str] = []
    data = toy_data()

    def read_test() -> Images:
        events.append("test")
        return toy_data().read_test()

    dd_plugins.evaluate(
        distilled,
        ["mlp(width=4)", "mlp(width=5)"],
        repeats=2,
        protocol="recipe(steps=5)",
        baselines=True,
        data=replace(data, read_test=read_test),
        on_progress=lambda what, done, total: events.append("train"),
    )
    assert events.count("test") == 1
    assert events[-1] == "test"


def test_same_seed_gives_the_same_accuracies(distilled: DistilledSet) -> None:
    def run(seed: int) -> tuple[float, ...]:
        found = dd_plugins.evaluate(
            distilled,
            ["mlp(width=3)"],
            repeats=3,
            protocol="recipe(steps=20)",
            data=toy_data(),
            seed=seed,
        )
        return found.networks[0].accuracies

    state = torch.random.get_rng_state()
    assert run(0) == run(0)
    assert torch.equal(state, torch.random.get_rng_state())


def test_distilled_set_teaches_the_toy_problem(distilled: DistilledSet) -> None:
    recipe = "recipe(steps=120)"
    found = dd_plugins.evaluate(
        distilled, repeats=2, protocol=recipe, baselines=True, data=toy_data()
    )
    assert found.networks[0].spec == "conv(width=4, depth=2, normalization='none')"
    assert found.networks[0].mean > 0.95
    assert found.full[0].mean > 0.95
    assert 0 <= found.random[0].mean <= 1


def test_network_without_normalisation_is_the_default(distilled: DistilledSet) -> None:
    given = quickly(distilled, ["conv(width=3, depth=2)"])
    assert given.networks[0].spec == "conv(width=3, depth=2, normalization='none')"


def test_random_images_differ_between_networks_and_keep_the_count() -> None:
    """With 1-nearest-neighbour-like toys the random baseline varies with its draw."""
    made = dd_plugins.distill("digits", "frepo", steps=1, network="mlp(width=2)")
    found = dd_plugins.evaluate(
        made,
        "mlp(width=64)",
        repeats=2,
        protocol="recipe(steps=150)",
        baselines=True,
    )
    assert len(set(found.random[0].accuracies)) > 1
    assert found.full[0].mean > found.random[0].mean + 0.05


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"repeats": 0}, OptionError, "repeats"),
        ({"networks": ["mpl"]}, UnknownNameError, "nearest first: mlp"),
        ({"networks": ["mlp", "mlp"]}, OptionError, "name each once"),
        ({"data": None}, DataError, "in Python"),
    ],
)
def test_wrong_option_is_refused(
    distilled: DistilledSet, options: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        dd_plugins.evaluate(distilled, **({"data": toy_data()} | options))


def test_data_of_other_classes_or_sizes_is_refused(distilled: DistilledSet) -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    other = dd_plugins.RealData.from_tensors(images, labels, class_names=["a", "b"])
    with pytest.raises(DataError, match="classes"):
        dd_plugins.evaluate(distilled, data=other)
    larger = dd_plugins.RealData.from_tensors(images.repeat(1, 1, 2, 2), labels)
    with pytest.raises(DataError, match="shape"):
        dd_plugins.evaluate(distilled, data=larger)


@pytest.mark.parametrize("normalization", ["none", "batch"])
def test_training_in_chunks_is_training_on_whole_batches(
    normalization: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(70, 1, 32, 32, generator=draw)
    labels = torch.rand(70, 2, generator=draw)
    training_set = TrainingSet(images, labels, "regression", False)

    def trained() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        conv = Conv(width=2, normalization=normalization)
        network = conv.build((1, 32, 32), 2, generator=generator)
        recipe = Recipe(steps=3, learning_rate=1e-3, batch_size=70, optimizer="sgd")
        train_network(network, training_set, recipe, generator=generator)
        return dict(network.state_dict())

    in_chunks = trained()
    monkeypatch.setattr("dd_plugins.networks.base._PIXELS_IN_CHUNK", 2**30)
    torch.testing.assert_close(in_chunks, trained())


def test_images_are_augmented_unless_the_recipe_says_none() -> None:
    images, generator = torch.rand(4, 1, 8, 8), torch.Generator().manual_seed(0)
    recipe = Recipe(steps=1, learning_rate=1e-3, batch_size=4)
    assert not torch.equal(recipe.augment(images, generator, False), images)
    plain = replace(recipe, augmentation="none")
    assert torch.equal(plain.augment(images, generator, True), images)


@pytest.mark.parametrize("kind", ["regression", "probabilities", "classes"])
def test_every_kind_of_labels_trains_a_network(kind: Any) -> None:
    data, generator = toy_data(), torch.Generator().manual_seed(0)
    transform = Transform.fit(data.train.images, "standardize")
    one_hot = torch.nn.functional.one_hot(data.train.labels).float()
    labels = one_hot - 0.5 if kind == "regression" else one_hot
    images = transform(data.train.images)
    training_set = TrainingSet(images, labels, kind, False)
    recipe = Recipe(steps=150, learning_rate=3e-4, batch_size=32, warm_up=75)
    network = MLP(width=16).build((1, 8, 8), 2, generator=generator)
    trained = train_network(network, training_set, recipe, generator=generator)
    device = torch.device("cpu")
    assert accuracy(trained, data.read_test(), transform, device=device) > 0.95


def test_labels_choose_the_protocol(distilled: DistilledSet) -> None:
    scores = DistilledSet(
        distilled.images,
        distilled.labels,
        distilled.transform,
        distilled.header.model_copy(update={"label_kind": "classes", "recipe": None}),
    )
    assert recipe_for(distilled) == recipe_for(distilled, "frepo")
    assert recipe_for(scores) == recipe_for(scores, "classic")


def test_classic_protocol_is_that_of_the_original(distilled: DistilledSet) -> None:
    recipe = recipe_for(distilled, "classic")
    weight = torch.nn.Parameter(torch.ones(2))
    (group,) = recipe.make_optimizer([weight]).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 5e-4)
    assert (recipe.steps, recipe.batch_size) == (1000, 256)
    scales = [recipe.scale(step) for step in (0, 499, 500, 999)]
    assert scales == [1.0, 1.0, 0.1, 0.1]


def test_each_image_has_an_augmentation_of_its_own_in_the_classic_protocol(
    distilled: DistilledSet,
) -> None:
    recipe = recipe_for(distilled, "classic")
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    views = [
        recipe.augment(image.expand(6, -1, -1, -1), generator, True) for _ in range(8)
    ]
    # Only mirroring can leave six copies alike, and rarely does.
    differing = [not torch.allclose(view, view[:1].expand_as(view)) for view in views]
    assert sum(differing) >= 6


def test_unknown_protocol_is_refused(distilled: DistilledSet) -> None:
    with pytest.raises(OptionError, match="protocol: expected auto, family, frepo"):
        dd_plugins.evaluate(distilled, protocol="best", data=toy_data())  # type: ignore[arg-type]


def test_recipe_is_taken_as_the_protocol(distilled: DistilledSet) -> None:
    recipe = Recipe(steps=3, learning_rate=1e-3, batch_size=2)
    found = dd_plugins.evaluate(
        distilled, repeats=1, protocol=recipe, data=toy_data()
    ).as_dict()
    assert found["protocol"] == "recipe"
    assert found["recipe"]["steps"] == 3


def test_retrieval_scores_features_beside_both_baselines(
    distilled: DistilledSet,
) -> None:
    made = with_header(distilled, recipe="recipe(steps=20)")
    found = dd_plugins.evaluate(
        made, ["mlp(width=8)"], repeats=2, protocol="retrieval", data=toy_data()
    )
    figures = found.as_dict()
    results = [figures["networks"][0], *figures["baselines"].values()]
    assert len(results) == 3
    for result in results:
        assert list(result["retrieval"]) == [
            "precision_at_1",
            "r_precision",
            "mean_average_precision_at_r",
        ]
        for score in result["retrieval"].values():
            assert len(score["scores"]) == 2
            assert 0 <= score["mean"] <= 1
            assert score["ci95"][0] <= score["mean"] <= score["ci95"][1]
    everything = figures["baselines"]["full"]["retrieval"]["precision_at_1"]
    assert everything["mean"] > 0.9  # the toy classes are far apart


def test_transfer_knows_no_retrieval(distilled: DistilledSet) -> None:
    with pytest.raises(OptionError, match="evaluate scores retrieval"):
        transfer([distilled], ["mlp"], protocol="retrieval", data=toy_data())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "recipe: steps must be greater than 0"),
        ({"batch_size": 0}, "recipe: batch_size must be greater than 0"),
        ({"learning_rate": 0.0}, "recipe: learning_rate must be greater than 0"),
        ({"optimizer": "Adam"}, "recipe: optimizer must be .*'adam', 'adamw' or 'sgd'"),
        (
            {"decay": "linear"},
            "recipe: decay must be .*'halfway' or 'none'",
        ),
        (
            {"augmentation": "all"},
            "recipe: augmentation must be .*'crop' or 'none'",
        ),
    ],
)
def test_wrong_recipe_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Recipe(**({"steps": 3, "learning_rate": 0.1, "batch_size": 2} | options))


def test_a_recipe_takes_its_first_numbers_by_position() -> None:
    recipe = Recipe(2, 1e-2, 16)
    assert recipe == Recipe(steps=2, learning_rate=1e-2, batch_size=16)
    assert repr(recipe) == "recipe(steps=2, learning_rate=0.01, batch_size=16)"
    assert as_protocol("recipe(2, 0.01, 16)") == recipe
    for given, told in (
        (((2,), {"steps": 3}), "'steps' is given twice"),
        (((2, 0.1, 16, 0), {}), "4 positional arguments given, it takes steps"),
    ):
        with pytest.raises(OptionError, match=told):
            Recipe(*given[0], **given[1])


def test_a_recipe_is_a_spec() -> None:
    recipe = as_protocol("recipe(steps=3, learning_rate=0.1, optimizer='sgd')")
    assert recipe == Recipe(steps=3, learning_rate=0.1, optimizer="sgd")
    assert as_protocol(repr(recipe)) == recipe
    distilled = dd_plugins.distill("digits", "frepo(pool_size=1)", steps=1)
    found = dd_plugins.evaluate(distilled, "mlp(width=2)", protocol=repr(recipe))
    assert found.as_dict()["protocol"] == "recipe"
    assert found.as_dict()["recipe"] == recipe.options()
    for wrong in ("recipe", "recipe(steps=0)", "frepo(pool_size=3)", "recipe(", "", 3):
        with pytest.raises(OptionError):
            as_protocol(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "expected"), [([0, 0, 0, 1], [3, 1]), ([0] * 9 + [1] * 9, [6, 6])]
)
def test_random_images_are_as_many_of_each_class_as_the_set_has(
    held: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % 2
    test = (images.flip(-1), labels)
    data = RealData.from_tensors(images, labels, test=test, validation=0)
    distilled = dd_plugins.distill(
        data,
        "frepo(pool_size=1)",
        images_per_class=len(held) // 2,
        initial_images="noise",
        steps=1,
        network="mlp(width=2)",
    )
    distilled.header.initial_classes[:] = held
    seen = []

    def spy(module: Any, training_set: TrainingSet, *rest: Any, **options: Any) -> Any:
        seen.append(training_set.labels[:].argmax(dim=1).bincount().tolist())
        return train_network(module, training_set, *rest, **options)

    monkeypatch.setattr("dd_plugins.evaluation.jobs.train_network", spy)
    recipe = Recipe(steps=2, learning_rate=1e-3, batch_size=10)
    dd_plugins.evaluate(
        distilled, ["mlp"], repeats=1, baselines=True, data=data, protocol=recipe
    )
    assert seen[1] == expected


QUICK = Recipe(steps=2, learning_rate=1e-3, batch_size=16)


def quickly(distilled: DistilledSet, *networks: Any, **options: Any) -> Any:
    given = {"repeats": 1, "protocol": QUICK, "data": toy_data()} | options
    return dd_plugins.evaluate(distilled, *networks, **given)


def test_one_spec_is_a_list_of_one(distilled: DistilledSet) -> None:
    for given in (
        "mlp(width=4)",
        ("mlp(width=4)",),
        MLP(width=4),
        iter([MLP(width=4)]),
    ):
        (found,) = quickly(distilled, given).networks
        assert found.spec == "mlp(width=4)"
    for wrong in (None, 3, [3], [None]):
        with pytest.raises(OptionError, match=r"specs? such as"):
            quickly(distilled, wrong)
    with pytest.raises(OptionError, match="a function that returns a fresh module"):
        quickly(distilled, torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    "repeats", [np.int64(2), np.uint8(2), np.array(2), torch.tensor(2)], ids=repr
)
def test_whole_numbers_of_numpy_and_torch_are_taken(
    distilled: DistilledSet, repeats: Any
) -> None:
    found = quickly(distilled, "mlp(width=4)", repeats=repeats, seed=np.int32(3))
    same = quickly(distilled, "mlp(width=4)", repeats=2, seed=3)
    assert found.networks[0].accuracies == same.networks[0].accuracies


@pytest.mark.parametrize(
    "wrong",
    [True, np.True_, torch.tensor(True), 2.0, np.float32(2), "2", None, [2], -1],
)
def test_what_is_no_whole_number_is_refused(
    distilled: DistilledSet, wrong: Any
) -> None:
    with pytest.raises(OptionError, match="repeats must be a whole number from 1, got"):
        quickly(distilled, repeats=wrong)
    if wrong != -1:
        with pytest.raises(OptionError, match="seed must be a whole number, got"):
            quickly(distilled, seed=wrong)


@pytest.mark.parametrize("wrong", [None, 3, torch.zeros(2), b"path"])
def test_what_is_no_distilled_set_is_one_line(wrong: Any) -> None:
    with pytest.raises(OptionError, match="the path of an artifact"):
        dd_plugins.evaluate(wrong)


def test_real_data_may_have_any_form_that_distill_takes() -> None:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    made = dd_plugins.distill((images, labels), "random", steps=1, network=MLP(width=2))
    for form in (
        (images, labels),
        [images, labels],
        (images.numpy(), labels.numpy()),
        (images.numpy()[::-1].copy()[::-1], labels.numpy()),
        torch.utils.data.TensorDataset(images, labels),
    ):
        with pytest.raises(DataError, match="no test set"):
            quickly(made, data=form)
    for wrong in (3, (images,), (1, 2), (images.numpy(), "names")):
        with pytest.raises(OptionError, match="data must be the name of a data set"):
            quickly(made, data=wrong)
    with pytest.raises(DataError, match=r"expected a split 'train', .* got 'images'"):
        quickly(made, data={"images": images})
    with pytest.raises(DataError, match="array of object"):
        quickly(made, data=(np.array([None]), labels.numpy()))
    with pytest.raises(
        DataError, match="must be those that the set was distilled from"
    ):
        quickly(made, data="digits")
    with pytest.raises(UnknownNameError, match="nearest first: digits"):
        quickly(made, data="digit")
    digits = dd_plugins.distill("digits", "random", steps=1, network=MLP(width=2))
    assert quickly(digits, data="digits").test_images == 360


def test_numpy_arrays_are_distilled_as_their_tensors() -> None:
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 2
    one, other = (
        dd_plugins.distill(data, "random", steps=1, network=MLP(width=2))
        for data in ((images, labels), (images.numpy(), labels.numpy()))
    )
    assert one.content_hash() == other.content_hash()


def test_nothing_is_trained_before_all_is_checked(
    distilled: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    options = {"on_progress": lambda what, done, total: trained.append(what)}
    with pytest.raises(OptionError, match="smaller depth"):
        quickly(distilled, ["mlp(width=2)", "conv(depth=9)"], **options)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(20, 1, 8, 8, generator=generator), torch.arange(20) % 2
    without = RealData.from_tensors(images, labels)
    with (
        pytest.warns(DDWarning, match="not those that the set was distilled from"),
        pytest.raises(DataError, match="no test set"),
    ):
        quickly(distilled, data=without, **options)
    for path in ("no device", "no precision"):
        with pytest.raises(OptionError):
            quickly(distilled, **options, **{path.split()[1]: path})

    def unfit(self: RealData) -> None:
        raise DataError("a test set that does not fit")

    monkeypatch.setattr(RealData, "check_test", unfit)
    with pytest.raises(DataError, match="that does not fit"):
        quickly(distilled, **options)
    with pytest.raises(DataError, match="that does not fit"):
        transfer([distilled], "mlp", data=toy_data(), **options)  # type: ignore[arg-type]
    assert trained == []


@pytest.mark.parametrize(
    "network",
    [
        "conv(width=1000000, depth=2)",
        "mlp(width=20000)",
        "mlp(width=4, depth=1000000000)",
        "mlp(width=1, depth=20000)",
        "vit(width=15000)",
        "vit(width=1500, depth=40)",
    ],
)
def test_an_artifact_cannot_ask_for_a_network_that_fills_the_memory(
    distilled: DistilledSet, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_plugins.evaluation.networks_of_set._MOST_TENSORS", 1_000)
    header = distilled.header.model_copy(update={"evaluation_network": network})
    foreign = replace(distilled, header=header)
    with pytest.raises(OptionError, match="name a network by --network"):
        quickly(foreign)
    with pytest.raises(OptionError, match="name a network by --network"):
        transfer(foreign, "mlp(width=2)", data=toy_data(), protocol=QUICK)
    assert quickly(foreign, "mlp(width=2)").networks[0].spec == "mlp(width=2)"


class _Spy:
    """A plugin with a data set that tells what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    @dd_plugins.hookimpl
    def dd_register_datasets(self, register: Any) -> None:
        register("spy", self.load)

    def load(self, options: DataOptions) -> RealData:
        self.asked.append(options.argument)
        return replace(toy_data(), name=f"spy:{options.argument}")


def test_what_an_artifact_names_is_not_followed_unasked(
    distilled: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    spy = _Spy()
    plugins = Plugins(load=[], extra={"spy": spy})
    record = distilled.header.dataset.model_copy(update={"name": "spy:/etc"})
    header = distilled.header.model_copy(update={"dataset": record})
    foreign = replace(distilled, header=header)
    options = {"data": None, "plugins": plugins}
    with pytest.raises(DataError, match=r"nobody has asked for here.*--dataset"):
        quickly(foreign, **options)
    assert spy.asked == []
    quickly(foreign, data="spy:/etc", plugins=plugins)
    quickly(foreign, **options)  # it is known by now
    assert spy.asked == ["/etc", "/etc"]
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "file"))
    quickly(foreign, data="spy:/etc", plugins=plugins)  # nothing is kept, nothing fails
    with pytest.raises(DataError, match="nobody has asked for here"):
        quickly(foreign, **options)


def test_data_by_name_comes_as_it_was_distilled() -> None:
    made = dd_plugins.distill(
        "digits",
        "random",
        steps=1,
        network=MLP(width=2),
        preprocessing="zca",
        mirror=True,
    )
    assert (made.header.value_space, made.header.mirror) == ("zca", True)
    for name in (None, "digits"):
        data = real_data_of(made, name, None, loaded_plugins().real_data)
        assert (data.preprocessing, data.mirror) == ("zca", True)
    assert quickly(made, data=None).test_images == 360
    with pytest.raises(OptionError, match="preprocessing must be one of standardize"):
        dd_plugins.distill("digits", preprocessing="whiten")  # type: ignore[arg-type]


def test_what_torch_was_told_before_changes_no_figure() -> None:
    data = dd_plugins.get_dataset("digits")
    made = dd_plugins.distill(data, "random", steps=1, network="conv(width=2, depth=1)")

    def figures() -> object:
        recipe = Recipe(steps=3, learning_rate=1e-3, batch_size=16)
        return dd_plugins.evaluate(
            made, "mlp(width=4)", data=data, repeats=1, protocol=recipe
        ).as_dict()

    expected = figures()
    for told in (torch.no_grad(), torch.inference_mode(), torch.device("meta")):
        with told:
            assert figures() == expected
    torch.set_default_dtype(torch.float64)
    try:
        assert figures() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_baselines_of_a_private_set_draw_from_all_images_that_it_saw() -> None:
    made = dd_plugins.distill(
        toy_data(), "dp_dm(epsilon=8)", steps=1, network="mlp(width=4)"
    )
    options = EvaluationOptions(data=toy_data(), repeats=1, baselines=True)
    data = prepare_evaluation(made, (), options).evaluator.data
    assert len(data.train.labels) == made.header.dataset.train_images == 120
