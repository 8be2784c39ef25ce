"""Score sets by variants of their evaluation recipe, on validation images.

    python benchmarks/evaluation_variants.py SET... --data-root DIR --out FILE

The variants: a learning rate of 1e-4, as in RCIG, with and without mirrored copies;
mirrored copies alone; twice the steps; one random operation for each image, in place of
one for the batch. Variants with mirrored copies are left out where mirror images do not
keep their class. Each variant trains the same fresh networks. Rows already in FILE are
not made again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from defaults import validation_accuracies
from rows import add_row, is_made, made_rows
from torch import Tensor

import dd_plugins
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.runtime.device import resolve_device
from dd_plugins.training.protocols import recipe_for, training_set_of
from dd_plugins.training.train import TrainingSet

RATE = 1e-4  # RCIG's
VARIANTS = (
    "default",
    "rate 1e-4",
    "rate 1e-4, mirrored",
    "mirrored",
    "twice the steps",
    "one operation an image",
)


def _each_apart(
    images: Tensor, *, generator: torch.Generator, mirror: bool = True
) -> Tensor:
    """Apply a random operation of its own to each image."""
    return torch.cat(
        [
            random_augmentation(image, generator=generator, mirror=mirror)
            for image in torch.split(images, 1)
        ]
    )


@contextmanager
def _operations_apart() -> Iterator[None]:
    """Within the context, train networks with an operation for each image."""
    with mock.patch("dd_plugins.training.recipes.random_augmentation", _each_apart):
        yield


def _mirrored(given: TrainingSet) -> TrainingSet:
    """Return a training set together with its mirror images."""
    images = given.images[:]
    images = torch.cat([images, images.flip(-1)])
    return replace(
        given,
        images=images.contiguous(memory_format=torch.channels_last),
        labels=torch.cat([given.labels[:], given.labels[:]]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument(
        "--protocol",
        choices=("auto", "frepo"),
        default="auto",
        help="the set's own recipe, or FRePo's, for baselines",
    )
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = resolve_device(options.device)
    for path in options.sets:
        distilled = dd_plugins.DistilledSet.load(path)
        header = distilled.header
        data = dd_plugins.get_dataset(
            header.dataset.name,
            data_root=options.data_root,
            image_size=header.dataset.image_size,
        )
        given = training_set_of(distilled, device=device)
        recipe = recipe_for(distilled, options.protocol)
        if (
            recipe.augmentation != "frepo"
            or recipe.stop_after
            or given.views is not None
        ):
            raise SystemExit(f"{path}: variants are of FRePo's recipe, got {recipe!r}")
        for variant in options.variants:
            key = {
                "set": distilled.content_hash(),
                "variant": variant,
                "networks": options.networks,
                "protocol": options.protocol,
            }
            if "mirrored" in variant and not header.mirror:
                continue
            if is_made(made_rows(options.out), tuple(key), tuple(key.values())):
                continue
            own = recipe
            if "rate 1e-4" in variant:
                own = replace(own, learning_rate=RATE)
            if "twice" in variant:
                own = replace(own, steps=2 * own.steps)
            apart = _operations_apart() if "an image" in variant else nullcontext()
            started = time.perf_counter()
            with apart:
                found = validation_accuracies(
                    distilled,
                    data,
                    options.networks,
                    device,
                    training_set=_mirrored(given) if "mirrored" in variant else given,
                    recipe=own,
                )
            row = {
                **key,
                "dataset": header.dataset.name,
                "images": len(distilled),
                "distiller": header.distiller,
                "distil_steps": header.steps,
                "network": header.evaluation_network,
                "recipe": repr(own),
                "seconds": round((time.perf_counter() - started) / len(found), 1),
                "validation_accuracies": found,
            }
            print(json.dumps(row), flush=True)
            add_row(options.out, row)


if __name__ == "__main__":
    main()
