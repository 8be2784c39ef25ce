"""What the tests share: the command line in a subprocess, and where real data lies."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


@pytest.fixture
def command_line(tmp_path: Path) -> Command:
    """Run ``dd-plugins`` in a process of its own, in an empty folder."""

    def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dd_plugins", *map(str, words)],
            cwd=tmp_path,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run


def data_root(dataset: str) -> Path:
    """Return the folder of real data sets, or skip, by name, where this one is not."""
    root = os.environ.get("DD_DATA")
    if root is None or not (Path(root) / DATA_FOLDERS[dataset]).is_dir():
        pytest.skip(f"{dataset} is not there: set DD_DATA to a folder that holds it")
    return Path(root)
