"""The base classes of observers requested by a spec."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from dd_plugins.run import Run
from dd_plugins.spec import Record
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["AbstractObserver", "Observation"]


class Observation(ABC):
    """The observation of one run by an observer; it must not change the run."""

    @abstractmethod
    def after_step(
        self,
        step: int,
        metrics: Mapping[str, float],
        distilled: Callable[[], DistilledSet],
    ) -> None:
        """Observe the end of a step.

        Args:
            step: steps done, from 1.
            metrics: as for the hook ``dd_after_step``.
            distilled: returns the set as it is now.
        """

    def after_run(self, distilled: DistilledSet | None) -> None:
        """Observe the end of the run, and close what is open.

        Args:
            distilled: the result; None if the run did not reach its end.
        """
        del distilled


class AbstractObserver(Record, ABC):
    """An observer with its options; :meth:`observe` begins to observe a run.

    A class is registered by the hook ``dd_register_observers`` under ``name``, and
    observes the runs requesting it, by ``--observe``, or ``observers=`` in Python.
    """

    def check(self, run: Run) -> None:
        """Refuse a run that cannot be observed, before anything is written.

        Raises:
            OptionError: an option does not fit the run.
            MissingExtraError: a package is missing.
        """
        del run

    @abstractmethod
    def observe(self, run: Run, first_step: int) -> Observation:
        """Begin to observe a run, before its first step.

        Only the reporting process calls it.

        Args:
            run: the run.
            first_step: 0, or the step at which an interrupted run goes on.
        """
