"""ImageNet-1K, downsampled to 64x64: batches of numpy arrays."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.datasets.archives import unpacked_by
from dd_plugins.data.named import DataOptions, data_root_of, refuse_argument
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, one_line

__all__ = ["load_imagenet64"]

_SIDE = 64
_CLASSES = 1_000
_BATCHES = 10  # of training images
_TRAIN, _TEST = "train_data_batch_", "val_data"
_FOLDER = "imagenet64-arrays"


def load_imagenet64(options: DataOptions) -> RealData:
    """Load ImageNet-1K at 64x64 (Chrabaszcz et al., 2017), 1,281,167 images.

    Put the published ``Imagenet64_train_part1_npz.zip``,
    ``Imagenet64_train_part2_npz.zip`` and ``Imagenet64_val_npz.zip``, or the batches in
    them, into the folder of data sets: image-net.org asks for a login, so they are not
    downloaded. They are unpacked once, to arrays (16 GB), and read from the disk as
    needed. The validation images are the test set. Labels, published from 1, are
    numbered from 0. ``map_clsloc.txt``, if present, names the classes. No checksums of
    the files are published; all ten training batches must be there.
    """
    refuse_argument("imagenet64", options)
    folder = _unpacked(data_root_of("imagenet64", options), options)
    return RealData.from_dataset(
        _Arrays(folder, _TRAIN),
        test=_Arrays(folder, _TEST),
        class_names=_class_names(folder),
        name="imagenet64",
        channels="first",
        mirror=True,
        image_size=options.image_size,
    )


def _unpacked(root: Path, options: DataOptions) -> Path:
    """Return the folder of the arrays, made from the published files if necessary."""
    folder = root / _FOLDER
    if folder.is_dir():
        return folder
    sources = sorted(root.glob("Imagenet64_*.zip"))
    batches = sorted(
        path
        for place in (root, root / "imagenet64", *root.glob("Imagenet64_*npz"))
        for stem in (_TRAIN, _TEST)
        for path in place.glob(f"{stem}*.npz")
    )
    if not sources and not batches:
        fetched = (
            "; it cannot be downloaded without a login at image-net.org"
            if options.download
            else ""
        )
        raise DataError(
            f"cannot read data set 'imagenet64' under {root}: expected "
            "Imagenet64_train_part1_npz.zip, Imagenet64_train_part2_npz.zip and "
            f"Imagenet64_val_npz.zip, or the batches in them{fetched}"
        )

    def unpack(place: Path) -> None:
        for source in sources:
            with zipfile.ZipFile(source) as archive:
                for member in archive.namelist():
                    if member.endswith(".npz"):
                        batch = Path(archive.extract(member, place))
                        _take_arrays(batch, place)
                        batch.unlink()
        for batch in batches:
            _take_arrays(batch, place)
        expected = {f"{_TRAIN}{n}" for n in range(1, _BATCHES + 1)} | {_TEST}
        found = {path.stem.removesuffix("-data") for path in place.glob("*-data.npy")}
        if missing := sorted(expected - found):
            raise DataError(f"{', '.join(missing)} not found in the published files")
        for names in root.glob("map_clsloc.txt"):
            shutil.copy(names, place)

    return unpacked_by(folder, unpack, sources[0] if sources else batches[0])


def _take_arrays(batch: Path, place: Path) -> None:
    """Write the arrays of a batch to files readable in parts.

    Raises:
        DataError: the batch has another layout.
    """
    with batch.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        data, labels = arrays["data"], np.asarray(arrays["labels"])
    if data.dtype != np.uint8 or data.shape != (len(labels), 3 * _SIDE**2):
        raise DataError(
            f"{batch.name}: expected uint8 of shape (n, {3 * _SIDE**2}), got "
            f"{data.dtype} of shape {data.shape} with {len(labels)} labels"
        )
    if labels.min() < 1 or labels.max() > _CLASSES:
        raise DataError(
            f"{batch.name}: expected labels from 1 to {_CLASSES}, got {labels.min()} "
            f"to {labels.max()}"
        )
    np.save(place / f"{batch.stem}-data.npy", data)
    np.save(place / f"{batch.stem}-labels.npy", labels.astype(np.int64) - 1)


def _class_names(folder: Path) -> list[str]:
    """Return the names of the classes, or their numbers from 1 as published."""
    file = folder / "map_clsloc.txt"
    if not file.exists():
        return [str(number) for number in range(1, _CLASSES + 1)]
    by_number = {
        int(words[1]): words[2].replace("_", " ")
        for words in (line.split() for line in file.read_text().splitlines())
        if len(words) == 3
    }
    return [by_number.get(n, str(n)) for n in range(1, _CLASSES + 1)]


class _Arrays(Dataset[tuple[Tensor, int]]):
    """Images in files of arrays, read from the disk one by one."""

    def __init__(self, folder: Path, stem: str) -> None:
        files = sorted(folder.glob(f"{stem}*-data.npy"), key=_number)
        if not files:
            raise DataError(f"{folder}: expected {stem}*, found none")
        self._images: Sequence[NDArray[np.uint8]] = [
            _opened(file, mapped=True) for file in files
        ]
        self.targets = np.concatenate(
            [
                _opened(file.with_name(file.name.replace("-data", "-labels")))
                for file in files
            ]
        ).tolist()
        self._starts = np.cumsum([0, *map(len, self._images)])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        flat = self._images[batch][index - int(self._starts[batch])]
        image = torch.from_numpy(np.array(flat)).reshape(3, _SIDE, _SIDE)
        return image, self.targets[index]


def _number(file: Path) -> tuple[int, str]:
    """Return a sort key with the number of a batch: the tenth comes after the ninth."""
    digits = "".join(filter(str.isdigit, file.stem))
    return int(digits or 0), file.name


def _opened(file: Path, *, mapped: bool = False) -> "NDArray[np.uint8]":
    try:
        found: NDArray[np.uint8] = np.load(
            file, mmap_mode="r" if mapped else None, allow_pickle=False
        )
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {file}: {one_line(error)}") from error
    return found
