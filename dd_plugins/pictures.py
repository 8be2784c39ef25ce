"""Pictures of distilled sets."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dd_plugins.artifact import DistilledSet
from dd_plugins.files import write_atomically
from dd_plugins.meta_features import MetaFeatures

__all__ = ["save_features", "save_grid"]

_LARGEST_COLUMNS = 20
_LOOKED_AT, _META = "orange", "red"  # colours of outlines
_MOST_IMAGES = 1000  # a larger picture cannot be read; images are taken evenly by class


def save_grid(distilled: DistilledSet, path: str | Path) -> Path:
    """Draw the images in [0, 1] as a grid, a row or more for each class.

    Args:
        distilled: the set.
        path: the PNG file to write.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    header, pixels = distilled.header, distilled.pixels()
    members: dict[int, list[int]] = {}
    for index, label in enumerate(header.initial_classes):
        members.setdefault(label, []).append(index)
    most = max(1, _MOST_IMAGES // len(members))
    single = max(map(len, members.values())) == 1
    if single:
        # One image for each class: a compact grid with a name over each image.
        flat = [
            (index, header.class_names[label])
            for label, (index, *_) in sorted(members.items())
        ]
        columns = min(10, len(flat))
        cells = [
            (place // columns, place % columns, index, name)
            for place, (index, name) in enumerate(flat)
        ]
    else:
        columns = min(_LARGEST_COLUMNS, most, max(map(len, members.values())))
        cells, row = [], 0
        for label, indices in sorted(members.items()):
            for place, index in enumerate(indices[:most]):
                name = header.class_names[label] if place == 0 else ""
                cells.append((row + place // columns, place % columns, index, name))
            row += -(-min(len(indices), most) // columns)
    rows = 1 + max(cell[0] for cell in cells)
    side = 0.9 if rows * columns <= 200 else 0.45
    figure = Figure(
        figsize=(
            columns * side + (0 if single else 1.4),
            rows * side * (1.3 if single else 1),
        ),
        dpi=100,
        layout="constrained",
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for place_row, place_column, index, name in cells:
        axis = axes[place_row, place_column]
        _draw(axis, pixels[index])
        if name and single:
            axis.set_title(name, fontsize=8)
        elif name:
            axis.text(
                -0.15,
                0.5,
                name,
                transform=axis.transAxes,
                ha="right",
                va="center",
                fontsize=9,
            )
    return write_atomically(Path(path), lambda file: figure.savefig(file, format="png"))


def save_features(
    distilled: DistilledSet, features: MetaFeatures, path: str | Path
) -> Path:
    """Draw where networks look on the first image of each class.

    A row for each class, at most 20: the image; for each network its activation map,
    with the pixels that count outlined, those that all look at in another colour; and
    the meta features alone.

    Args:
        distilled: the set.
        features: where networks look on it.
        path: the PNG file to write.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    header, pixels = distilled.header, distilled.pixels()
    maps, all_meta = features.maps.numpy(), features.meta.numpy()
    first: dict[int, int] = {}
    for index, label in enumerate(header.initial_classes):
        first.setdefault(label, index)
    rows = sorted(first.items())[:_LARGEST_COLUMNS]
    columns = 2 + len(features.networks)
    figure = Figure(
        figsize=(1.5 * columns + 1, 1.35 * len(rows) + 1), dpi=100, layout="constrained"
    )
    axes = figure.subplots(len(rows), columns, squeeze=False)
    titles = ["image", *(spec.split("(")[0] for spec in features.networks), "all agree"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    for row, (label, index) in zip(axes, rows, strict=True):
        meta = all_meta[index]
        for axis in row:
            axis.set_axis_off()
            _draw(axis, pixels[index])
        name = header.class_names[label]
        row[0].text(
            -0.08, 0.5, name, transform=row[0].transAxes, ha="right", va="center"
        )
        for axis, looked_at in zip(row[1:-1], maps[:, index], strict=True):
            axis.imshow(looked_at, cmap="viridis", vmin=0, vmax=1, alpha=0.6)
            _outline(axis, looked_at >= features.threshold, _LOOKED_AT)
            _outline(axis, meta, _META)
        row[-1].imshow(meta, cmap="Reds", vmin=0, vmax=1.5, alpha=0.6 * meta)
        ratio = f"{100 * float(features.ratio[index]):.0f} %"
        row[-1].text(1.05, 0.5, ratio, transform=row[-1].transAxes, va="center")
    figure.legend(
        handles=[
            Line2D([], [], color=_LOOKED_AT, label="this network looks here"),
            Line2D([], [], color=_META, label="all networks look here: meta features"),
        ],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    figure.suptitle(
        f"meta features: {100 * float(features.ratio.mean()):.0f} % of what networks "
        f"look at ({len(distilled)} images)",
        fontsize=10,
    )
    return write_atomically(Path(path), lambda file: figure.savefig(file, format="png"))


def _outline(axis: Any, mask: NDArray[np.bool_], colour: str) -> None:
    """Draw the edge of a region, if there is one."""
    if mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors=colour, linewidths=1)


def _draw(axis: Any, pixels: Tensor) -> None:
    """Draw an image: its first three channels as colours, or else the first as grey."""
    image = pixels.permute(1, 2, 0).numpy()
    grey = image.shape[2] < 3
    axis.imshow(image[..., 0] if grey else image[..., :3], cmap="gray", vmin=0, vmax=1)
