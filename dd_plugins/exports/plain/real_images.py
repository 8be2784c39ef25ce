"""The test images given to a script."""

import inspect
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

__all__ = ["read_images"]


def read_images(
    source: str, shape: torch.Size, class_names: list[str]
) -> tuple[Tensor, Tensor]:
    """Return images in [0, 1], and the class index of each."""
    if source.endswith(".npz") and Path(source).is_file():
        with np.load(source) as file:
            known = ("images", "labels"), ("test_images", "test_labels")
            names = next((pair for pair in known if set(pair) <= set(file.files)), None)
            if names is None:
                held = ", ".join(file.files)
                raise SystemExit(f"{source}: expected images and labels, got {held}")
            images, labels = (torch.tensor(file[name]) for name in names)
        images = images[:, None] if images.ndim == 3 else images
        if images.shape[1:] != shape:  # channels come last
            images = images.permute(0, 3, 1, 2)
        labels = labels.long().flatten()
        if images.shape[1:] != shape:
            raise SystemExit(f"{source}: expected images of shape {tuple(shape)}")
        if images.dtype != torch.uint8 and not 0 <= images.min() <= images.max() <= 1:
            raise SystemExit(f"{source}: expected images of uint8, or in [0, 1]")
        if not 0 <= labels.min() <= labels.max() < len(class_names):
            raise SystemExit(f"{source}: expected labels below {len(class_names)}")
        scale = 255 if images.dtype == torch.uint8 else 1
        return images.float() / scale, labels
    from PIL import Image, ImageOps
    from torchvision import datasets
    from torchvision.transforms import v2

    def opened(path: str) -> Image.Image:  # upright, of 8 bits, and on white
        image = ImageOps.exif_transpose(Image.open(path))
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) / 257).round().astype("uint8"))
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")

    resize = [v2.Resize(min(shape[1:])), v2.CenterCrop(shape[1:])]
    colours = v2.Grayscale() if shape[0] == 1 else v2.RGB()
    scaled = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    prepare = v2.Compose([*resize, colours, *scaled])
    if Path(source).is_dir():
        found = datasets.ImageFolder(source, prepare, loader=opened)
        if not set(found.classes) <= set(class_names):
            raise SystemExit(
                f"{source}: expected a test set, with folders called {class_names}, "
                f"got {found.classes}"
            )
        numbers = [class_names.index(name) for name in found.classes]
    else:
        kind = getattr(datasets, source, None)
        if kind is None:
            raise SystemExit(
                f"{source} does not exist, and torchvision has no data set of this name"
            )
        takes = inspect.signature(kind).parameters
        split = "val" if source in ("ImageNet", "Imagenette") else "test"
        test = {"train": False} if "train" in takes else {"split": split}
        found = kind("data", **test, transform=prepare, download=True)
        numbers = list(range(len(class_names)))
    items = list(found)
    numbered = torch.tensor([numbers[label] for _, label in items])
    return torch.stack([image for image, _ in items]), numbered
