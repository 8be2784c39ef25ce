"""What comes from plugins and callers is checked where it comes in."""

import re
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dd_plugins
from dd_plugins import AbstractNetwork, AbstractWrapper, record, testing
from dd_plugins.data.images import Images
from dd_plugins.data.named import DataOptions
from dd_plugins.distillers.base import add_gradient
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.state import NoState
from dd_plugins.errors import DataError, DDWarning, OptionError, PluginError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
from dd_plugins.testing import toy_data
from dd_plugins.testing.toys import plugins_with
from dd_plugins.tracking.base import AbstractObserver

SMALL: dict[str, Any] = {
    "network": "conv(width=4, depth=2)",
    "steps": 2,
    "device": "cpu",
}


def distiller(**methods: Any) -> Any:
    """Return DM with other methods."""
    made = type("One", (DM,), {"name": "one", "__annotations__": {}, **methods})
    return record(made)()


def metrics_with(value: Any, name: Any = "more") -> Any:
    return lambda self, *given: DM.accumulate(self, *given) | {name: value}


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("for_task", lambda self, task: "dm"),
        ("setup", lambda self, run, real: {}),
        ("accumulate", lambda self, *given: None),
        ("accumulate", metrics_with(0.5)),
        ("accumulate", metrics_with(torch.zeros(2))),
        ("accumulate", metrics_with(torch.zeros(()), 3)),
        ("accumulate", metrics_with(torch.zeros(()), "step")),
        ("accumulate", metrics_with(torch.zeros(()), "seconds")),
        ("accumulate", metrics_with(torch.zeros(()), "validation_accuracy")),
        ("optimizer", lambda self, given: given),
        ("optimizer", lambda self, given: torch.optim.SGD([given[0].clone()], 1.0)),
        (
            "schedule",
            lambda self, given, steps: torch.optim.lr_scheduler.ReduceLROnPlateau(
                given
            ),
        ),
        (
            "schedule",
            lambda self, given, steps: torch.optim.lr_scheduler.ConstantLR(
                torch.optim.SGD([torch.zeros(1)], 1.0)
            ),
        ),
        ("choose", lambda self, run, real: [0, 1]),
        ("choose", lambda self, run, real: torch.tensor([0.0, 1.0])),
        ("choose", lambda self, run, real: DM.choose(self, run, real).flip(0)),
        ("choose", lambda self, run, real: torch.tensor([0, 10_000])),
        ("initial_labels", lambda self, labels, n: torch.eye(n)[labels].double()),
        ("initial_labels", lambda self, labels, n: labels),
        ("predictor", lambda self, state, leaves: lambda images: images),
        ("predictor", lambda self, state, leaves: lambda images: [0.5]),
        ("predictor", lambda self, state, leaves: torch.zeros(2)),
        ("label_kind", property(lambda self: "words")),
        ("initial_labels", lambda self, labels, n: torch.full((2, n), torch.nan)),
        ("labels", lambda self, state, leaves: leaves.labels * torch.nan),
        ("labels", lambda self, state, leaves: leaves.labels / 0),
        (
            "first_images",
            lambda self, run, real, chosen, read: read(chosen) * torch.nan,
        ),
        ("learnables", lambda self, run: {"size": torch.tensor(torch.nan)}),
    ],
)
def test_what_a_method_returns_wrongly_is_told_with_its_name(
    method: str, wrong: Any
) -> None:
    said = rf"one\.{method}[(.)]* must return"
    with pytest.raises(PluginError, match=said) as refused:
        dd_plugins.distill(
            toy_data(validation=0.1 if method == "predictor" else 0),
            distiller(**{method: wrong}),
            **SMALL,
        )
    assert len(str(refused.value).splitlines()) == 1


def halves(images: Any, classes: Any) -> Any:
    return {"halves": images / 2}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"chunk": 0}, r"must return a Codec whose chunk .* got 0"),
        ({"chunk": 1.5}, r"must return a Codec whose chunk .* got 1\.5"),
        ({"constants": {"rate": 0.5}}, r"must return .* constants, got 0\.5"),
        ({"encode": lambda images, classes: images}, "encode must .* float32 tensor"),
        ({"encode": lambda images, classes: None}, "encode must .* got None"),
        ({"encode": lambda images, classes: {}}, "encode must .* got dict"),
        ({"encode": lambda images, classes: {"a": images.long()}}, "encode .*int64"),
        (
            {"encode": lambda images, classes: {"a": images[:1]}},
            "encode .* 2 rows",
        ),
        (
            {"encode": lambda images, classes: {"a": images * torch.nan}},
            "encode must return finite values, got nan for 'a'",
        ),
        ({"decode": lambda given: given["halves"].repeat(2, 1, 1, 1)}, "decode must"),
        ({"decode": lambda given: given["halves"][:1]}, "decode must"),
        ({"decode": lambda given: given["halves"].flatten(1)}, "decode must"),
        ({"decode": lambda given: given["halves"].double()}, "decode .*float64"),
        ({"decode": lambda given: None}, "decode must .* got None"),
        ({"decode": lambda given: np.zeros((2, 1, 8, 8))}, "decode must .*ndarray"),
        ({"decode": lambda given: given["halves"].detach()}, "decode .* detached"),
        ({"decode": lambda given: given["halves"] * torch.nan}, "decode .* got nan"),
    ],
)
def test_what_a_codec_gives_wrongly_is_told_with_its_name(
    wrong: dict[str, Any], told: str
) -> None:
    functions = {"encode": halves, "decode": lambda given: 2 * given["halves"]}

    @record
    class Halved(AbstractParametrization):
        name = "halved"

        def codec(self, *given: Any) -> Any:
            return Codec(**(functions | wrong))

    plugins = plugins_with(Halved())
    options = SMALL | {"parametrization": "halved", "plugins": plugins}
    with pytest.raises(PluginError, match=r"halved\.codec.*" + told) as refused:
        dd_plugins.distill(toy_data(validation=0), "dm", **options)
    assert len(str(refused.value).splitlines()) == 1


def test_negative_probabilities_are_refused() -> None:
    one = distiller(
        label_kind=property(lambda self: "probabilities"),
        labels=lambda self, state, leaves: leaves.labels - 0.25,
    )
    said = r"one\.labels must return probabilities of at least 0, got -0\.25"
    with pytest.raises(PluginError, match=said):
        dd_plugins.distill(toy_data(validation=0), one, **SMALL)


@pytest.mark.parametrize(
    ("gradient", "told"),
    [
        (None, r"got None; was the leaf used in the loss\?$"),
        (torch.ones(2, 3).double(), r"got a float64 gradient of shape \(2, 3\)"),
        (torch.ones(3), r"got a float32 gradient of shape \(3,\)"),
        (1.0, "got float$"),
    ],
)
def test_a_wrong_gradient_is_told(gradient: Any, told: str) -> None:
    leaf = torch.zeros(2, 3, requires_grad=True)
    expected = r"expects a float32 gradient of shape \(2, 3\) on cpu, "
    with pytest.raises(PluginError, match=expected + told):
        add_gradient(leaf, gradient)
    assert leaf.grad is None


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("default_steps", lambda self, task: 2.5),
        ("default_steps", lambda self, task: 0),
        ("default_steps", lambda self, task: True),
        ("images_in_graph", lambda self, task: -1),
        ("averaging", 1.0),
        ("averaging", -0.1),
        ("averaging", True),
        ("averaging", "0.9"),
        ("images_in_graph", lambda self, task: 2.5),
        ("default_network", lambda self, task, device: nn.Flatten()),
        ("default_network", lambda self, task, device: "conv"),
    ],
)
def test_defaults_of_a_wrong_kind_are_told(method: str, wrong: Any) -> None:
    with pytest.raises(PluginError, match=rf"one\.{method}[(.)]* must return"):
        dd_plugins.distill(
            toy_data(validation=0), distiller(**{method: wrong}), device="cpu"
        )


def test_a_metric_that_is_not_finite_is_null_in_the_log(tmp_path: Path) -> None:
    one = distiller(accumulate=metrics_with(torch.tensor(torch.nan)))
    dd_plugins.distill(toy_data(validation=0), one, out=tmp_path, **SMALL)
    log = (tmp_path / "metrics.jsonl").read_text()
    assert '"more": null' in log
    assert "NaN" not in log


def test_what_adjust_returns_is_told_with_its_name() -> None:
    @record
    class Quiet(AbstractWrapper):
        name = "quiet"

        def adjust(self, *given: Any) -> Any:
            return None

    with pytest.raises(PluginError, match=r"quiet\.adjust must return .* got None"):
        dd_plugins.distill(toy_data(validation=0), Quiet(base=DM()), **SMALL)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (nn.Sequential(nn.Flatten()), "construct must return a FeatureNetwork"),
        (None, "construct must return a FeatureNetwork"),
        (
            FeatureNetwork(nn.Conv2d(1, 2, 3), nn.Linear(72, 2)),
            r"net: the body of a network must give features .*Flatten",
        ),
    ],
)
def test_what_a_network_gives_is_told_with_its_name(made: Any, told: str) -> None:
    @record
    class Net(AbstractNetwork):
        name = "net"

        def construct(self, *given: Any, **options: Any) -> Any:
            return made

    with pytest.raises(PluginError, match=told):
        dd_plugins.distill(toy_data(validation=0), "dm", **(SMALL | {"network": Net()}))
    for check in (testing.check_network_is_reproducible, testing.check_network_shapes):
        with pytest.raises(AssertionError):
            check(Net())


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"ages": np.arange(3)}, "state.ages"),
        ({"deep": [{"net": nn.Flatten()}]}, "state.deep.0.net"),
        ({"ratio": np.float64(0.5)}, "state.ratio"),
        ({"pair": Pair(1, 2)}, "state.pair"),
        ({"seen": {1, 2}}, "state.seen"),
        ({(1, 2): 3}, "the key state"),
        ({"path": Path("here")}, "state.path"),
    ],
)
def test_a_state_that_no_checkpoint_gives_back_is_refused_at_once(
    tmp_path: Path, state: dict[Any, Any], place: str
) -> None:
    class Odd(NoState):
        def state_dict(self) -> dict[str, Any]:
            return state

    odd = distiller(setup=lambda self, run, real: Odd(run))
    with pytest.raises(PluginError, match=f"cannot hold {re.escape(place)}"):
        dd_plugins.distill(toy_data(validation=0), odd, out=tmp_path, **SMALL)
    assert not (tmp_path / "checkpoint.pt").exists()
    dd_plugins.distill(toy_data(validation=0), odd, **SMALL)  # nothing is saved


def test_conformance_checks_fail_by_assertion_errors() -> None:
    broken = [
        distiller(setup=lambda self, run, real: None),
        distiller(accumulate=lambda self, *given: {"loss": 1.0}),
        distiller(optimizer=lambda self, given: None),
        distiller(advance=lambda self, *given: 1 / 0),
    ]
    for one in broken:
        failed = 0
        for check in testing.DISTILLER_CHECKS:
            try:
                check(one)
            except AssertionError as error:
                failed += bool(str(error))
        assert failed >= 3


def test_checks_of_data_sets() -> None:
    for check in testing.DATASET_CHECKS:
        check(toy_data)
    reproducible = testing.check_dataset_is_reproducible
    tested = testing.check_dataset_has_a_test_set
    with pytest.raises(AssertionError, match="same images"):
        reproducible(
            lambda: dd_plugins.RealData.from_tensors(
                torch.rand(
                    9, 1, 8, 8, generator=torch.Generator().manual_seed(next(n))
                ),
                torch.arange(9) % 2,
            )
        )
    with pytest.raises(AssertionError, match="RealData, got tuple"):
        reproducible(lambda: (1, 2))  # type: ignore[arg-type, return-value]
    with pytest.raises(AssertionError, match="must not raise DataError"):
        tested(lambda: dd_plugins.RealData.from_tensors(*toy_data(validation=0).train))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="every read must give the same"):
        tested(lambda: toys_tested_on(noisy_images))
    with pytest.raises(AssertionError, match="are training images too"):
        testing.check_dataset_has_unseen_test_images(
            lambda: toys_tested_on(lambda: toy_data(validation=0).train)
        )


def toys_tested_on(read: Callable[[], Images]) -> dd_plugins.RealData:
    """Return the toy data with another test set."""
    images, labels = toy_data(validation=0).train
    return dd_plugins.RealData.from_tensors(images[:], labels, test=read)


def noisy_images() -> Images:
    """Return other test images at each read."""
    images, labels = toy_data().read_test()
    return Images(images[:] * torch.rand(()), labels)


n = iter(range(9))


class Watching:
    """An observer, with a fault if one is named."""

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault

    @dd_plugins.hookimpl
    def dd_after_step(self, run: Any, step: int, distilled: Any) -> None:
        if self.fault == "fails without a folder":
            (run.out / "mine.txt").write_text("")
        if self.fault == "draws":
            torch.rand(1)
        if self.fault == "fails late" and step == 4:
            raise ValueError("late")


@record
class Blind(AbstractObserver):
    name = "blind"

    def observe(self, run: Any, first_step: int) -> Any:
        return None


@pytest.mark.parametrize("check", testing.OBSERVER_CHECKS, ids=testing.name_of)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (3, "must be an AbstractObserver"),
        (object(), "must be an AbstractObserver"),
        (Watching, "expected an object, as Watching"),
        (Blind, "expected an object, as Blind"),
    ],
    ids=["number", "object", "Watching", "Blind"],
)
def test_what_observes_nothing_is_no_observer(
    wrong: Any, told: str, check: Any
) -> None:
    with pytest.raises(AssertionError, match=told):
        check(wrong)


def test_an_observer_that_returns_no_observation_is_told() -> None:
    said = r"blind\.observe must return an Observation, got None"
    with pytest.warns(DDWarning, match=said):
        dd_plugins.distill(toy_data(validation=0), "dm", observers=[Blind()], **SMALL)
    with pytest.raises(AssertionError, match=said):
        testing.check_observer_does_not_fail(Blind())


@pytest.mark.parametrize("check", testing.OBSERVER_CHECKS, ids=testing.name_of)
def test_an_observer_without_fault_passes(check: Any) -> None:
    check(Watching())


@pytest.mark.parametrize(
    ("fault", "check", "told"),
    [
        ("fails without a folder", testing.check_observer_does_not_fail, "TypeError"),
        ("fails late", testing.check_observer_does_not_fail, "late"),
        ("draws", testing.check_observer_changes_nothing, "global random state"),
    ],
)
def test_a_fault_of_an_observer_is_found(fault: str, check: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check(Watching(fault))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("images_per_class", np.int64(2), None),
        ("steps", np.int32(2), None),
        ("seed", np.uint8(3), None),
        ("seed", torch.tensor(3), None),
        ("images_per_class", True, "images_per_class must be a whole number"),
        ("steps", 2.0, "steps must be a whole number"),
        ("seed", False, "seed must be a whole number"),
        ("seed", "0", "seed must be a whole number"),
        ("checkpoint_seconds", "30", "checkpoint_seconds must be a number"),
        ("out", 5, "out must be a path"),
        ("network", nn.Flatten(), "a function that .* got a module of the class Flatt"),
        ("network", nn.Flatten, "the function must take num_classes, .* start_dim"),
        ("distiller", torch.optim.Adam, "a distiller must be a spec .* got Adam"),
        ("distiller", None, "a distiller must be a spec .* got NoneType"),
        ("device", "meta", "device 'meta' cannot be used"),
        ("device", 0.5, "such as 'cuda:1'; got 0.5"),
    ],
)
def test_options_of_other_types(name: str, value: Any, told: str | None) -> None:
    options = {"distiller": "dm", **SMALL, name: value}
    if told is None:
        made = dd_plugins.distill(toy_data(validation=0), **options)
        plain = dd_plugins.distill(
            toy_data(validation=0), **(options | {name: int(value)})
        )
        assert made.content_hash() == plain.content_hash()
        return
    with pytest.raises(OptionError, match=told):
        dd_plugins.distill(toy_data(validation=0), **options)


def load(options: DataOptions) -> Any:
    return testing.toy_data(validation=0)


def test_a_loader_that_returns_no_data_is_told() -> None:
    from dd_plugins.plugins.manager import Plugins

    class Mine:
        @dd_plugins.hookimpl
        def dd_register_datasets(self, register: Any) -> None:
            register("pair", lambda options: (1, 2))
            register("named", load)

    plugins = Plugins(load=[], extra={"mine": Mine()})
    with pytest.raises(PluginError, match=r"data set 'pair' \(plugin mine\) must"):
        dd_plugins.distill("pair", "dm", plugins=plugins, **SMALL)
    asked = plugins.dataset("named:90", DataOptions())
    assert asked.name == "named:90"
    with pytest.raises(DataError, match="no test set"):
        dd_plugins.RealData.from_tensors(*toy_data(validation=0).train).read_test()  # type: ignore[arg-type]


AMBIENT = {
    "float64": lambda: _default_dtype(torch.float64),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


class _default_dtype:  # noqa: N801
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __enter__(self) -> None:
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error: object) -> None:
        assert torch.get_default_dtype() == self.dtype, "it must be put back"
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", AMBIENT)
def test_what_torch_was_told_before_changes_nothing(name: str) -> None:
    images = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    options = SMALL | {"precision": "float32", "distiller": "frepo(pool_size=1)"}
    plain = dd_plugins.distill((images, labels), **options)
    with AMBIENT[name]():
        inside = dd_plugins.distill((images, labels), **options)
        told = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        told += (torch.get_default_device(), torch.is_autocast_enabled("cpu"))
    with AMBIENT[name]():
        before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        before += (torch.get_default_device(), torch.is_autocast_enabled("cpu"))
    assert told == before
    assert inside.content_hash() == plain.content_hash()
