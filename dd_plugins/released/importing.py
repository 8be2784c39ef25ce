"""Make an artifact from a set released by others."""

import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dd_plugins.checks import path_of, whole_number
from dd_plugins.data.named import DataOptions
from dd_plugins.data.real import RealData
from dd_plugins.errors import DDWarning, FileError, OptionError
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.released.array_files import read_archive, read_checkpoint
from dd_plugins.released.contents import Released
from dd_plugins.released.folders import read_folder
from dd_plugins.released.torch_files import (
    read_experiments,
    read_tensors,
    read_torch,
)
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.given_tensors import Space
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.training.recipes import classic_recipe

__all__ = ["PUBLISHED_SCALES", "import_set"]

_SMALL = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

PUBLISHED_SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2861,), (0.3530,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": _SMALL,
    "tiny-imagenet": _IMAGENET,
    "imagenette": _IMAGENET,
}
"""The means and standard deviations of channels in DC, DSA, DM and MTT."""

_ROUNDED = 1e-2  # how far sums of rounded probabilities are from one

_IMAGES, _LABELS, _RATE = "images", "labels", "lr"


def import_set(
    files: str | Path | Sequence[str | Path],
    data: Any,
    *,
    space: Space | None = None,
    label_kind: LabelKind | None = None,
    experiment: int = 0,
    factor: int | None = None,
    method: str | None = None,
    network: str | None = None,
    data_root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    plugins: Plugins | None = None,
    on_read: Callable[[Released, Space, int], None] | None = None,
) -> DistilledSet:
    """Read a set released by others, and return it as an artifact.

    The layouts are those of

    - DC, DSA and DM: ``{"data": [[images, labels], ...]}`` in a torch file;
    - IDC: ``[images, labels]``, pixels, packed by ``factor``;
    - MTT, TESLA, DATM and DD-Ranking: one file for each tensor, called ``images...``,
      ``labels...`` and, for a learned step size, ``lr...`` or ``syn_lr...``; or the
      folder of these files;
    - FRePo and RCIG: a NumPy archive, or a checkpoint of flax;
    - SRe2L and RDED: a folder of images, with a subfolder for each class.

    Only tensors and numbers are read: no code in a file is run.

    Args:
        files: a file, a folder, or the files of one set.
        data: the real data of the set, in any form accepted by
            :func:`~dd_plugins.distill`.
        space: the value space of the images (see :meth:`DistilledSet.from_tensors`), or
            ``"published"`` for pixels standardised by the numbers of the papers. By
            default the layout determines it; if it does not, there is a warning.
        label_kind: the kind of the labels, if they are scores. By default those of
            FRePo and RCIG are regression targets; others are logits, unless they are
            at least 0 and sum to one within 0.01. Probabilities are divided by their
            sum, as files may hold them rounded.
        experiment: the number of the set in a file of several, from 0.
        factor: the number of smaller images along each side of an image, for sets of
            IDC; by default 1, with a warning for IDC's layout.
        method: the name of the method, for the record; by default its layout.
        network: the spec of the network to train on the set.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        image_size: the side of the resized real images in pixels.
        plugins: where names are looked up; by default all installed plugins.
        on_read: called with the read set, its assumed space, and the number of sets in
            the file.

    Raises:
        FileError: a file is missing, damaged, or of another layout.
        MissingExtraError: the file needs a missing library.
        DataError: the set does not fit the data.
        OptionError: an option is out of its range, or labels called probabilities are
            not.

    Warns:
        DDWarning: the layout does not determine the space or the factor, or the values
            hardly fit the space.
    """
    packed = 1 if factor is None else whole_number("factor", factor, least=1)
    plugins = plugins or loaded_plugins()
    root = None if data_root is None else Path(data_root)
    real = plugins.real_data(
        data, DataOptions(root=root, download=download, image_size=image_size)
    )
    several = files if isinstance(files, list | tuple) else [files]
    paths = [path_of("files", each) for each in several]
    if network is not None:
        plugins.network(network)  # raises now if it is unknown
    sets = _read(paths, real)
    experiment = whole_number("experiment", experiment, least=0)
    if experiment >= len(sets):
        numbers = f"from 0 to {len(sets) - 1}"
        if len(sets) == 1:
            numbers = "0, as there is one set"
        raise OptionError(f"experiment must be {numbers}, got {experiment}")
    released = sets[experiment]
    if factor is None and released.layout == "IDC":
        warnings.warn(
            "the file has the layout of IDC, whose images hold smaller ones: each is "
            "taken for a single image; state their number along a side by factor, "
            "which IDC publishes as 2, or 1 if that is right",
            DDWarning,
            stacklevel=2,
        )
    chosen = _space(released, space, real)
    if on_read is not None:
        on_read(released, chosen, len(sets))
    labels, kind = _labels(released, label_kind)
    recipe = None
    if released.learning_rate is not None:
        count = len(released.images) * packed**2
        recipe = repr(
            replace(classic_recipe(count), learning_rate=released.learning_rate)
        )
    return DistilledSet.from_tensors(
        released.images,
        labels,
        real,
        space=chosen,
        label_kind=kind,
        factor=packed,
        method=method or released.layout,
        network=network,
        recipe=recipe,
    )


def _read(paths: Sequence[Path], data: RealData) -> list[Released]:
    """Return the sets in the files; a file of experiments may hold several.

    Raises:
        FileError: a file is missing, or of no known layout.
    """
    if not paths:
        raise OptionError("expected the files of a set, got none")
    for path in paths:
        if not path.exists():
            raise FileError(f"{path} does not exist; expected a released set")
    if len(paths) > 1:
        return [_of_several(paths)]
    (path,) = paths
    if path.is_dir():
        inside = sorted(path.glob("*.pt"))
        if _with(_IMAGES, inside) or _with(_LABELS, inside):
            return [_of_several(inside)]
        colour = data.image_shape[0] == 3
        return [read_folder(path, data.class_names, colour=colour)]
    if path.suffix == ".npz":
        return [read_archive(path)]
    if zipfile.is_zipfile(path) or path.suffix in (".pt", ".pth"):
        return read_experiments(path, read_torch(path))
    return [read_checkpoint(path)]


def _of_several(paths: Sequence[Path]) -> Released:
    """Return the set in files of one tensor each, recognised by their names.

    Raises:
        FileError: images or labels are missing, or in more than one file.
    """
    images, labels = _with(_IMAGES, paths), _with(_LABELS, paths)
    rates = _with(_RATE, paths)
    if len(images) != 1 or len(labels) != 1 or len(rates) > 1:
        raise FileError(
            "expected a file called images..., one called labels... and at most one "
            f"called lr..., got {', '.join(str(path) for path in paths)}"
        )
    return read_tensors(images[0], labels[0], rates[0] if rates else None)


def _with(name: str, paths: Sequence[Path]) -> list[Path]:
    """Return paths whose names begin with a word; if some end in best, only these."""
    found = [path for path in paths if path.stem.removeprefix("syn_").startswith(name)]
    best = [path for path in found if path.stem.endswith("best")]
    return best or found


def _space(released: Released, space: Space | str | None, data: RealData) -> Space:
    """Return the space of a set: the given one, or the one implied by its layout."""
    if space is None and released.images.dtype == torch.uint8:
        return "pixels"
    if space is None and released.space == "unknown" and released.images.numel():
        low, high = (float(value) for value in released.images.float().aminmax())
        pixels = low >= 0 and high <= 1
        space = "pixels" if pixels else "published"
        warnings.warn(
            f"the file does not tell the space of its images: they are taken for "
            f"{'pixels in [0, 1]' if pixels else 'standardised pixels'}, because their "
            f"values go from {low:.2f} to {high:.2f}; state it by space if that is "
            "wrong, such as pixel-zca for MTT, TESLA and DATM with --zca",
            DDWarning,
            stacklevel=3,
        )
    chosen = space or released.space
    if chosen != "published":
        return chosen  # type: ignore[return-value]
    if data.name in PUBLISHED_SCALES:
        return PUBLISHED_SCALES[data.name]
    warnings.warn(
        f"the numbers by which papers standardise {data.name!r} are not known here: "
        "the mean and deviation of its training images are taken; state others by "
        "space",
        DDWarning,
        stacklevel=3,
    )
    return "standardize"


def _labels(
    released: Released, kind: LabelKind | None
) -> tuple[Tensor, LabelKind | None]:
    """Return labels and their kind: logits become probabilities.

    Raises:
        OptionError: scores called probabilities are not.
    """
    labels = torch.as_tensor(released.labels)
    scores = labels.is_floating_point() and labels.ndim == 2
    if scores and released.scores == "regression":
        kind = kind or "regression"
    if not scores or kind not in (None, "probabilities"):
        return labels, kind
    labels = labels.float()
    sums = labels.sum(dim=1, keepdim=True)
    if kind is None:
        near_one = ((sums - 1).abs() <= _ROUNDED).all()
        if not near_one or (labels < 0).any():
            return labels.softmax(dim=1), "probabilities"
    if (labels < 0).any() or not (sums > 0).all():
        raise OptionError(
            "label_kind 'probabilities' needs scores of at least 0, some above 0 for "
            "each image, got others; leave it out for logits"
        )
    return labels / sums, "probabilities"
