"""Pictures of distilled sets."""

from pathlib import Path

from dd_plugins.artifact import DistilledSet
from dd_plugins.files import write_atomically

__all__ = ["save_grid"]

_LARGEST_COLUMNS = 20
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
        image = pixels[index].permute(1, 2, 0).numpy()
        grey = image.shape[2] == 1
        axis.imshow(
            image[..., 0] if grey else image[..., :3], cmap="gray", vmin=0, vmax=1
        )
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
