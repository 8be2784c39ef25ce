"""The commands of the README, as they are written, on a folder of images."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import ROOT
from PIL import Image, ImageDraw

from dd_plugins import DistilledSet
from dd_plugins.api import get_recipe

README = ROOT / "README.md"
HEADING = "for your own folder of images"


def commands() -> list[str]:
    """Return the commands under the words on an own folder."""
    block = README.read_text().partition(HEADING)[2]
    found = re.search(r"\n\n((?:    .+\n)+)", block)
    assert found is not None
    return [line.strip() for line in found[1].splitlines()]


def draw_photos(folder: Path) -> None:
    """Write suns, trees and waves on noise, for training and for testing."""
    generator = np.random.default_rng(0)
    colours = {"sun": (230, 170, 40), "tree": (40, 160, 60), "wave": (40, 90, 220)}
    for part, count in (("train", 24), ("test", 12)):
        for kind, colour in colours.items():
            place = folder / part / kind
            place.mkdir(parents=True)
            for number in range(count):
                noise = generator.integers(0, 160, (40, 48, 3), dtype=np.uint8)
                image = Image.fromarray(noise)
                pen = ImageDraw.Draw(image)
                x, y = generator.integers(15, 25, 2).tolist()
                box = (x - 11, y - 11, x + 11, y + 11)
                if kind == "sun":
                    pen.ellipse(box, fill=colour)
                elif kind == "tree":
                    pen.polygon([(x, y - 14), (x - 9, y + 12), (x + 9, y + 12)], colour)
                else:
                    pen.rectangle((0, y, 48, 40), fill=colour)
                image.save(place / f"{number}.png")


def ask_for_fewer_steps(run: Path) -> None:
    """Change the recipe in a set: an eighth of the training steps of a network."""
    made = DistilledSet.load(run)
    recipe = get_recipe(made.header.recipe or "")
    fewer = replace(recipe, steps=recipe.steps // 8, warm_up=recipe.warm_up // 8)
    header = made.header.model_copy(update={"recipe": repr(fewer)})
    replace(made, header=header).save(run / "distilled.safetensors")


def test_someone_with_the_readme_alone_gets_through(tmp_path: Path) -> None:
    draw_photos(tmp_path / "photos")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = commands()
    assert 5 <= len(found) <= 10
    said = {}
    for command in found:
        done = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command.split()[1]] = done.stdout
        if command.split()[1] == "distill":
            ask_for_fewer_steps(tmp_path / "runs" / "photos")
    assert "next: dd-plugins evaluate" in said["distill"]
    (network,) = json.loads((tmp_path / "photos.json").read_text())["networks"]
    assert network["accuracy_mean"] > 0.7, "three classes"
    for picture in ("grid.png", "images.png"):
        assert (tmp_path / "runs" / "photos" / picture).stat().st_size > 1_000
    (accuracy,) = re.findall(r"[01]\.\d+", said["photos-train.py"])[-1:]
    assert float(accuracy) > 0.7
