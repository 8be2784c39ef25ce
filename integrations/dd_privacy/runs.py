"""Runs of a mechanism: made once, kept under a key of their content, in processes."""

import hashlib
import inspect
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import dd_plugins
from dd_plugins.api import (
    FileError,
    Images,
    RunError,
    cache_folder,
    code_of,
    derive,
    library_versions,
    load_tensors,
    real_outputs,
    record_versions,
    resolve_device,
    resolve_precision,
    save_tensors,
)
from dd_privacy.attacks import Seen
from dd_privacy.game import Game
from dd_privacy.mechanisms import AbstractMechanism, GivenSet, Released

__all__ = ["Done", "Runs", "audit_folder", "threads_of_one"]

_FORMAT = 4
_PATIENCE = 5.0  # seconds for the checkpoint of a run that is stopped


@dataclass(frozen=True)
class Done:
    """A run that is done.

    Attributes:
        seen: what it shows of each example of the game.
        initial: bool ``(n,)``: the examples that its images began as.
        distilled: the released images; None if only a model is released.
        accuracy: of the model on the population, in [0, 1]; None if there is none.
        epsilon: spent under differential privacy; None without.
        seconds: that it took.
    """

    seen: Seen
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
    """The runs of mechanisms on a game.

    A run is a function of the mechanism, its members, the examples it is looked at on,
    and a seed. It is kept in a folder under a key of all that; its last file is written
    when everything is there, and a lock keeps two audits from making one run twice.

    Attributes:
        game: who is a member of which run.
        folder: where runs are kept.
    """

    game: Game
    folder: Path

    def description(self, mechanism: AbstractMechanism, run: int) -> dict[str, object]:
        """Return everything that a run is a function of."""
        chosen = self._of(mechanism, run)
        device = resolve_device(chosen.device)
        records = chosen.records()
        return {
            "format": _FORMAT,
            **chosen.description(),
            "data": self.game.content(run),
            "seed": self._seed(run),
            "hardware": [device.type, str(resolve_precision("auto", device))],
            "versions": library_versions()
            | _opacus_version()
            | record_versions(*records),
            "code": [_source(type(chosen)), code_of(*records)],
        }

    def _of(self, mechanism: AbstractMechanism, run: int) -> AbstractMechanism:
        """Return what a run runs: the first ones are audited, the others shadows."""
        audited = run < len(self.game.targets)
        return mechanism if audited else mechanism.for_shadows()

    def expected_seconds(self, mechanism: AbstractMechanism, run: int) -> float:
        """Return about how long a run takes."""
        return self._of(mechanism, run).expected_seconds(self.game.data(run))

    def _seed(self, run: int) -> int:
        generator = derive(self.game.seed, "audited run", run)
        return int(torch.randint(2**31, (), generator=generator))

    def path(self, mechanism: AbstractMechanism, run: int) -> Path:
        """Return the folder that holds a run, or will."""
        text = self._text(mechanism, run)
        return self.folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _text(self, mechanism: AbstractMechanism, run: int) -> str:
        return json.dumps(self.description(mechanism, run), sort_keys=True)

    def is_done(self, mechanism: AbstractMechanism, run: int) -> bool:
        """Tell whether a run is there."""
        return (self.path(mechanism, run) / "seen.safetensors").is_file()

    def make(self, mechanism: AbstractMechanism, run: int) -> None:
        """Make a run, unless it is there, or wait for the audit that is making it.

        Raises:
            FileError: it cannot be written.
        """
        folder = self.path(mechanism, run)
        with _locked(folder):
            if self.is_done(mechanism, run):
                return
            started = time.perf_counter()
            data = self.game.data(run)
            part = folder / "run"
            released = self._of(mechanism, run).run(data, self._seed(run), part)
            tensors = self._look(released)
            if released.distilled is not None:
                released.distilled.save(folder / "distilled.safetensors")
            about = {
                "description": self._text(mechanism, run),
                "distilled": _content(released.distilled),
                "epsilon": json.dumps(released.epsilon),
                "seconds": json.dumps(time.perf_counter() - started),
            }
            save_tensors(folder / "seen.safetensors", tensors, about)
            shutil.rmtree(part, ignore_errors=True)

    def _look(self, released: Released) -> dict[str, Tensor]:
        """Return what a run shows of every example."""
        network, distilled = released.network, released.distilled
        device = next(network.parameters()).device
        examples = Images(self.game.images, self.game.labels)

        def of(what: Callable[[Tensor], Tensor]) -> Tensor:
            return real_outputs(what, examples, released.transform, device=device)

        if distilled is None:
            return {"outputs": of(network)}
        images = distilled.images.to(device)
        with torch.no_grad():
            own = F.normalize(network.features(images))

        def together(pixels: Tensor) -> Tensor:
            """Return outputs and both distances, of one pass through the network."""
            features = network.features(pixels)
            by_pixels = _nearest(pixels.flatten(1), images.flatten(1))
            by_features = _nearest(F.normalize(features), own)
            distances = torch.stack([by_pixels, by_features], dim=1)
            return torch.cat([network.head(features).cpu(), distances], dim=1)

        seen = of(together)
        return {
            "outputs": seen[:, :-2].contiguous(),
            "pixel_distance": seen[:, -2].contiguous(),
            "feature_distance": seen[:, -1].contiguous(),
        }

    def _initial(
        self,
        mechanism: AbstractMechanism,
        distilled: dd_plugins.DistilledSet | None,
        run: int,
    ) -> Tensor:
        """Return which examples the images of a run began as."""
        if isinstance(self._of(mechanism, run), GivenSet):
            return self.game.began
        mask = torch.zeros(len(self.game), dtype=torch.bool)
        if distilled is None or distilled.header.initial_indices is None:
            return mask
        places = torch.tensor(distilled.header.initial_indices)
        places = places - len(self.game.always.labels)
        mask[self.game.members(run).nonzero().flatten()[places[places >= 0]]] = True
        return mask

    def load(self, mechanism: AbstractMechanism, run: int) -> Done:
        """Return a run that is done.

        Raises:
            FileError: its files are missing or damaged.
        """
        folder = self.path(mechanism, run)
        file = folder / "seen.safetensors"
        advice = f"remove {folder}, and it is made anew"
        tensors, about = load_tensors(file, what="a run of an audit", advice=advice)
        try:
            description = about["description"]
            epsilon, seconds = json.loads(about["epsilon"]), float(about["seconds"])
            seen = Seen(
                tensors["outputs"],
                tensors.get("pixel_distance"),
                tensors.get("feature_distance"),
            )
        except (ValueError, KeyError) as error:
            raise FileError(
                f"{file} cannot be read as a run of an audit ({error}); {advice}"
            ) from error
        if description != self._text(mechanism, run):
            raise FileError(f"{file} does not match its key; {advice}")
        distilled = None
        if seen.pixel_distance is not None:
            try:
                distilled = dd_plugins.DistilledSet.load(
                    folder / "distilled.safetensors"
                )
            except FileError as error:
                raise FileError(f"{error}; {advice}") from error
        if _content(distilled) != about.get("distilled"):
            raise FileError(
                f"{file} was made with other images than {folder} holds; {advice}"
            )
        if distilled is not None and distilled.header.label_kind == "regression":
            seen = replace(seen, outputs=seen.outputs * self._scale(seen.outputs))
        initial = self._initial(mechanism, distilled, run)
        population = self.game.population
        accuracy = None
        if bool(population.any()):
            right = seen.outputs.argmax(dim=1) == self.game.labels
            accuracy = float(right[population].float().mean())
        return Done(seen, initial, distilled, accuracy, epsilon, seconds)

    def _scale(self, outputs: Tensor) -> float:
        """Return by what regression outputs are scaled before a softmax.

        Outputs near 0 and 1 make all probabilities alike, and every attack on them
        blind; the scale is that of the greatest likelihood on the population.
        """
        population = self.game.population
        if not bool(population.any()):
            return 1.0
        chosen, labels = outputs[population], self.game.labels[population]
        return min(
            (2.0**power for power in range(-2, 8)),
            key=lambda scale: float(F.cross_entropy(scale * chosen, labels)),
        )

    def make_all(
        self,
        wanted: Sequence[tuple[AbstractMechanism, int]],
        *,
        processes: int = 1,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> None:
        """Make runs, those that are there excepted.

        Args:
            wanted: mechanisms, and the numbers of their runs.
            processes: in which runs are made side by side; the cores are shared out.
            on_done: called with how many are done.

        Raises:
            FileError: a run cannot be written.
            RunError: a process was killed, or code has changed since this one began.
        """
        missing = [job for job in wanted if not self.is_done(*job)]
        done = len(wanted) - len(missing)
        on_done(done)
        for _ in self._made(missing, processes):
            done += 1
            on_done(done)

    def _made(
        self, missing: Sequence[tuple[AbstractMechanism, int]], processes: int
    ) -> Iterator[None]:
        if processes <= 1 or len(missing) <= 1:
            for job in missing:
                self.make(*job)
                yield
            return
        processes = min(processes, len(missing))
        # A process that is forked off one which has used torch's threads hangs.
        context = multiprocessing.get_context("spawn")
        alive, held = context.Pipe(duplex=False)
        executor = ProcessPoolExecutor(
            processes,
            mp_context=context,
            initializer=_prepare,
            initargs=(self, _threads(processes), alive),
        )
        try:
            jobs = {executor.submit(_make, *job): job for job in missing}
            for future in as_completed(jobs):
                if future.result() != self.path(*jobs[future]):
                    raise RunError(
                        "code of this audit was changed while its runs were made; give "
                        "the same words again: those of the old code are made anew"
                    )
                yield
        except BaseException as error:
            held.close()  # what is at work now is not waited for
            if not isinstance(error, BrokenProcessPool):
                raise
            raise RunError(
                "a process that made runs was killed, perhaps for lack of memory; "
                "runs that are done are kept: give the same words again, with fewer "
                "processes if memory was short"
            ) from error
        finally:
            executor.shutdown(cancel_futures=True)
            held.close()
            alive.close()


def _threads(processes: int) -> int:
    return max(1, torch.get_num_threads() // processes)


@contextmanager
def threads_of_one(processes: int) -> Iterator[None]:
    """Compute for a while with as many threads as each of several processes has."""
    before = torch.get_num_threads()
    torch.set_num_threads(_threads(processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


_worker: dict[str, Any] = {}


def _prepare(runs: Runs, threads: int, alive: Connection) -> None:
    """Set a process up: the game is sent once, not with each run."""
    _worker["ending"] = False
    threading.Thread(target=_end_with_the_parent, args=(alive,), daemon=True).start()
    torch.set_num_threads(threads)
    _worker["runs"] = runs


def _end_with_the_parent(alive: Connection) -> None:
    """End this process when the audit that started it has stopped, or was killed.

    A distillation writes a checkpoint at a signal; what takes longer is given up.

    Args:
        alive: of a pipe whose other end the audit alone holds.
    """
    with suppress(EOFError, OSError):
        alive.recv()  # nothing is ever sent: it ends when the pipe is closed
    _worker["ending"] = True
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os._exit(1)


def _make(mechanism: AbstractMechanism, run: int) -> Path:
    """Make a run in this process; return where it is kept, by the code loaded here."""
    runs: Runs = _worker["runs"]
    try:
        runs.make(mechanism, run)
        return runs.path(mechanism, run)
    finally:
        if _worker["ending"]:  # no other run is begun
            os._exit(1)


def _source(kind: type) -> str | None:
    """Return the source of the module of a mechanism that is not of this package."""
    if kind.__module__.partition(".")[0] == __package__:
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
    """Hold the lock of a run's folder; it is let go if this process dies."""
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


def _nearest(examples: Tensor, images: Tensor) -> Tensor:
    """Return the distance of each example to the nearest image, float32 ``(n,)``.

    In float64 on the CPU: products of matrices would else lose the distance of copies.
    """
    distances = torch.cdist(examples.cpu().double(), images.cpu().double())
    return distances.min(dim=1).values.float()
