"""A picture of where networks look on a distilled set."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dd_plugins.checks import picture_path
from dd_plugins.evaluation.attention import MetaFeatures
from dd_plugins.runtime.files import write_atomically
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.pictures import (
    AS_TEXT,
    LARGEST_COLUMNS,
    LONGEST_NAME,
    colours,
    drawable,
    font_families,
)

__all__ = ["save_features"]

_LOOKED_AT, _META = "orange", "red"  # colours of outlines


def save_features(
    distilled: DistilledSet, features: MetaFeatures, path: str | Path
) -> Path:
    """Draw where networks look on the first image of each class.

    There is a row for each class, at most 20. It shows the image; the activation map of
    each network, with the pixels above the threshold outlined, and the pixels attended
    by all networks in another colour; and the meta features alone.

    Args:
        distilled: the set.
        features: the maps of networks on its images.
        path: the PNG file to write.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
        OptionError: the path has another ending than ``.png``.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    target = picture_path("path", path)
    header, pixels = distilled.header, distilled.pixels()
    maps, all_meta = features.maps.numpy(), features.meta.numpy()
    first: dict[int, int] = {}
    for index, label in enumerate(header.initial_classes):
        first.setdefault(label, index)
    rows = sorted(first.items())[:LARGEST_COLUMNS]
    columns = 2 + len(features.networks)
    figure = Figure(
        figsize=(1.5 * columns + 1, 1.35 * len(rows) + 1), dpi=100, layout="constrained"
    )
    axes = figure.subplots(len(rows), columns, squeeze=False)
    titles = ["image", *(spec.split("(")[0] for spec in features.networks), "all agree"]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9, **AS_TEXT)
    for row, (label, index) in zip(axes, rows, strict=True):
        meta = all_meta[index]
        for axis in row:
            axis.set_axis_off()
            _draw(axis, pixels[index])
        row[0].text(
            -0.08,
            0.5,
            drawable(header.class_names[label], label, LONGEST_NAME),
            transform=row[0].transAxes,
            ha="right",
            va="center",
            fontfamily=font_families(),
            **AS_TEXT,
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
    return write_atomically(target, lambda file: figure.savefig(file, format="png"))


def _outline(axis: Any, mask: NDArray[np.bool_], colour: str) -> None:
    """Draw the edge of a region, if there is one."""
    if mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors=colour, linewidths=1)


def _draw(axis: Any, pixels: Tensor) -> None:
    axis.imshow(np.broadcast_to(colours(pixels), (*pixels.shape[1:], 3)))
