"""Image files with their labels, as a dataset of colour images."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.pixels import open_image, pixels_of, size_of
from dd_plugins.errors import DataError, ImageSizeError, one_line

__all__ = ["ImageFiles"]


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files with their labels.

    An item is a colour image, uint8 of shape ``(3, height, width)``, and its label.

    Args:
        samples: each file with its label.
        size: side in pixels of the resized and cropped images; None to keep them as is.
    """

    def __init__(
        self, samples: Sequence[tuple[Path, int]], size: int | None = None
    ) -> None:
        self._samples = samples
        self._size = size
        self.targets = [label for _, label in samples]

    def __len__(self) -> int:
        return len(self._samples)

    def check_sizes(self, size: tuple[int, int]) -> None:
        """Refuse files of another height or width, by their headers.

        Raises:
            ImageSizeError: a file has another size.
            DataError: a file cannot be read.
        """
        if self._size is not None:
            return
        for file, _ in self._samples:
            try:
                found = size_of(file)
            except Exception as error:  # PIL raises many kinds for damaged files
                raise _cannot_read(file, error) from error
            if found != size:
                raise ImageSizeError(
                    f"images must all have one size: {file} is {found[0]}x{found[1]}, "
                    f"others are {size[0]}x{size[1]}; resize them to one by "
                    "--image-size"
                )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, label = self._samples[index]
        try:
            with open_image(file, resized=self._size is not None) as image:
                return pixels_of(image, channels=3, size=self._size), label
        except DataError as error:
            raise DataError(f"image {file} {error}") from error
        except Exception as error:  # PIL raises many kinds for damaged files
            raise _cannot_read(file, error) from error


def _cannot_read(file: Path, error: Exception) -> DataError:
    return DataError(f"cannot read image {file}: {one_line(error)}")
