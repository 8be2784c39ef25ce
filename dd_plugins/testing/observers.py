"""The laws of observers."""

import tempfile
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from dd_plugins.engine.distillation import distill
from dd_plugins.errors import DDWarning
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import (
    STEPS,
    Interruption,
    assert_draws_nothing_globally,
    assert_equal,
    assert_interrupted,
    short_run,
)
from dd_plugins.tracking.base import AbstractObserver

__all__ = [
    "OBSERVER_CHECKS",
    "check_observer_changes_nothing",
    "check_observer_does_not_fail",
]

_HOOKS = {"dd_before_run", "dd_after_step", "dd_after_run"}


@asserts
def check_observer_does_not_fail(observer: object) -> None:
    """An observer takes runs with and without a folder, and a resumed run."""
    stop = {"interruption": Interruption(STEPS // 2)}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("error", DDWarning)
        distill(**_observed(observer))
        assert_interrupted(lambda: distill(**_observed(observer, stop, out=folder)))
        distill(**_observed(observer, out=folder, resume=True))


def _observed(
    observer: object, others: Mapping[str, object] | None = None, **options: Any
) -> dict[str, Any]:
    """Return the arguments of a short run with an observer of either form."""
    extra: dict[str, object] = dict(others or {})
    if isinstance(observer, AbstractObserver):
        options["observers"] = [observer]
        return short_run("dm", plugins=Plugins(load=[], extra=extra), **options)
    plugins = Plugins(load=[], extra=extra | {"observer": observer})
    (found,) = (each for each in plugins.plugins if each.name == "observer")
    law = "an observer must be an AbstractObserver, or a plugin object with a hook of"
    assert _HOOKS & set(found.hooks), f"{law} runs, got {observer!r}"
    return short_run("dm", plugins=plugins, **options)


@asserts
def check_observer_changes_nothing(observer: object) -> None:
    """A run ends the same with the observer, and nothing is drawn globally."""
    plain = distill(**short_run("dm", plugins=Plugins(load=[])))

    def observe() -> None:
        observed = distill(**_observed(observer))
        assert_equal(plain, observed, "an observer must not change the run")

    law = "an observer must leave the global random state as it was"
    assert_draws_nothing_globally(observe, law)


OBSERVER_CHECKS: tuple[Callable[[object], None], ...] = (
    check_observer_does_not_fail,
    check_observer_changes_nothing,
)
"""Every check of an observer; each takes a plugin object, or an AbstractObserver."""
