"""The laws of observers."""

import tempfile
import warnings
from collections.abc import Callable

from dd_plugins.engine.distillation import distill
from dd_plugins.errors import DDWarning
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import (
    STEPS,
    Interruption,
    assert_equal,
    global_random_state,
    short_run,
)

__all__ = [
    "OBSERVER_CHECKS",
    "check_observer_changes_nothing",
    "check_observer_does_not_fail",
]


@asserts
def check_observer_does_not_fail(observer: object) -> None:
    """An observer takes runs with and without a folder, and a resumed run."""
    stop = {"observer": observer, "interruption": Interruption(STEPS // 2)}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("error", DDWarning)
        distill(
            **short_run("dm", plugins=Plugins(load=[], extra={"observer": observer}))
        )
        try:
            distill(**short_run("dm", out=folder, plugins=Plugins(load=[], extra=stop)))
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the run must be interrupted half-way, but it ended")
        again = Plugins(load=[], extra={"observer": observer})
        distill(**short_run("dm", out=folder, resume=True, plugins=again))


@asserts
def check_observer_changes_nothing(observer: object) -> None:
    """A run ends the same with the observer, and nothing is drawn globally."""
    plain = distill(**short_run("dm", plugins=Plugins(load=[])))
    before = global_random_state()
    observed = distill(
        **short_run("dm", plugins=Plugins(load=[], extra={"observer": observer}))
    )
    assert_equal(plain, observed, "an observer must not change the run")
    law = "an observer must leave the global random state as it was"
    assert global_random_state() == before, law


OBSERVER_CHECKS: tuple[Callable[[object], None], ...] = (
    check_observer_does_not_fail,
    check_observer_changes_nothing,
)
"""Every check of an observer; each takes a plugin object."""
