"""Pictures of distilled sets."""

import base64
import html
import io
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dd_plugins.checks import picture_path
from dd_plugins.errors import OptionError
from dd_plugins.runtime.files import write_atomically
from dd_plugins.runtime.text import shortened
from dd_plugins.spec import names_of
from dd_plugins.synthetic.header import Content, Header

__all__ = [
    "AS_TEXT",
    "LARGEST_COLUMNS",
    "LONGEST_NAME",
    "colours",
    "drawable",
    "font_families",
    "grid_page",
    "grid_png",
    "save_grid",
]

LARGEST_COLUMNS = 20
LONGEST_NAME = 24  # characters beside a row
_LONGEST_NAME_ABOVE = 12  # characters above an image
AS_TEXT: dict[str, Any] = {"parse_math": False}  # a dollar sign starts no formula
_WIDE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Unifont",
    "Arial Unicode MS",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)
_LONGEST_IN_TITLE = 60  # characters of a name
_NARROWEST = 2.5  # inches, with room for the title
_LETTER, _LINE = 0.085, 0.15  # inches for a letter and a line of the title
_MOST_IMAGES = 1000  # more could not be read; each class gets an equal share


def save_grid(distilled: Content, path: str | Path) -> Path:
    """Draw the images of a set, clipped to [0, 1], as a grid ordered by class.

    Each class fills one or more rows. With one image for each class, the grid is
    compact. The title gives the data set, the method and the images per class.

    Class names are plain text, cut to fit. The number of a class replaces a name no
    installed font can draw.

    Args:
        distilled: the set.
        path: the PNG file to write.

    Returns:
        The path.

    Raises:
        FileError: the file cannot be written.
        OptionError: the first argument is no set, or the second is no path or has
            another ending than ``.png``.
    """
    if not isinstance(distilled, Content):
        raise OptionError(
            f"expected a distilled set, got {type(distilled).__name__}; "
            "DistilledSet.load reads one from a path"
        )
    target, content = picture_path("path", path), grid_png(distilled)
    return write_atomically(target, lambda file: file.write(content))


def grid_page(distilled: Content) -> str:
    """Return HTML with the grid of a set, and its description in one line."""
    picture = base64.b64encode(grid_png(distilled)).decode()
    line = html.escape(repr(distilled))
    return (
        f'<figure><img src="data:image/png;base64,{picture}" alt="{line}" '
        f'style="max-width: 100%"><figcaption>{line}</figcaption></figure>'
    )


def grid_png(distilled: Content) -> bytes:
    """Return the grid of :func:`save_grid` as the content of a PNG file."""
    header, pixels = distilled.header, distilled.pixels()
    members: dict[int, list[int]] = {}
    for index, label in enumerate(header.initial_classes):
        members.setdefault(label, []).append(index)
    most = max(1, _MOST_IMAGES // len(members))
    single = max(map(len, members.values())) == 1
    longest = _LONGEST_NAME_ABOVE if single else LONGEST_NAME
    names = {
        label: drawable(header.class_names[label], label, longest) for label in members
    }
    if single:
        # One image for each class: a compact grid with a name over each image.
        columns = min(10 if len(members) <= 200 else 25, len(members))
        cells = [
            (number // columns, number % columns, index, names[label])
            for number, (label, (index, *_)) in enumerate(sorted(members.items()))
        ]
    else:
        columns = min(LARGEST_COLUMNS, most, max(map(len, members.values())))
        cells, row = [], 0
        for label, indices in sorted(members.items()):
            for number, index in enumerate(indices[:most]):
                name = names[label] if number == 0 else ""
                cells.append((row + number // columns, number % columns, index, name))
            row += -(-min(len(indices), most) // columns)
    return _mosaic_png(pixels, cells, columns, _title(header), names_above=single)


def _title(header: Header) -> str:
    """Return the title of a grid: data set, method and images per class.

    Only the last part of a path and the name of a method are shown. A question mark
    replaces a letter missing in the fonts.
    """
    counts = sorted(Counter(header.initial_classes).values())
    least, most = counts[0], counts[-1]
    each = str(most) if least == most else f"{least} to {most}"
    parts = (
        shortened(header.dataset.name.rpartition("/")[2], _LONGEST_IN_TITLE),
        shortened(names_of(header.distiller), _LONGEST_IN_TITLE),
        f"{each} image{'s' if most > 1 else ''} per class",
    )
    text = ", ".join(parts)
    return "".join(each if ord(each) in _letters() else "?" for each in text)


def _mosaic_png(
    pixels: Tensor,
    cells: list[tuple[int, int, int, str]],
    columns: int,
    title: str,
    *,
    names_above: bool,
) -> bytes:
    """Draw all images in one array, and their names around it.

    Separate axes for a thousand images would take half a minute.

    Args:
        pixels: float in [0, 1], of shape ``(n, channels, height, width)``.
        cells: row, column, index and name of each image; most names are empty.
        columns: the number of columns of the grid.
        title: the text above the grid, wrapped to its width.
        names_above: whether names stand above their images, or to the left of them.
    """
    from matplotlib.figure import Figure

    rows = 1 + max(cell[0] for cell in cells)
    height, width = pixels.shape[-2:]
    # In units of an image's width: a gap of a tenth, and room for a name above.
    down = height / width + (0.4 if names_above else 0.1)
    inches = 0.9 if rows * columns <= 200 else 0.45
    longest = max(len(cell[3]) for cell in cells)
    left = 0.0 if names_above else (0.2 + 0.1 * longest) * inches / 0.9
    grid = columns * inches * 1.1, rows * inches * down
    whole = max(left + grid[0], _NARROWEST)
    lines = textwrap.wrap(title, round(whole / _LETTER))
    above = 0.1 + _LINE * len(lines)
    figure = Figure(figsize=(whole, grid[1] + above), dpi=100)
    axis = figure.add_axes(
        (left / whole, 0.0, grid[0] / whole, grid[1] / (grid[1] + above)),
        frame_on=False,
    )
    figure.text(
        0.05 / whole,
        1 - 0.06 / (grid[1] + above),
        "\n".join(lines),
        **AS_TEXT,
        va="top",
        fontsize=9,
        fontfamily=font_families(),
    )
    axis.set_axis_off()
    across, along = round(1.1 * width), round(down * width)
    across, along = max(across, width + 1), max(along, height + 1)
    mosaic = np.ones((rows * along, columns * across, 3), dtype=np.float32)
    for row, column, index, _ in cells:
        bottom, start = (row + 1) * along - 1, column * across
        mosaic[bottom - height : bottom, start : start + width] = colours(pixels[index])
    levels = (255 * mosaic).round().astype(np.uint8)
    axis.imshow(levels, aspect="auto", interpolation="nearest")
    for row, column, _, name in cells:
        if not name:
            continue
        if names_above:
            point = (column * across + width / 2, (row + 1) * along - 1.5 - height)
            where: dict[str, Any] = {"ha": "center", "va": "bottom"}
        else:
            point = (-0.08 * across, (row + 1) * along - 1 - height / 2)
            where = {"ha": "right", "va": "center"}
        where |= AS_TEXT | {"fontsize": 9 * inches / 0.9, "fontfamily": font_families()}
        axis.text(*point, name, **where)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def colours(pixels: Tensor) -> NDArray[np.float32]:
    """Return the first three channels of an image, or else its first as grey.

    The result has shape ``(height, width, 3)``, or ``(height, width, 1)``.
    """
    image: NDArray[np.float32] = pixels.permute(1, 2, 0).numpy()
    return image[..., :1] if image.shape[2] < 3 else image[..., :3]


def drawable(name: str, label: int, longest: int) -> str:
    """Return a name cut to fit, or the number of its class if no font can draw it."""
    short = name if len(name) <= longest else f"{name[: longest - 1]}…"
    if short.isprintable() and all(ord(letter) in _letters() for letter in short):
        return short
    return f"class {label}"


@cache
def font_families() -> list[str]:
    """Return the font families for names: matplotlib's, and installed wide ones."""
    from matplotlib.font_manager import fontManager

    here = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(family for family in _WIDE_FONTS if family in here)]


@cache
def _letters() -> frozenset[int]:
    """Return the code points covered by these families."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return frozenset(
        point
        for family in font_families()
        for point in get_font(findfont(FontProperties(family=family))).get_charmap()
    )
