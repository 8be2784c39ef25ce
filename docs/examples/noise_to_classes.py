"""Draw one run from noise: a row of images for each of some steps.

python docs/examples/noise_to_classes.py --data-root DIR --out noise-to-classes.png
"""

import argparse
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import to_pil_image

import dd_plugins
from dd_plugins import hookimpl
from dd_plugins.api import Plugins

STEPS = [1, 10, 40, 160, 800]
SIDE, GAP, LEFT, TOP = 64, 4, 92, 26  # pixels


class Snapshots:
    """An observer that keeps the images at some steps."""

    def __init__(self) -> None:
        self.pixels: dict[int, torch.Tensor] = {}

    @hookimpl
    def dd_after_step(self, step, distilled) -> None:
        if step in STEPS:
            self.pixels[step] = distilled().pixels()


def strip(pixels: dict[int, torch.Tensor], names: list[str]) -> Image.Image:
    """Return a picture with a row for each step and a column for each class."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    large, small = (
        ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size) for size in (15, 11)
    )
    pitch = SIDE + GAP
    size = (LEFT + len(names) * pitch, TOP + len(pixels) * pitch)
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for column, name in enumerate(names):
        place = (LEFT + column * pitch + SIDE / 2, TOP / 2)
        pen.text(place, name, "black", small, "mm")
    for row, (step, images) in enumerate(pixels.items()):
        y = TOP + row * pitch
        pen.text((LEFT - 10, y + SIDE / 2), f"step {step}", "black", large, "rm")
        for column, image in enumerate(images):
            tile = to_pil_image(image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            picture.paste(tile, (LEFT + column * pitch, y))
    # A palette of 256 colours halves the file.
    return picture.quantize(256, dither=Image.Dither.NONE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    snapshots = Snapshots()
    distilled = dd_plugins.distill(
        "cifar10",
        images_per_class=1,
        steps=STEPS[-1],
        initial_images="noise",
        data_root=given.data_root,
        plugins=Plugins(extra={"snapshots": snapshots}),
    )
    picture = strip(snapshots.pixels, list(distilled.class_names))
    picture.save(given.out, optimize=True)
