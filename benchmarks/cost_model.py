"""The cost of a step of FRePo: operations, bytes and memory, by formula.

    python benchmarks/cost_model.py docs/benchmarks/frepo-speed.json

fits the four rates of a machine to the measurements of benchmarks/frepo_speed.py there,
and predicts every measurement from rates fitted to the others. docs/scaling.md explains
the model.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

FLOAT = 4  # bytes
DOUBLE = 8


@dataclass(frozen=True)
class Setting:
    """The sizes of a run of FRePo.

    Attributes:
        images_per_class: synthetic images for each class.
        classes: number of classes.
        side: side of the images in pixels, after padding.
        channels: channels of the images.
        width: channels of the first block of ``conv``.
        depth: blocks of ``conv``.
        real_batch: real images of a visit.
        updates_per_batch: steps of a visit.
        online_steps: training steps of the model at the end of a visit.
        flip: whether mirrored copies stand beside the synthetic images.
        augmented_copies: augmented copies of each image and of each mirrored copy.
        pool: number of online models.
        ranks: processes that share the run.
        feature_bytes: bytes of one activation: 2 for bfloat16, 4 for float32.
    """

    images_per_class: int = 10
    classes: int = 10
    side: int = 32
    channels: int = 3
    width: int = 128
    depth: int = 3
    real_batch: int = 1024
    updates_per_batch: int = 1
    online_steps: int = 1
    flip: bool = True
    augmented_copies: int = 0
    pool: int = 10
    ranks: int = 1
    feature_bytes: int = 2

    @property
    def synthetic(self) -> int:
        """The number of synthetic images, n."""
        return self.images_per_class * self.classes

    @property
    def columns(self) -> int:
        """The number of synthetic images in the regression, with all their copies."""
        return self.synthetic * (2 if self.flip else 1) * (1 + self.augmented_copies)

    @property
    def online_batch(self) -> int:
        """The number of synthetic images of an online step."""
        return min(self.synthetic, 1000)

    @property
    def features(self) -> int:
        """The number of features of an image, d: the flattened last block."""
        side: int = self.side // 2**self.depth
        return (self.width << (self.depth - 1)) * side**2

    def block_operations(self) -> list[float]:
        """Return the operations of the convolution of each block, for one image."""
        inputs, operations = self.channels, []
        for block in range(self.depth):
            outputs, side = self.width * 2**block, self.side // 2**block
            operations.append(2.0 * 9 * inputs * outputs * side**2)
            inputs = outputs
        return operations

    def activations(self) -> float:
        """Return how many numbers the blocks write for one image.

        In each block: the normalised input, the convolution (ReLU works in place), and
        the pooled output.
        """
        numbers, inputs = 0.0, 0
        for block in range(self.depth):
            outputs, side = self.width * 2**block, self.side // 2**block
            numbers += inputs * side**2 + outputs * side**2 * 1.25
            inputs = outputs
        return numbers

    def parameters(self) -> float:
        """Return the number of weights of one model."""
        inputs, total = self.channels, 0.0
        for block in range(self.depth):
            outputs = self.width * 2**block
            total += outputs * (9 * inputs + 1) + (2 * inputs if block else 0)
            inputs = outputs
        return total + self.classes * (self.features + 1)


def operations(setting: Setting) -> dict[str, float]:
    """Return the floating-point operations of one step of one process, by part.

    A convolution costs as much in each of three directions: forward, to its input, and
    to its weights. Real features need the first, synthetic ones the first two, an
    online step all three (but not to the input of the first block).
    """
    forward = sum(setting.block_operations())
    first = setting.block_operations()[0]
    m, d, c = setting.columns, setting.features, setting.classes
    batch = setting.real_batch / setting.ranks
    visits = 1 / setting.updates_per_batch
    online = setting.online_batch * (3 * forward - first)
    order = min(m, d)  # of the system: the Gram matrix of images or of features
    gram = 2 * m * d * order
    solve = order**3 / 3 + 4 * order**2 * c  # factor; one solve, and one backward
    predict = 10 * m * d * c + 4 * batch * d * c
    return {
        "real features": visits * batch * forward,
        "synthetic forward": m * forward,
        "synthetic backward": m * forward,
        "regression": gram + solve + predict,
        "online step": visits * setting.online_steps * online,
    }


def activation_bytes(setting: Setting) -> dict[str, float]:
    """Return the bytes of activations written and read in one step, by part."""
    image = 2 * setting.feature_bytes * setting.activations()
    visits = 1 / setting.updates_per_batch
    online = visits * setting.online_steps * setting.online_batch
    return {
        "real features": visits * setting.real_batch / setting.ranks * image,
        "synthetic forward": setting.columns * image,
        "synthetic backward": 2 * setting.columns * image,
        "regression": 3 * DOUBLE * setting.columns * setting.features,
        "online step": 3 * online * image + visits * 8 * FLOAT * setting.parameters(),
    }


def memory(setting: Setting, train_images: int) -> dict[str, float]:
    """Return the bytes that a run holds at once in one process, by their purpose.

    Args:
        setting: the sizes of the run.
        train_images: the number of real images in memory: as bytes, and once more
            whitened, in the precision of features.
    """
    pixels = setting.channels * setting.side**2
    m, d = setting.columns, setting.features
    models = math.ceil(setting.pool / setting.ranks)
    kept = (
        max(setting.columns, setting.online_batch)
        * setting.feature_bytes
        * setting.activations()
    )
    return {
        "real images": train_images * pixels * (1 + setting.feature_bytes),
        "whitening": (pixels**2) * (FLOAT + DOUBLE),
        "pool with Adam": models * 3 * FLOAT * setting.parameters(),
        "snapshot for a checkpoint": models * 3 * FLOAT * setting.parameters(),
        "activations": kept,
        "regression": DOUBLE * (4 * (m + setting.classes) * d + 2 * min(m, d) ** 2),
    }


def costs(setting: Setting) -> list[float]:
    """Return the four costs of a step, for the fit of its time.

    The operations of convolutions, the bytes that they move, the operations of the
    regression in float64, and one step.
    """
    work, traffic = operations(setting), activation_bytes(setting)
    regression = work.pop("regression")
    del traffic["regression"]
    return [sum(work.values()), sum(traffic.values()), regression, 1.0]


def fit(settings: list[Setting], seconds: list[float]) -> Any:
    """Return the best seconds for each unit of cost, fitted by relative error."""
    table = np.array([costs(setting) for setting in settings])
    measured = np.array(seconds)
    found, _ = nnls(table / measured[:, None], np.ones(len(measured)))
    return found


def setting_of(row: dict[str, Any]) -> Setting:
    """Return the setting of a row of benchmarks/frepo_speed.py."""
    return Setting(
        images_per_class=row["images_per_class"],
        classes=row["classes"],
        side=row["side"],
        width=row["width"],
        depth=row["depth"],
        real_batch=row["batch"],
        updates_per_batch=row["updates_per_batch"],
        online_steps=row["online_steps"],
        flip=row.get("flip", True),
        augmented_copies=row.get("augmented_copies", 0),
        feature_bytes=2 if row["precision"] == "bfloat16" else 4,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, metavar="FILE.json")
    rows = json.loads(parser.parse_args().rows.read_text())
    settings = [setting_of(row) for row in rows]
    seconds = [row["seconds_per_step"] for row in rows]
    rates = fit(settings, seconds)
    print(f"convolutions: {1e-9 / rates[0]:.0f} GFLOP/s")
    print(f"activations:  {1e-9 / rates[1]:.1f} GB/s")
    print(f"regression:   {1e-9 / rates[2]:.0f} GFLOP/s")
    print(f"every step:   {1e3 * rates[3]:.0f} ms\n")
    print(
        "| width | classes x images | batch / updates | measured | predicted | error |"
    )
    print("|---|---|---|---|---|---|")
    for number, setting in enumerate(settings):
        others = [index for index in range(len(rows)) if index != number]
        unit = fit([settings[i] for i in others], [seconds[i] for i in others])
        predicted = float(np.dot(unit, costs(setting)))
        error = predicted / seconds[number] - 1
        print(
            f"| {setting.width} | {setting.classes} x {setting.images_per_class} "
            f"| {setting.real_batch} / {setting.updates_per_batch} "
            f"| {seconds[number]:.3f} s | {predicted:.3f} s | {100 * error:+.0f} % |"
        )


if __name__ == "__main__":
    main()
