"""What the tests share: the command line in a process, and where real data lies."""

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA_FOLDERS = {
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "cifar10": "cifar-10-batches-py",
}

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep trained networks in a folder of the session, not the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DD_CACHE", str(folder))
        yield folder


# Importing torch takes two seconds. Processes that are forked off one which has done so
# and nothing else are as fresh as new ones, and there at once.
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    ["dd_plugins.cli", "dd_plugins.commands", "dd_avalanche.plugin"]
)


def _main(
    words: list[str], folder: Path, outputs: list[Path], environment: Mapping[str, str]
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    from dd_plugins.cli import main

    main(words)


@pytest.fixture
def command_line(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Run ``dd-plugins`` in a process of its own, in an empty folder."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        outputs = [tmp_path_factory.mktemp("output") / name for name in ("out", "err")]
        arguments = [str(word) for word in words]
        process = _forks.Process(
            target=_main,
            args=(arguments, tmp_path, outputs, {**os.environ, **environment}),
        )
        process.start()
        process.join(240)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, 240)
        texts = [output.read_text() for output in outputs]
        return subprocess.CompletedProcess(arguments, process.exitcode, *texts)

    return run


def data_root(dataset: str) -> Path:
    """Return the folder of real data sets, or skip, by name, where this one is not."""
    root = os.environ.get("DD_DATA")
    if root is None or not (Path(root) / DATA_FOLDERS[dataset]).is_dir():
        pytest.skip(f"{dataset} is not there: set DD_DATA to a folder that holds it")
    return Path(root)
