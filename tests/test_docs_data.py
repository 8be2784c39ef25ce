"""The commands of the page on data, run as they stand there, only shorter."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import BRIEFLY, ROOT, Command
from PIL import Image

SHORTER = {
    "distill": ["--steps", "2", "--network", "mlp(width=8)", "--device", "cpu"],
    "evaluate": ["--repeats", "1", "--protocol", "recipe(steps=2)", "--device", "cpu"],
}


def commands_about(word: str) -> list[list[str]]:
    """Return the words of each command of the page that names a thing."""
    lines = re.findall(
        r"^    dd-plugins (.*)$", (ROOT / "docs" / "data.md").read_text(), re.M
    )
    return [shlex.split(line) for line in lines if word in line]


def write_medmnist(folder: Path) -> None:
    """Write arrays as those of BloodMNIST: eight classes, three splits."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 160), ("val", 24), ("test", 32)):
        labels = np.arange(count) % 8
        noise = generator.integers(0, 90, (count, 28, 28, 3))
        arrays[f"{split}_images"] = (noise + 20 * labels[:, None, None, None]).astype(
            np.uint8
        )
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(folder / "bloodmnist.npz", **arrays)


def write_pets(folder: Path) -> None:
    """Write a folder with three splits of two classes, in several sizes."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 4), ("test", 4)):
        for label, name in enumerate(("cat", "dog")):
            place = folder / "pets" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 120, (40 + number, 50, 3))
                image = Image.fromarray((pixels + 100 * label).astype(np.uint8))
                image.save(place / f"{number}.jpg")


@pytest.mark.parametrize(
    ("word", "write", "exported"),
    [("blood", write_medmnist, 80), ("pets", write_pets, 20)],
)
def test_the_commands_of_the_page_run(
    word: str,
    write: Callable[[Path], None],
    exported: int,
    tmp_path: Path,
    command_line: Command,
) -> None:
    write(tmp_path)
    commands = commands_about(word)
    assert [words[0] for words in commands] == ["distill", "evaluate", "show", "export"]
    for words in commands:
        done = command_line(*words, *SHORTER.get(words[0], []), code=BRIEFLY)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    out = tmp_path / commands[-1][-1]
    assert len(list(out.rglob("*.png"))) == exported
