"""What the tests share: the command line in a process, and where real data lies."""

import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).parents[1]
DATA_FOLDERS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
}

Command = Callable[..., subprocess.CompletedProcess[str]]

# What `make test-fast` leaves out. A test is slow by what it names: it starts processes
# or reads real data. These files are slow for other reasons: they train networks.
SLOW_NAMES = {
    "command_line",
    "Started",
    "printed_by_benchmark",
    "run_code",
    "run_in_two_processes",
    "subprocess",
    "torchrun",
    "data_root",
    "site",
}
SLOW_FILES = {
    "quick-start.md",
    "test_attention.py",
    "test_attention_picture.py",
    "test_audit.py",
    "test_buffer.py",
    "test_conformance.py",
    "test_conformance_checks.py",
    "test_continual.py",
    "test_cross_architecture.py",
    "test_distilling.py",
    "test_distillation_mechanism.py",
    "test_engine.py",
    "test_evaluate.py",
    "test_frepo.py",
    "test_given_set.py",
    "test_growing.py",
    "test_kip.py",
    "test_memory.py",
    "test_parametrization_checks.py",
    "test_privacy_statistics.py",
    "test_private_avalanche.py",
    "test_private_model.py",
    "test_private_trainer.py",
    "test_private_training.py",
    "test_processes.py",
    "test_resume.py",
    "test_script.py",
    "test_streamed.py",
    "test_template.py",
}

# A file is run by one process: these take half a minute or more, so they begin first.
LONG_FILES = {
    "test_audit.py",
    "test_audit_command.py",
    "test_buffer.py",
    "test_command_line.py",
    "test_conformance.py",
    "test_processes.py",
    "test_readme.py",
    "test_relabelling.py",
    "test_resume.py",
    "test_seams.py",
    "test_site.py",
    "test_streamed.py",
    "test_template.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, so that nobody has to remember it; put long files first."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    for item in items:
        code = getattr(getattr(item, "function", None), "__code__", None)
        names = {*getattr(item, "fixturenames", ()), *(code.co_names if code else ())}
        if item.path.name in SLOW_FILES or not SLOW_NAMES.isdisjoint(names):
            item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Draw the same numbers in every run of a test, whatever ran before it."""
    torch.manual_seed(zlib.crc32(item.nodeid.encode()))


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep trained networks in a folder of the session, not the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_CACHE", str(folder))
        yield folder


_PROBE_STEPS = "dd_plugins.engine.validation._PROBE_STEPS"
_BRIEF = 10


@pytest.fixture(autouse=True, scope="module")
def usual_probe_steps() -> Iterator[int]:
    """Train networks for validation briefly, and return the usual number of steps.

    A method without a predictor trains one at the end of a short run. What it shows
    decides nothing, and takes longer than the steps of a test.
    """
    module, _, name = _PROBE_STEPS.rpartition(".")
    usual = int(getattr(importlib.import_module(module), name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_PROBE_STEPS, _BRIEF)
        yield usual


@pytest.fixture
def usual_validation(usual_probe_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train networks for validation as long as users see it."""
    monkeypatch.setattr(_PROBE_STEPS, usual_probe_steps)


# Imports take most of a small command's time: torch two seconds, what it imports at the
# first optimizer as many. Processes that are forked off one which has imported all this
# and done nothing else are as fresh as new ones, and there at once.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [
        "dd_plugins.cli.entry",
        "dd_plugins.built_in",
        "dd_plugins.cli.sets",
        "dd_plugins.cli.train_networks",
        "dd_plugins.engine.distillation",
        "dd_plugins.evaluation.cross_architecture",
        "dd_avalanche.comparison.continual",
        "dd_privacy.audit.from_command_line",
        "dd_privacy.private.trainer",
        "torch._dynamo",
        "sklearn.datasets",
        "scipy.stats",
        "matplotlib.backends.backend_agg",
        "matplotlib.figure",
        "avalanche.training",
        "opacus",
        "pytorch_metric_learning.utils.accuracy_calculator",
    ]
)


@pytest.fixture(autouse=True, scope="session")
def forks() -> None:
    """Start the process to fork: an audit would start it with fewer imports."""
    forkserver.ensure_running()


COMMAND_LINE = """
import sys
from dd_plugins.cli.entry import main
main(sys.argv[1:])
"""

# The same, with networks that are trained briefly by default.
BRIEFLY = f"""
from dd_plugins.evaluation import evaluate
from dd_plugins.training import recipes
evaluate.real_data_recipe = lambda _: recipes.real_data_recipe(20)
recipes._STEPS = dict.fromkeys(recipes._STEPS, 60)
{COMMAND_LINE}
"""


def _main(
    code: str,
    words: list[str],
    folder: Path,
    outputs: list[Path],
    environment: Mapping[str, str],
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    multiprocessing.set_start_method(None, force=True)  # not that of the forks
    sys.argv[:] = ["-c", *words]
    pytest.MonkeyPatch().setattr(_PROBE_STEPS, _BRIEF)
    exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})


class Started:
    """A ``dd-plugins`` command that runs in a process of its own.

    Args:
        words: what stands behind ``dd-plugins``.
        folder: where it runs.
        code: a script to run in place of the command; ``words`` are its arguments.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        *words: object,
        folder: Path,
        code: str = COMMAND_LINE,
        **environment: str,
    ) -> None:
        self.arguments = [str(word) for word in words]
        self._folder = tempfile.mkdtemp()
        self._outputs = [Path(self._folder) / name for name in ("out", "err")]
        for path in self._outputs:
            path.touch()
        self._process = _forks.Process(
            target=_main,
            args=(
                code,
                self.arguments,
                folder,
                self._outputs,
                {**os.environ, **environment},
            ),
        )
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    def ended(self, seconds: float = 0) -> bool:
        """Wait as long as that; tell whether it has come to its end."""
        self._process.join(seconds)
        return self._process.exitcode is not None

    def failed(self) -> bool:
        """Tell whether it has ended with another status than 0."""
        return self.ended() and self._process.exitcode != 0

    def wait_for(self, line: str) -> None:
        """Wait until it has printed a line, for two minutes at most."""
        deadline, ended = time.monotonic() + 120, False
        while not ended and time.monotonic() < deadline:
            ended = self.ended(0.01)
            if line in self._outputs[0].read_text().splitlines():
                return
        raise AssertionError(self.kill().stderr)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, number)

    def kill(self) -> subprocess.CompletedProcess[str]:
        """Kill it, and return what it has said."""
        self.send(signal.SIGKILL)
        return self.finish()

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end, and return what it has said."""
        late = not self.ended(240)
        if late:
            self._process.kill()
            self._process.join()
        texts = [path.read_text() if path.exists() else "" for path in self._outputs]
        shutil.rmtree(self._folder)
        if late:
            raise subprocess.TimeoutExpired(self.arguments, 240, *texts)
        code = self._process.exitcode
        assert code is not None
        return subprocess.CompletedProcess(self.arguments, code, *texts)


def run_code(
    code: str, *words: object, folder: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own; ``words`` are its arguments."""
    return Started(*words, folder=folder, code=code, **environment).finish()


@contextmanager
def two_processes(
    *words: object, folder: Path, **options: str
) -> Iterator[list[Started]]:
    """Start two processes that find each other as under torchrun."""
    # Held here, as by the launcher, the store's port is nobody else's.
    store = importlib.import_module("torch.distributed").TCPStore(
        "localhost", 0, is_master=True, wait_for_workers=False
    )
    shared = {
        **{"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)},
        **{"TORCHELASTIC_USE_AGENT_STORE": "True"},
        **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", **options},
    }
    yield [
        Started(
            *words,
            folder=folder,
            **(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}),
        )
        for rank in range(2)
    ]
    del store


def run_in_two_processes(
    code: str, *words: object, folder: Path, **environment: str
) -> str:
    """Run code in two processes that find each other as under torchrun.

    Returns:
        What the first has printed, if both succeeded.
    """
    with two_processes(*words, folder=folder, code=code, **environment) as started:
        # One that dies leaves the other waiting.
        while not all(each.ended(0.05) for each in started):
            if any(each.failed() for each in started):
                for each in started:
                    if not each.ended(5):
                        each.send(signal.SIGKILL)
        done = [each.finish() for each in started]
    errors = "\n".join(each.stderr for each in done)
    assert [each.returncode for each in done] == [0, 0], errors
    return done[0].stdout


@pytest.fixture
def command_line(tmp_path: Path) -> Command:
    """Run ``dd-plugins`` in a process of its own, in an empty folder."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return Started(*words, folder=tmp_path, **environment).finish()

    return run


def data_root(dataset: str) -> Path:
    """Return the folder of real data sets, or skip, by name, where this one is not."""
    root = os.environ.get("DD_DATA")
    if root is None or not (Path(root) / DATA_FOLDERS[dataset]).is_dir():
        pytest.skip(f"{dataset} is not there: set DD_DATA to a folder that holds it")
    return Path(root)


def torchrun(*words: object) -> subprocess.Popen[str]:
    """Start two processes by torchrun, on this machine alone."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Said(NamedTuple):
    """How a command ended in this process, and what it printed."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """Run ``dd-plugins`` in this process, in an empty folder, on a wide screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    main = importlib.import_module("dd_plugins.cli.entry").main

    def run(*words: object) -> Said:
        status = 0
        try:
            main(list(map(str, words)))
        except SystemExit as ended:
            status = int(str(ended.code))
        return Said(status, *capsys.readouterr())

    return run
