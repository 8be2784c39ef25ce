"""CUB-200-2011: photographs of 200 species of birds."""

from pathlib import Path

from dd_plugins.data.datasets.archives import Archive, unpacked
from dd_plugins.data.datasets.image_files import ImageFiles
from dd_plugins.data.named import DataOptions, needs_image_size, refuse_argument
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, described

__all__ = ["load_cub200"]

_ARCHIVE = Archive(
    "CUB_200_2011.tgz",
    "CUB_200_2011",
    md5="97eceeb196236b17998738112f37df78",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
)


def load_cub200(options: DataOptions) -> RealData:
    """Load CUB-200-2011 (Wah et al., 2011): 11,788 images of 200 species of birds.

    The published split gives 5,994 training and 5,794 test images. Whole images are
    resized to ``image_size`` and cropped; their bounding boxes are not used.
    """
    refuse_argument("cub200", options)
    size = needs_image_size("cub200", options)
    folder = unpacked("cub200", options, _ARCHIVE)
    try:
        files = _table(folder / "images.txt")
        labels = _table(folder / "image_class_labels.txt")
        in_training = _table(folder / "train_test_split.txt")
        names = [
            name.partition(".")[2] or name
            for name in _table(folder / "classes.txt").values()
        ]
        samples = {
            part: [
                (folder / "images" / file, int(labels[number]) - 1)
                for number, file in files.items()
                if in_training[number] == part
            ]
            for part in ("1", "0")
        }
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{folder} does not hold CUB-200-2011 as it is published "
            f"({described(error)}); remove it and unpack the archive anew"
        ) from error
    return RealData.from_dataset(
        ImageFiles(samples["1"], size),
        test=ImageFiles(samples["0"], size),
        class_names=names,
        name="cub200",
        mirror=True,
        image_size=size,
    )


def _table(file: Path) -> dict[str, str]:
    """Return the text of each line by the number at its start."""
    pairs = (line.split(maxsplit=1) for line in file.read_text().splitlines() if line)
    return {number: text.strip() for number, text in pairs}
