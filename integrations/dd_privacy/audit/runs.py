"""Runs of mechanisms: made once, kept under a key of their dependencies."""

import hashlib
import inspect
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import (
    FileError,
    RunError,
    cache_folder,
    code_of,
    generator_for,
    library_versions,
    load_tensors,
    record_versions,
    resolve_device,
    resolve_precision,
    save_tensors,
)
from dd_privacy.audit.attacks.base import Observations
from dd_privacy.audit.mechanisms.base import AbstractMechanism, Release
from dd_privacy.audit.mechanisms.given_set import GivenSet
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.observations import observe, scale_of_outputs
from dd_privacy.audit.workers import Job, run_in_parallel

__all__ = ["FinishedRun", "Runs", "audit_folder"]

_FORMAT = 4
_LAST_FILE = "seen.safetensors"
_SET_FILE = "distilled.safetensors"


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, as attacks see it.

    Attributes:
        observations: the observations of each example.
        initial: bool ``(n,)``: the initial real images of its set.
        distilled: the released images; None if a model alone is released.
        accuracy: the model's accuracy on the population, in [0, 1]; None without one.
        epsilon: its stated epsilon; None without one.
        seconds: its duration.
    """

    observations: Observations
    initial: Tensor
    distilled: dd_plugins.DistilledSet | None
    accuracy: float | None
    epsilon: float | None
    seconds: float


def audit_folder() -> Path:
    """Return where runs are kept: a folder of the cache (see ``DD_CACHE``)."""
    return cache_folder() / "audits"


@dataclass(frozen=True)
class Runs:
    """The runs of mechanisms on the members of a membership game.

    A run depends on its mechanism, its members, the observed examples, and a seed. Its
    folder is named by a key of all these. The last file of the folder is written when
    the others are complete, and a lock keeps two audits from making the run twice.

    Attributes:
        membership: the members of each run.
        folder: the folder of kept runs.
    """

    membership: Membership
    folder: Path

    def description(self, mechanism: AbstractMechanism, run: int) -> dict[str, object]:
        """Return everything a run depends on: its key is a hash of this."""
        chosen = self._mechanism_of(mechanism, run)
        device = resolve_device(chosen.device)
        records = chosen.records()
        return {
            "format": _FORMAT,
            **chosen.description(),
            "data": self.membership.content(run),
            "seed": self._seed(run),
            "hardware": [device.type, str(resolve_precision("auto", device))],
            "versions": library_versions()
            | _opacus_version()
            | record_versions(*records),
            "code": [_source(type(chosen)), code_of(*records)],
        }

    def path(self, mechanism: AbstractMechanism, run: int) -> Path:
        """Return the folder of a run, made or not."""
        text = self._text(mechanism, run)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def is_done(self, mechanism: AbstractMechanism, run: int) -> bool:
        """Return whether a run is finished."""
        return (self.path(mechanism, run) / _LAST_FILE).is_file()

    def expected_seconds(self, mechanism: AbstractMechanism, run: int) -> float:
        """Estimate how long a run takes."""
        chosen = self._mechanism_of(mechanism, run)
        return chosen.expected_seconds(self.membership.data(run))

    def make(self, mechanism: AbstractMechanism, run: int) -> Path:
        """Make a run if it is missing, or wait until another audit has made it.

        Returns:
            Its folder, by the key of the code on disk after the run.

        Raises:
            FileError: the run cannot be written.
        """
        folder = self.path(mechanism, run)
        with _locked(folder):
            if not self.is_done(mechanism, run):
                self._make(mechanism, run, folder)
        return self.path(mechanism, run)

    def make_all(
        self,
        wanted: Sequence[Job],
        *,
        processes: int = 1,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Make the missing runs among the wanted ones.

        Args:
            wanted: mechanisms, and the numbers of their runs.
            processes: the number of processes making runs in parallel; they share the
                cores.
            on_done: called with the number of finished runs.

        Raises:
            FileError: a run cannot be written.
            RunError: a process was killed, or code has changed since the audit began.
        """
        missing = [job for job in wanted if not self.is_done(*job)]
        done = len(wanted) - len(missing)
        on_done(done)
        for _ in self._made(missing, min(processes, len(missing))):
            done += 1
            on_done(done)

    def load(self, mechanism: AbstractMechanism, run: int) -> FinishedRun:
        """Return a finished run.

        Raises:
            FileError: its files are missing or damaged.
        """
        observations, content, epsilon, seconds = self._read(mechanism, run)
        distilled = self._read_set(mechanism, run, content)
        population, labels = self.membership.population, self.membership.labels
        if distilled is not None and distilled.header.label_kind == "regression":
            outputs = observations.outputs
            scale = scale_of_outputs(outputs[population], labels[population])
            observations = replace(observations, outputs=outputs * scale)
        accuracy = None
        if bool(population.any()):
            right = observations.outputs.argmax(dim=1) == labels
            accuracy = float(right[population].float().mean())
        return FinishedRun(
            observations,
            self._initial(mechanism, distilled, run),
            distilled,
            accuracy,
            epsilon,
            seconds,
        )

    def _mechanism_of(
        self, mechanism: AbstractMechanism, run: int
    ) -> AbstractMechanism:
        """Return the mechanism of a run: audited runs come first, then shadow runs."""
        audited = run < len(self.membership.targets)
        return mechanism if audited else mechanism.for_shadows()

    def _seed(self, run: int) -> int:
        generator = generator_for(self.membership.seed, "audited run", run)
        return int(torch.randint(2**31, (), generator=generator))

    def _text(self, mechanism: AbstractMechanism, run: int) -> str:
        return json.dumps(self.description(mechanism, run), sort_keys=True)

    def _make(self, mechanism: AbstractMechanism, run: int, folder: Path) -> None:
        """Make a run in its folder, whose lock is held."""
        started = time.perf_counter()
        data, checkpoints = self.membership.data(run), folder / "run"
        chosen = self._mechanism_of(mechanism, run)
        release: Release = chosen.run(data, self._seed(run), checkpoints)
        tensors = observe(release, self.membership.images, self.membership.labels)
        if release.distilled is not None:
            release.distilled.save(folder / _SET_FILE)
        about = {
            "description": self._text(mechanism, run),
            "distilled": _content(release.distilled),
            "epsilon": json.dumps(release.epsilon),
            "seconds": json.dumps(time.perf_counter() - started),
        }
        save_tensors(folder / _LAST_FILE, tensors, about)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def _made(self, missing: Sequence[Job], processes: int) -> Iterator[None]:
        """Make runs; yield after each."""
        if processes <= 1:
            for job in missing:
                self.make(*job)
                yield
            return
        for job, folder in run_in_parallel(self.make, missing, processes):
            if folder != self.path(*job):
                raise RunError(
                    "the code of an audit must stay as it is while its runs are made, "
                    "got changed code; repeat the command, which makes the runs of the "
                    "old code again"
                )
            yield

    def _read(
        self, mechanism: AbstractMechanism, run: int
    ) -> tuple[Observations, str, float | None, float]:
        """Return the observations, hash of the released images, epsilon and seconds."""
        file = self.path(mechanism, run) / _LAST_FILE
        advice = _advice(file.parent)
        tensors, about = load_tensors(file, what="a run of an audit", advice=advice)
        try:
            observations = Observations(
                tensors["outputs"],
                tensors.get("pixel_distance"),
                tensors.get("feature_distance"),
            )
            description, content = about["description"], about["distilled"]
            epsilon, seconds = json.loads(about["epsilon"]), float(about["seconds"])
        except (ValueError, KeyError) as error:
            raise FileError(
                f"{file}: expected a run of an audit, got a file that cannot be read "
                f"as one ({error}); {advice}"
            ) from error
        if description != self._text(mechanism, run):
            raise FileError(
                f"{file}: expected a run that matches its key, got another; {advice}"
            )
        return observations, content, epsilon, seconds

    def _read_set(
        self, mechanism: AbstractMechanism, run: int, content: str
    ) -> dd_plugins.DistilledSet | None:
        """Return the released images of a run, checked by the hash in its last file."""
        folder = self.path(mechanism, run)
        distilled = None
        if content:
            try:
                distilled = dd_plugins.DistilledSet.load(folder / _SET_FILE)
            except FileError as error:
                raise FileError(f"{error}; {_advice(folder)}") from error
        if _content(distilled) != content:
            raise FileError(
                f"{folder}: expected the released images that {_LAST_FILE} was made "
                f"with, got other images; {_advice(folder)}"
            )
        return distilled

    def _initial(
        self,
        mechanism: AbstractMechanism,
        distilled: dd_plugins.DistilledSet | None,
        run: int,
    ) -> Tensor:
        """Return the mask of the initial real images of a run's set."""
        if isinstance(self._mechanism_of(mechanism, run), GivenSet):
            return self.membership.initial
        mask = torch.zeros(len(self.membership), dtype=torch.bool)
        if distilled is None or distilled.header.initial_indices is None:
            return mask
        # A run's data hold the unscored members first, then those among the examples.
        indices = torch.tensor(distilled.header.initial_indices)
        indices = indices - len(self.membership.always.labels)
        members = self.membership.members(run).nonzero().flatten()
        mask[members[indices[indices >= 0]]] = True
        return mask


def _advice(folder: Path) -> str:
    return f"remove {folder}, and it is made anew"


def _source(kind: type) -> str | None:
    """Return the source of a mechanism's module, unless it is in this package."""
    package = __name__.partition(".")[0]
    if kind.__module__.partition(".")[0] == package:
        return None
    try:
        return inspect.getsource(sys.modules[kind.__module__])
    except (OSError, TypeError, KeyError):  # typed into a console
        return None


def _content(distilled: dd_plugins.DistilledSet | None) -> str:
    """Return the hash of the released images; empty if there are none."""
    return "" if distilled is None else distilled.content_hash()


@cache
def _opacus_version() -> dict[str, str]:
    try:
        return {"opacus": version("opacus")}
    except PackageNotFoundError:
        return {}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder; it is released if this process dies."""
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        lock.acquire()
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"cannot write {folder}: {reason}") from error
    try:
        yield
    finally:
        lock.release()
