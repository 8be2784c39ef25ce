"""Networks that functions of Python make."""

import functools
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dd_plugins
from dd_plugins import (
    DistilledSet,
    distill,
    evaluate,
    get_network,
    relabel,
    transfer,
)
from dd_plugins.api import train_networks
from dd_plugins.errors import OptionError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.testing import (
    NETWORK_CHECKS,
    check_network_spec_round_trip,
    name_of,
    toy_data,
)
from dd_plugins.testing.toys import Interruption, assert_equal
from dd_plugins.training.sources import code_of

NAME = f"{__name__}.Small"
QUICK: dict[str, Any] = {
    "data": toy_data(),
    "repeats": 1,
    "protocol": "recipe(steps=2)",
}


class Small(nn.Module):
    """A network as people write them: its views need channels first in memory."""

    def __init__(
        self, num_classes: int, channels: int = 1, image_size: int = 8, width: int = 4
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.head = nn.Linear(width * (image_size // 2) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.max_pool2d(self.conv(images).relu(), 2)
        logits: Tensor = self.head(maps.view(len(maps), -1))
        return logits


ONE = Small(2)


def short(network: Any, distiller: str = "dm", **options: Any) -> DistilledSet:
    """Distil the toy data on a network for a step."""
    return distill(
        toy_data(validation=0), distiller, **{"network": network, "steps": 1} | options
    )


@pytest.mark.parametrize(
    "check",
    # No spec builds a function.
    [check for check in NETWORK_CHECKS if check is not check_network_spec_round_trip],
    ids=name_of,
)
def test_a_function_conforms(check: Callable[..., None]) -> None:
    check(get_network(Small))


@pytest.mark.parametrize(
    "distiller", ["frepo(pool_size=2)", "dsa", "mtt(experts=1, student_steps=2)"]
)
def test_every_method_distils_on_it(distiller: str) -> None:
    made = short(Small, distiller)
    assert made.header.network == f"factory({NAME!r})"
    assert made.header.evaluation_network == f"factory({NAME!r})"


def test_channels_and_size_come_with_the_classes() -> None:
    def make(num_classes: int, image_size: Any, channels: int) -> nn.Module:
        given.append((num_classes, image_size, channels))
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    given: list[Any] = []
    for shape in ((3, 8, 8), (1, 4, 6)):
        get_network(make).build(shape, 5, generator=generator_for(0, "test"))
    assert given == [(5, 8, 3), (5, (4, 6), 1)]


def test_bound_arguments_are_part_of_the_name() -> None:
    narrow = get_network(functools.partial(Small, width=2))
    assert repr(narrow) == f"factory('{NAME}(width=2)')"
    module = narrow.build((1, 8, 8), 2, generator=generator_for(0, "test"))
    assert module.head.in_features == 2 * 16
    shown = repr(get_network(functools.partial(Small, torch.relu, kind=nn.Linear)))
    assert shown == f"factory('{NAME}(relu, kind=Linear)')"


def test_a_set_is_evaluated_with_the_function_or_another_network(
    tmp_path: Path,
) -> None:
    short(Small).save(tmp_path / "set.safetensors")
    made = DistilledSet.load(tmp_path / "set.safetensors")
    found = evaluate(made, [Small, "mlp(width=4)"], **QUICK)
    assert [each.spec for each in found.networks] == [
        f"factory({NAME!r})",
        "mlp(width=4)",
    ]
    assert len(evaluate(made, Small, **QUICK).networks) == 1
    with pytest.raises(OptionError, match=f"{NAME}.*function of Python.*--network"):
        evaluate(made, **QUICK)
    with pytest.raises(OptionError, match="function of Python"):
        distill(toy_data(), **made.header.run.arguments())


def test_transfer_tells_functions_apart_and_needs_not_the_own_one() -> None:
    def line(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    made = short(Small)
    (report,) = transfer(made, [line, Small], **QUICK).sets
    assert report.roles == ("distilled with", "held out")
    (report,) = transfer(made, line, **QUICK).sets
    assert report.roles == ("held out",)


def test_a_run_goes_on_with_the_same_layers_only(tmp_path: Path) -> None:
    def of_width(width: int) -> Callable[..., nn.Module]:
        def make(num_classes: int) -> nn.Module:
            return Small(num_classes, width=width)

        return make

    whole = short(of_width(3), steps=4)
    stopped = Plugins(load=[], extra={"stop": Interruption(2)})
    with pytest.raises(KeyboardInterrupt):
        short(of_width(3), steps=4, out=tmp_path, plugins=stopped)
    with pytest.raises(OptionError, match=r"network was .* with layers"):
        short(of_width(5), steps=4, out=tmp_path, resume=True)
    gone_on = short(of_width(3), steps=4, out=tmp_path, resume=True)
    assert_equal(whole, gone_on, "a run that goes on ends as one without a break")


def with_activation(act: Callable[..., Tensor]) -> Callable[..., nn.Module]:
    """Return a function whose networks have the same layers for each activation."""

    class Activated(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return act(images)

    def make(num_classes: int) -> nn.Module:
        return nn.Sequential(Activated(), nn.Flatten(), nn.Linear(64, num_classes))

    return make


def test_values_that_the_function_holds_tell_networks_apart(tmp_path: Path) -> None:
    short(with_activation(torch.relu), out=tmp_path / "run")
    with pytest.raises(OptionError, match=r"network was .* and values"):
        short(with_activation(torch.tanh), out=tmp_path / "run", resume=True)

    def was_there(act: Callable[..., Tensor]) -> bool:
        network = get_network(with_activation(act))
        (report,) = train_networks(
            toy_data(), network, stages=[1], folder=tmp_path / "kept"
        )
        return report.was_there

    acts = [torch.relu, torch.tanh, torch.relu, torch.tanh]
    assert [was_there(act) for act in acts] == [False, False, True, True]


def test_a_network_whose_function_holds_a_lock_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    lock = threading.Lock()

    def make(num_classes: int) -> nn.Module:
        with lock:
            return Small(num_classes)

    for _ in range(2):
        (report,) = train_networks(toy_data(), get_network(make), stages=[1])
        assert not report.was_there
    assert not report.file.exists()
    expert = "experts=1, expert=recipe(steps=4), snapshot_steps=1"
    short(make, f"mtt({expert}, student_steps=1)")
    short(make, "rded(group=0, teacher_recipe=recipe(steps=1))")
    assert not list(tmp_path.rglob("*.safetensors"))
    with pytest.raises(OptionError, match="holds an object of unknown content"):
        relabel(short("mlp(width=4)"), teachers=[make], data=toy_data())


def test_a_function_that_counts_its_calls_makes_teachers() -> None:
    calls: list[int] = []

    def make(num_classes: int) -> nn.Module:
        calls.append(num_classes)
        return Small(num_classes)

    short(make, "rded(group=0, teacher_recipe=recipe(steps=1))")


def test_kept_networks_are_known_by_the_code_and_the_layers() -> None:
    identities = {
        get_network(functools.partial(Small, width=width)).identity((1, 8, 8), 2)
        for width in (2, 3, 3)
    }
    assert len(identities) == 2
    assert list(code_of(get_network(Small))) == [f"source of {__name__}"]
    assert code_of(get_network("mlp")) == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Small(2), "function that returns a fresh module.*lambda.*class Small"),
        (nn.Sequential(), "class Sequential"),
        (lambda number: Small(number + 0), "must take num_classes.*takes number"),
        (lambda num_classes, width: Small(num_classes), "takes num_classes, width"),
        (lambda num_classes: num_classes, "must be a torch.nn.Module, got int"),
        (lambda num_classes, made=ONE: made, "fresh module at each call"),
        (lambda num_classes: Small(7), r"logits of shape \(n, 2\).*\(2, 7\)"),
        (dict, "got dict"),
        (3, "got int"),
    ],
)
def test_what_makes_no_network_is_refused_in_one_line(given: Any, told: str) -> None:
    with pytest.raises(OptionError, match=told) as refused:
        short(given, "frepo(pool_size=2)")
    assert str(refused.value).isprintable()
    shown = re.search(r"0x[0-9a-f]{6}", str(refused.value))
    assert shown is None


def test_a_list_of_networks_names_no_module() -> None:
    made = short("mlp(width=4)")
    with pytest.raises(OptionError, match="function that returns a fresh module"):
        dd_plugins.evaluate(made, ["mlp", Small(2)], **QUICK)
