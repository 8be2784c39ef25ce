"""Observers of one's own, asked for in Python and by name."""

from typing import Any

import pytest

from dd_plugins import distill, hookimpl, record
from dd_plugins.api import AbstractObserver, Observation, Plugins
from dd_plugins.errors import DDWarning, OptionError, UnknownNameError
from dd_plugins.testing import OBSERVER_CHECKS, name_of, toy_data

QUICK: dict[str, Any] = {"network": "mlp(width=4)", "steps": 3, "device": "cpu"}
told: list[Any] = []


class Telling(Observation):
    def __init__(self, every: int) -> None:
        self.every = every

    def after_step(self, step: int, metrics: Any, distilled: Any) -> None:
        if step % self.every == 0:
            told.append((step, "loss" in metrics, len(distilled())))

    def after_run(self, distilled: Any) -> None:
        told.append("end" if distilled is not None else "stopped")


@record
class Teller(AbstractObserver):
    name = "teller"

    every: int = 1

    def observe(self, run: Any, first_step: int) -> Observation:
        told.append((run.task.dataset, first_step))
        return Telling(self.every)


class Plugin:
    @hookimpl
    def dd_register_observers(self, register: Any) -> None:
        register(Teller)


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    told.clear()


@pytest.mark.parametrize("check", OBSERVER_CHECKS, ids=name_of)
def test_an_observer_of_one_s_own_conforms(check: Any) -> None:
    check(Teller(every=2))


@pytest.mark.parametrize(
    "asked", ["teller(every=2)", ["teller(every=2)"], Teller(every=2)]
)
def test_it_sees_the_runs_that_ask_for_it(asked: Any) -> None:
    plugins = Plugins(load=[], extra={"mine": Plugin()})
    distill(toy_data(), "dm", plugins=plugins, observers=asked, **QUICK)
    assert told == [("toy", 0), (2, True, 2), "end"]
    told.clear()
    distill(toy_data(), "dm", plugins=plugins, **QUICK)
    assert told == []


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("tensorbord", UnknownNameError, "unknown observer.*nearest first: tensorb"),
        ("wandb(mode='of')", OptionError, "'online' or 'offline'"),
        ([3], OptionError, "an observer must be a spec.*got int"),
        ([Teller], OptionError, "AbstractObserver, got Teller"),
    ],
)
def test_what_is_no_observer_is_refused(
    asked: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        distill(toy_data(), "dm", observers=asked, **QUICK)


def test_one_that_fails_is_named_and_the_run_goes_on() -> None:
    @record
    class Broken(Teller):
        name = "broken"

        def observe(self, run: Any, first_step: int) -> Observation:
            raise OSError(28, "No space left on device")

    with pytest.warns(DDWarning, match=r"broken\(every=7\)") as warned:
        made = distill(toy_data(), "dm", observers=Broken(every=7), **QUICK)
    assert len(warned) == 2
    assert len(made) == 2
