"""Real data in memory: what is refused, the splits, the draws."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from dd_plugins import RealData, get_dataset
from dd_plugins.data import items, streamed
from dd_plugins.data.draws import sampler_of
from dd_plugins.data.images import Images
from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.subsets import balanced_subset
from dd_plugins.errors import (
    DataError,
    DDError,
    DDWarning,
    OptionError,
    UnknownNameError,
)
from dd_plugins.runtime.randomness import generator_for

CPU = torch.device("cpu")


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text.isprintable(), f"not one printable line: {text!r}"
    return text


def numbered(count: int) -> Tensor:
    """Return images of 2x2 pixels, each filled with its own value in [0, 1]."""
    values = torch.arange(count) / max(1, count - 1)
    return values.view(-1, 1, 1, 1).repeat(1, 1, 2, 2)


def labels_of(counts: list[int]) -> Tensor:
    """Return labels with that many of each class, mixed."""
    ordered = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ordered[torch.randperm(len(ordered), generator=generator_for(0, "mixing"))]


class Items(Dataset[Any]):
    """A map-style dataset of given items, which remembers what was read."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.items[index]


IMAGES = numbered(20)
LABELS = torch.arange(20) % 2


def with_pixel(value: float) -> Tensor:
    images = IMAGES.clone()
    images[7, 0, 1, 1] = value
    return images


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (IMAGES[0, 0], LABELS, r"images must have shape .*\(2, 2\)"),
        (IMAGES[:0], LABELS[:0], r"images must have shape .*\(0, 1, 2, 2\)"),
        (IMAGES[..., :0], LABELS, r"images must have shape .*\(20, 1, 2, 0\)"),
        (IMAGES.int(), LABELS, r"images must be uint8 or floating, .*int32"),
        (IMAGES > 0.5, LABELS, r"images must be uint8 or floating, .*bool"),
        (IMAGES.cfloat(), LABELS, r"images must be uint8 or floating, .*complex64"),
        (with_pixel(float("nan")), LABELS, r"1 image.* not finite, .*number 7;"),
        (with_pixel(float("-inf")), LABELS, r"1 image.* not finite, .*number 7;"),
        (with_pixel(1.5), LABELS, r"in \[0, 1\], got \[0, 1.5\]"),
        (with_pixel(-0.5), LABELS, r"in \[0, 1\], got \[-0.5, 1\]"),
        (IMAGES * 255, LABELS, r"in \[0, 1\], got \[0, 255\]; scale them"),
        (IMAGES, LABELS[:-1], r"labels must have shape \(20,\).*got \(19,\)"),
        (IMAGES, LABELS[:, None].repeat(1, 2), r"\(20, 2\).*multi-label data"),
        (IMAGES, LABELS[0], r"labels must have shape \(20,\).*got \(\)"),
        (IMAGES, LABELS.float(), r"labels must be integers, got torch.float32"),
        (IMAGES, LABELS.cfloat(), r"labels must be integers, got torch.complex64"),
        (IMAGES, LABELS - 1, r"labels must not be negative, got -1"),
        (IMAGES, LABELS * 2, r"found none of class '1'"),
        (IMAGES, LABELS + 1, r"expected labels from 0, got labels from 1; subtract 1"),
        (IMAGES, LABELS * 0, r"at least 2 classes, found 1"),
        ("images", LABELS, "images must be a tensor or an array.*str"),
        (np.array([None]), LABELS, "images must be a tensor or an array.*object"),
        (IMAGES, np.array(["a"]), "labels must be a tensor or an array.*"),
        (IMAGES, ["a", "b"], "labels must be .*, got strings; number the classes.*"),
        (IMAGES, np.array(["a"], object), "labels must be .*, got strings; number.*"),
        (["a.png", "b.png"], LABELS, "images must be .* array of numbers, got strings"),
        (
            torch.rand(20, 28, 28, 3),
            LABELS,
            r"\(channels, height, width\); use movedim\(-1, 1\)",
        ),
        (np.zeros((20, 9, 9, 7)), LABELS, "pass channels='first' or 'last'"),
    ],
)
def test_wrong_tensors_are_refused_in_one_line(
    images: Tensor, labels: Tensor, told: str
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        RealData.from_tensors(images, labels)
    one_line(refused.value)


def test_an_absurd_label_is_refused_at_once() -> None:
    with pytest.raises(DataError, match="labels go up to"):
        RealData.from_tensors(IMAGES, LABELS * 10**15)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat"], "labels go up to 1, expected 2 class names, got 1"),
        (["cat", "dog", "eel", "fly"], "found none of class 'eel', 'fly'"),
    ],
)
def test_class_names_must_fit_the_labels(names: list[str], told: str) -> None:
    with pytest.raises(DataError, match=told):
        RealData.from_tensors(IMAGES, LABELS, class_names=names)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.uint8,
        torch.int8,
        torch.int32,
        torch.int64,
        torch.bool,
        torch.uint16,
    ],
)
def test_labels_may_be_of_any_integer_type(dtype: torch.dtype) -> None:
    data = RealData.from_tensors(IMAGES, LABELS.to(dtype))
    assert data.train.labels.dtype == torch.int64
    assert torch.equal(data.train.labels, LABELS[data.train_indices])


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.uint8, torch.uint8),
        (torch.float16, torch.float32),
        (torch.float64, torch.float32),
    ],
)
def test_images_are_kept_as_bytes_or_float32(
    dtype: torch.dtype, kept: torch.dtype
) -> None:
    images = IMAGES.to(dtype)
    data = RealData.from_tensors(images, LABELS)
    assert data.train.images.dtype == kept
    assert torch.equal(data.train.images, images[data.train_indices].to(kept))


def test_images_that_require_a_gradient_are_taken_without_it() -> None:
    data = RealData.from_tensors(IMAGES.clone().requires_grad_(), LABELS)
    assert data.fingerprint == RealData.from_tensors(IMAGES, LABELS).fingerprint


def test_names_and_numbers_of_classes_and_shape() -> None:
    data = RealData.from_tensors(torch.rand(20, 3, 4, 5), LABELS)
    assert data.class_names == ("0", "1")
    assert data.num_classes == 2
    assert data.image_shape == (3, 4, 5)
    named = RealData.from_tensors(IMAGES, LABELS, class_names=iter(["cat", "dog"]))
    assert named.class_names == ("cat", "dog")


def test_validation_split_is_a_tenth_of_each_class() -> None:
    counts = [100, 57, 20, 10, 9, 1]
    data = RealData.from_tensors(numbered(sum(counts)), labels_of(counts))
    held_out = torch.bincount(data.validation.labels, minlength=6)
    assert held_out.tolist() == [10, 5, 2, 1, 0, 0]
    kept = torch.bincount(data.train.labels, minlength=6)
    assert (held_out + kept).tolist() == counts


def test_validation_split_has_5000_images_at_most() -> None:
    data = RealData.from_tensors(torch.zeros(60_000, 1, 1, 1), torch.arange(60_000) % 8)
    assert torch.bincount(data.validation.labels).tolist() == [625] * 8
    assert len(data.train.labels) == 55_000


def test_every_image_is_in_one_split_and_its_index_finds_it() -> None:
    images, labels = numbered(250), labels_of([90, 90, 70])
    data = RealData.from_tensors(images, labels)
    assert torch.equal(data.train.images, images[data.train_indices])
    assert torch.equal(data.train.labels, labels[data.train_indices])
    others = torch.ones(250, dtype=torch.bool)
    others[data.train_indices] = False
    assert torch.equal(data.validation.images, images[others])
    assert torch.equal(data.validation.labels, labels[others])


def test_a_split_is_undone_but_not_one_that_was_given() -> None:
    images, labels = numbered(250), labels_of([90, 90, 70])
    cut = RealData.from_tensors(images, labels).undivided()
    whole = RealData.from_tensors(images, labels, validation=0)
    assert cut.fingerprint == whole.fingerprint
    assert torch.equal(cut.train.images, images)
    assert len(cut.validation.labels) == 0
    assert whole.undivided() is whole
    given = RealData.from_tensors(images, labels, validation=(images[:9], labels[:9]))
    assert given.undivided() is given


def test_splits_do_not_depend_on_random_state_and_leave_it_alone() -> None:
    first = RealData.from_tensors(IMAGES, LABELS)
    torch.manual_seed(12345)
    state = torch.get_rng_state()
    second = RealData.from_tensors(IMAGES, LABELS)
    assert torch.equal(first.train_indices, second.train_indices)
    assert torch.equal(state, torch.get_rng_state())


def test_splits_are_drawn_and_not_the_first_images() -> None:
    data = RealData.from_tensors(numbered(400), labels_of([200, 200]))
    assert data.train_indices[0] < 40
    assert data.train_indices[-1] >= 360


def test_fingerprint_tells_data_apart() -> None:
    data = RealData.from_tensors(IMAGES, LABELS, class_names=["a", "b"], name="x")
    same = RealData.from_tensors(IMAGES.clone(), LABELS.int())
    assert data.fingerprint == same.fingerprint
    swapped = LABELS.clone()
    swapped[[0, 1]] = swapped[[1, 0]]
    others = [
        RealData.from_tensors(IMAGES * 0.5, LABELS),
        RealData.from_tensors(IMAGES.double().mul(255).byte(), LABELS),
        RealData.from_tensors(IMAGES.reshape(20, 1, 1, 4), LABELS),
        RealData.from_tensors(IMAGES, 1 - LABELS),
        RealData.from_tensors(IMAGES, swapped),
    ]
    assert len({data.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_other_preprocessing_leaves_the_data_as_it_is() -> None:
    data = RealData.from_tensors(IMAGES, LABELS, preprocessing="zca")
    other = data.with_preprocessing("standardize")
    assert (data.preprocessing, other.preprocessing) == ("zca", "standardize")
    assert other.fingerprint == data.fingerprint


def test_test_set_is_not_read_before_it_is_asked_for() -> None:
    calls = []

    def read() -> Images:
        calls.append(1)
        return Images(IMAGES, LABELS)

    data = RealData.from_tensors(IMAGES, LABELS, test=read)
    _ = data.fingerprint, repr(data)
    assert calls == []
    assert torch.equal(data.read_test().images, IMAGES)
    assert calls == [1]


def test_test_dataset_is_not_read_before_it_is_asked_for() -> None:
    items = [(IMAGES[index], int(LABELS[index])) for index in range(20)]
    test = Items(items[:6])
    data = RealData.from_dataset(Items(items), test=test)
    assert test.read == []
    assert torch.equal(data.read_test().labels, LABELS[:6])


@pytest.mark.parametrize(
    ("test", "told"),
    [
        (None, "no test set; pass one: .*test="),
        (
            (torch.zeros(2, 1, 3, 2), LABELS[:2]),
            r"shape \(1, 2, 2\) of .*, got \(1, 3, 2\)",
        ),
        ((IMAGES, LABELS + 1), "test labels must be at most 1, .* got 2"),
        ((with_pixel(float("nan")), LABELS), "not finite"),
        ((IMAGES, LABELS[1:]), "labels must have shape"),
        ((IMAGES[:0], LABELS[:0]), "images must have shape"),
    ],
)
def test_test_set_that_does_not_fit_is_refused(test: Any, told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        RealData.from_tensors(IMAGES, LABELS, test=test).check_test()
    one_line(refused.value)
    if test is not None:  # by a function it is found when the test set is read
        data = RealData.from_tensors(IMAGES, LABELS, test=lambda: Images(*test))
        data.check_test()
        with pytest.raises(DataError, match=told):
            data.read_test()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": 3}, "name must be text, got 3"),
        ({"mirror": "no"}, "mirror must be True or False, got 'no'"),
        ({"workers": -1}, "workers must be a whole number from 0, got -1"),
        ({"workers": "2"}, "workers must be a whole number from 0, got '2'"),
    ],
)
def test_options_of_another_kind_are_refused(
    options: dict[str, Any], told: str
) -> None:
    items = Items([(image, index % 2) for index, image in enumerate(IMAGES)])
    with pytest.raises(OptionError, match=told):
        RealData.from_dataset(items, **options)


def test_mirror_may_be_a_truth_value_of_numpy() -> None:
    assert RealData.from_tensors(IMAGES, LABELS, mirror=np.True_).mirror is True
    with pytest.raises(OptionError, match="mirror must be True or False"):
        RealData.from_tensors(IMAGES, LABELS).prepared(None, "no")


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((IMAGES,), "tuple of 1"),
        ((IMAGES, LABELS, None), "tuple of 3"),
        ([(IMAGES[0], 0)] * 3, "list of 3"),
        (IMAGES, "Tensor of 20"),
    ],
)
def test_images_without_labels_are_told_by_what_they_are(
    given: Any, split: str, told: str
) -> None:
    test = given if isinstance(given, tuple) else lambda: given
    options = {"test": test} if split == "test" else {"validation": given}
    with pytest.raises(DataError, match=f"{split} must be a pair .* a {told}"):
        RealData.from_tensors(IMAGES, LABELS, **options).read_test()


def test_what_the_splits_lack_may_be_an_option() -> None:
    some = Items([(image, index % 2) for index, image in enumerate(IMAGES)])
    data = RealData.from_splits({"train": some, "test": some}, validation=0.2)
    assert len(data.validation.labels) == 4
    data = RealData.from_splits({"train": some, "val": some}, validation=0.2)
    assert len(data.read_test().labels) == 20
    assert (
        len(RealData.from_splits({"train": some}, test=some).read_test().labels) == 20
    )
    every = {"train": some, "test": some, "valid": some}
    assert len(RealData.from_splits(every, test=None).validation.labels) == 20
    for role, split in (("test", "test"), ("validation", "valid")):
        with pytest.raises(OptionError, match=f"split '{split}' gives the {role} "):
            RealData.from_splits(every, **{role: some})


def pil(array: np.ndarray) -> Image.Image:
    return Image.fromarray(array)


def channels_first(array: np.ndarray) -> Tensor:
    return torch.from_numpy(
        array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    )


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (7, 8, 4)])
@pytest.mark.parametrize("convert", [pil, np.asarray, channels_first])
def test_pil_images_arrays_and_tensors_give_the_same_data(
    convert: Callable[[np.ndarray], Any], shape: tuple[int, ...]
) -> None:
    if convert is pil and shape[-1] == 4:
        pytest.skip("transparent images are composited: see test_pixels.py")
    arrays = np.random.default_rng(0).integers(0, 256, (10, *shape), dtype=np.uint8)
    items = [(convert(array), index % 2) for index, array in enumerate(arrays)]
    data = RealData.from_dataset(Items(items), class_names=["a", "b"])
    expected = torch.stack([channels_first(array) for array in arrays])
    assert data.train.images.dtype == torch.uint8
    assert torch.equal(data.train.images, expected[data.train_indices])


def test_tensors_of_two_axes_are_images_of_one_channel() -> None:
    items = [(image[0], label) for image, label in zip(IMAGES, LABELS, strict=True)]
    assert RealData.from_dataset(Items(items)).image_shape == (1, 2, 2)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor, bool])
def test_labels_of_a_dataset_may_be_any_integers(kind: Callable[[int], Any]) -> None:
    items = [(image, kind(index % 2)) for index, image in enumerate(IMAGES)]
    data = RealData.from_dataset(Items(items))
    assert torch.equal(data.train.labels, LABELS[data.train_indices])


IMAGE = IMAGES[0]


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([], "empty"),
        ([IMAGE, IMAGE], r"item 0 is not an \(image, label\) pair"),
        ([(IMAGE, 0), (IMAGE, 1, 2)], r"item 1 is not an \(image, label\) pair"),
        ([(IMAGE, 0), 3], r"item 1 is not an \(image, label\) pair"),
        ([(IMAGE, 0), None], r"item 1 is not an \(image, label\) pair"),
        (
            [(IMAGE, 0), (IMAGE, 0), (torch.zeros(1, 3, 2), 1)],
            r"2 sizes .*\(1, 2, 2\) x2, \(1, 3, 2\) x1; .*--image-size",
        ),
        (
            [(IMAGE, 0), (torch.zeros(3, 2, 2), 1)],
            "number of channels, got 1 and 3 .*to RGB",
        ),
        ([(IMAGE, 0), (IMAGE.byte(), 1)], "image number 1 is of torch.uint8"),
        ([(IMAGE, np.array([1, 0, 1]))], r"expected one label, .* \(3,\); multi-label"),
        (
            [{"pixels": IMAGE, "label": 0}],
            "expected an image .* got keys pixels, label",
        ),
        ([(IMAGE, 0), (Image.new("I", (2, 2)), 1)], "image 1 has pixels of 32-bit"),
        ([(IMAGE, 0), (IMAGE[None], 1)], r"image 1 has shape \(1, 1, 2, 2\)"),
        ([(torch.zeros(4), 0)], r"image 0 has shape \(4,\)"),
        ([(IMAGE, -1), (IMAGE, 0)], "must not be negative"),
        ([(IMAGE, 0), (IMAGE, 2**63)], "a label below"),
        ([(IMAGE, 0), (IMAGE, 0)], "at least 2 classes, found 1"),
        ([(IMAGE, 0), (IMAGE, 2)], "without gaps"),
        ([{"image": IMAGE, "label": 0}], "at least 2 classes, found 1"),
        ([(None, 0)], "image 0|item 0"),
        ([("a.png", 0)], "image 0|item 0"),
        ([(IMAGE, "cat")], "label|item 0"),
        ([(IMAGE, None)], "label|item 0"),
        ([(IMAGE, torch.eye(3)[0])], "label|item 0"),
        ([(IMAGE, 10**30)], "label|item 0"),
        ([(IMAGE, 0.4), (IMAGE, 1.6)], "integer"),
        ([(IMAGE, "0"), (IMAGE, "1")], "integer"),
    ],
)
def test_wrong_items_of_a_dataset_are_refused_in_one_line(
    items: list[Any], told: str
) -> None:
    with pytest.raises(DataError, match=told) as refused:
        RealData.from_dataset(Items(items))
    one_line(refused.value)


class Raising(Items):
    def __getitem__(self, index: int) -> Any:
        if index == 13:
            raise self.error
        return IMAGES[index], index % 2

    error: Exception


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        OSError("truncated\nfile"),
        AttributeError("x"),
        IndexError("y"),
        ZeroDivisionError(),
    ],
)
def test_whatever_a_dataset_raises_names_the_item(
    error: Exception, stream: bool
) -> None:
    items = Raising([None] * 20)
    items.error = error
    with pytest.raises(
        DataError, match=f"item 13 cannot be read: {type(error).__name__}"
    ):
        RealData.from_dataset(items, stream=stream, workers=0)


@pytest.mark.parametrize(
    "pair",
    [
        lambda image, label: (image, np.array([label])),
        lambda image, label: [image, np.array([[label]], dtype=np.uint8)],
        lambda image, label: {"image": image, "label": label},
        lambda image, label: {"img": image, "labels": torch.tensor([label])},
        lambda image, label: {
            "pixel_values": image,
            "target": np.int16(label),
            "id": 3,
        },
    ],
)
def test_items_as_data_sets_bring_them_are_read(pair: Callable[..., Any]) -> None:
    items = [pair(image, index % 2) for index, image in enumerate(IMAGES)]
    data = RealData.from_dataset(Items(items))
    assert torch.equal(data.train.labels, LABELS[data.train_indices])
    assert torch.equal(data.train.images, IMAGES[data.train_indices])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("shape", "array", "expected"),
    [
        ((3, 8, 9), True, (3, 8, 9)),
        ((1, 8, 9), True, (1, 8, 9)),
        ((4, 8, 9), True, (4, 8, 9)),
        ((8, 9, 1), True, (1, 8, 9)),
        ((8, 9, 3), True, (3, 8, 9)),
        ((3, 3, 3), True, (3, 3, 3)),
        ((8, 3, 9), False, (8, 3, 9)),
        ((3, 8, 3), False, (3, 8, 3)),
        ((5, 8, 9), False, (5, 8, 9)),
        ((8, 9, 3), False, None),
        ((28, 28, 1), False, None),
        ((5, 8, 9), True, None),
    ],
)
def test_axes_are_told_by_sizes_or_refused(
    shape: tuple[int, ...], array: bool, expected: tuple[int, ...] | None, stream: bool
) -> None:
    image = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    items = Items(
        [(image if array else torch.from_numpy(image), n % 2) for n in range(9)]
    )
    if expected is None:
        with pytest.raises(DataError, match="channels='"):
            RealData.from_dataset(items, stream=stream, workers=0)
        data = RealData.from_dataset(items, stream=stream, workers=0, channels="last")
        assert data.image_shape == (shape[2], *shape[:2])
        return
    data = RealData.from_dataset(items, stream=stream, workers=0)
    assert data.image_shape == expected
    last = array and shape[-1] in (1, 3)
    moved = np.moveaxis(image, -1, 0) if last else image
    assert torch.equal(data.train.images[:1][0], torch.from_numpy(moved.copy()))


def test_tensors_and_arrays_are_taken_as_people_hold_them() -> None:
    expected = RealData.from_tensors(IMAGES, LABELS).fingerprint
    grey, numbers = IMAGES[:, 0], LABELS[:, None]
    for images, labels in (
        (grey, LABELS),
        (grey.numpy(), LABELS.numpy()),
        (IMAGES.numpy(), LABELS.tolist()),
        (IMAGES.movedim(1, -1).contiguous().numpy(), numbers.numpy()),
        (IMAGES.double(), numbers.to(torch.uint8)),
    ):
        assert RealData.from_tensors(images, labels).fingerprint == expected
    colours = torch.rand(20, 9, 8, 3)
    data = RealData.from_tensors(colours, LABELS, channels="last")
    assert data.image_shape == (3, 9, 8)


def test_an_unknown_position_of_the_channels_is_refused() -> None:
    told = "channels must be one of first, last, got 'Last'"
    with pytest.raises(OptionError, match=told):
        RealData.from_tensors(np.zeros((20, 8, 8, 3)), LABELS, channels="Last")
    with pytest.raises(OptionError, match=told):
        RealData.from_dataset(Items([(IMAGE, 0)]), channels="Last")


def test_a_dataset_brings_the_names_of_its_classes() -> None:
    items = Items([(image, index % 2) for index, image in enumerate(IMAGES)])
    assert RealData.from_dataset(items).class_names == ("0", "1")
    items.classes = ["cat", "dog"]
    assert RealData.from_dataset(items).class_names == ("cat", "dog")
    part = Subset(Subset(items, range(18)), range(16))
    assert RealData.from_dataset(part).class_names == ("cat", "dog")
    for others in (["one"], ["a", "b", "c"], "ab", ["a", 3], {"a": 0, "b": 1}):
        items.classes = others
        assert RealData.from_dataset(items).class_names == ("0", "1")


def test_a_dataset_that_draws_at_random_is_told_of_once() -> None:
    class Flipping(Items):
        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return (image.flip(-1) if torch.rand(()) < 0.5 else image), label

    pairs = [(torch.rand(1, 8, 8), index % 2) for index in range(20)]
    kept = "one random view of each image is kept"
    torch.manual_seed(0)
    with pytest.warns(DDWarning, match=kept) as told:
        RealData.from_dataset(Flipping(pairs))
    assert len(told) == 1
    with pytest.warns(DDWarning, match="no run can be repeated"):
        RealData.from_dataset(Flipping(pairs), stream=True, workers=0)


@pytest.mark.parametrize("stream", [False, True])
def test_images_of_all_sizes_are_resized_and_cropped(stream: bool) -> None:
    pairs = [(torch.rand(1, 8 + index, 12), index % 2) for index in range(20)]
    data = RealData.from_dataset(
        Items(pairs), test=Items(pairs), image_size=6, stream=stream, workers=0
    )
    assert data.image_shape == (1, 6, 6)
    assert data.image_size == 6
    assert data.read_test().images.shape == (20, 1, 6, 6)


@pytest.mark.parametrize("stream", [None, False, True])
def test_white_floating_images_are_resized(stream: bool | None) -> None:
    labels = torch.arange(4) % 2

    def read(value: float) -> RealData:
        images = torch.full((4, 1, 11, 11), value)
        if stream is None:
            return RealData.from_tensors(images, labels, image_size=10)
        pairs = TensorDataset(images, labels)
        return RealData.from_dataset(pairs, image_size=10, stream=stream, workers=0)

    assert float(read(1.0).train.images[:].max()) == 1
    with pytest.raises(DataError, match=r"in \[0, 1\], got \[1.01, 1.01\]"):
        read(1.01)


@pytest.mark.parametrize("size", [0, "8", 8.5, True])
def test_an_image_size_is_a_whole_number(size: Any) -> None:
    images, labels = torch.rand(4, 1, 9, 9), torch.arange(4) % 2
    pairs = TensorDataset(images, labels)
    for read in (
        lambda: RealData.from_tensors(images, labels, image_size=size),
        lambda: RealData.from_dataset(pairs, image_size=size),
        lambda: get_dataset("imagenette", image_size=size),
    ):
        with pytest.raises(OptionError, match="image_size must be a whole number"):
            read()
    data = RealData.from_tensors(images, labels, image_size=np.int64(8))  # type: ignore[arg-type]
    assert type(data.image_size) is int


def test_tensors_are_resized_with_their_test_set() -> None:
    images, labels = torch.full((20, 1, 8, 8), 0.5), torch.arange(20) % 2
    data = RealData.from_tensors(images, labels, test=(images, labels), image_size=4)
    assert torch.equal(data.train.images[0], torch.full((1, 4, 4), 0.5))
    assert data.read_test().images.shape == (20, 1, 4, 4)


def test_images_that_were_normalised_are_refused_with_advice() -> None:
    with pytest.raises(DataError, match=r"\[-1, 1\].*Normalize must be left out"):
        RealData.from_tensors(2 * IMAGES.round() - 1, LABELS)


def test_one_string_is_no_list_of_names() -> None:
    with pytest.raises(DataError, match="one string, 'ab'; pass a list"):
        RealData.from_tensors(IMAGES, LABELS, class_names="ab")


def test_large_images_are_not_whitened_unless_asked_for() -> None:
    small, large = torch.rand(8, 3, 40, 40), torch.rand(8, 3, 40, 41)
    labels = torch.arange(8) % 2
    assert RealData.from_tensors(small, labels).preprocessing == "zca"
    data = RealData.from_tensors(large, labels)
    assert data.preprocessing == "standardize"
    asked = {"device": CPU, "precision": torch.float32, "seed": 0}
    with pytest.warns(DDWarning, match="3x40x41 are standardised"):
        sampler_of(data, **asked)
    for kind in ("zca", "standardize"):
        for chosen in (
            RealData.from_tensors(large, labels, preprocessing=kind),
            data.with_preprocessing(kind),
        ):
            transform, _ = sampler_of(chosen, **asked)
            assert transform.kind == kind


def test_a_test_dataset_is_looked_at_before_it_is_read() -> None:
    items = Items([(image, index % 2) for index, image in enumerate(IMAGES)])
    for test, told in (
        (Items([]), "empty"),
        (Items([(torch.zeros(1, 3, 2), 0)] * 9), r"test images .* got \(1, 3, 2\)"),
        (Items([(IMAGE, 2)] * 9), "test labels .* got 2"),
        (Items([3]), "item 0 is not an"),
    ):
        data = RealData.from_dataset(items, test=test)
        assert test.read == []
        with pytest.raises(DataError, match=told):
            data.check_test()
        assert len(test.read) <= 1
    data = RealData.from_dataset(items, test=items)
    items.read.clear()
    data.check_test()
    assert items.read == [0]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield IMAGE, 0


class SizedStream(Stream):
    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("stream", [Stream(), SizedStream()])
def test_a_stream_is_refused(stream: Stream) -> None:
    with pytest.raises(DataError, match="map-style"):
        RealData.from_dataset(stream)


@pytest.mark.parametrize(
    "name",
    ["", " digits", "folder:", ":path", "a b", "../digits", "digits\n"],
)
def test_malformed_data_set_names_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="expected a name such as") as told:
        get_dataset(name)
    one_line(told.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("digit", "digits"), ("fashon-mnist", "fashion-mnist"), ("flder:x", "folder")],
)
def test_unknown_data_sets_list_the_nearest_first(name: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown data set.*first: {nearest},"):
        get_dataset(name)


def sampler(count: int, *, seed: int = 0, classes: int = 2) -> RealSampler:
    labels = torch.arange(count) % classes
    return RealSampler(numbered(count), labels, seed=seed, device=CPU)


def places(images: Tensor, count: int) -> list[int]:
    """Return which of the numbered images these are."""
    return (images[:, 0, 0, 0] * (count - 1)).round().long().tolist()


def test_draws_are_a_function_of_seed_and_step_alone() -> None:
    first, second = sampler(10), sampler(10)
    in_order = [first.batch(step, 4).images for step in range(12)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    second.class_batch(3, 1, 2)
    backwards = [second.batch(step, 4).images for step in reversed(range(12))]
    assert torch.equal(torch.stack(in_order), torch.stack(backwards[::-1]))
    assert torch.equal(state, torch.get_rng_state())


def test_draws_differ_between_seeds_and_between_classes() -> None:
    def order(of: RealSampler) -> list[int]:
        return places(of.batch(0, 59).images, 60)

    assert order(sampler(60)) != order(sampler(60, seed=1))
    even, odd = (sampler(60).class_batch(0, label, 29).images for label in (0, 1))
    assert [place + 1 for place in places(even, 60)] != places(odd, 60)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 9])
def test_every_image_comes_once_in_an_epoch_even_across_batches(size: int) -> None:
    draws = sampler(10)
    drawn = [
        place for step in range(30) for place in places(draws.batch(step, size)[0], 10)
    ]
    epochs = [drawn[start : start + 10] for start in range(0, len(drawn), 10)]
    assert len(epochs) == 3 * size
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs), "not shuffled anew"


@pytest.mark.parametrize("size", [1, 3, 4])
def test_class_batches_hold_their_class_once_in_an_epoch(size: int) -> None:
    draws = sampler(15, classes=3)
    drawn = []
    for step in range(15):
        batch = draws.class_batch(step, 2, size)
        assert batch.labels.tolist() == [2] * size
        drawn += places(batch.images, 15)
    epochs = [drawn[start : start + 5] for start in range(0, len(drawn), 5)]
    assert all(sorted(epoch) == [2, 5, 8, 11, 14] for epoch in epochs)


@pytest.mark.parametrize("size", [10, 11, 1000])
def test_a_batch_of_more_than_all_is_all(size: int) -> None:
    draws = sampler(10)
    for step in (0, 1):
        images, labels = draws.batch(step, size)
        assert sorted(places(images, 10)) == list(range(10))
        assert labels.tolist() == [place % 2 for place in places(images, 10)]
    assert draws.class_batch(5, 1, size).labels.tolist() == [1] * 5


def test_labels_of_a_batch_belong_to_its_images() -> None:
    images, labels = sampler(10, classes=5).batch(3, 7)
    assert labels.tolist() == [place % 5 for place in places(images, 10)]


def test_a_draw_without_an_image_for_each_process_is_refused() -> None:
    few = RealSampler(
        torch.rand(6, 1, 2, 2), torch.arange(6) % 2, seed=0, device=CPU, ranks=4
    )
    assert len(few.batch(0, 4).labels) == 1
    for draw in (lambda: few.batch(0, 3), lambda: few.class_batch(0, 1, 9)):
        with pytest.raises(OptionError, match=r"got 3 for 4 processes") as told:
            draw()
        one_line(told.value)


def test_a_balanced_subset_has_so_many_different_images_of_each_class() -> None:
    labels = labels_of([12, 5, 7])
    chosen = balanced_subset(labels, 5, generator_for(0, "subset"))
    assert labels[chosen].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert len(set(chosen.tolist())) == 15
    again = balanced_subset(labels, 5, generator_for(0, "subset"))
    other = balanced_subset(labels, 5, generator_for(1, "subset"))
    assert torch.equal(chosen, again)
    assert not torch.equal(chosen, other)


def test_a_balanced_subset_larger_than_the_smallest_class_is_refused() -> None:
    told = "6 images per class asked for, but class 1, .* only 5 .* choose at most 5"
    with pytest.raises(OptionError, match=told) as refused:
        balanced_subset(labels_of([12, 5, 7]), 6, generator_for(0, "subset"))
    one_line(refused.value)


def test_data_errors_are_ours_and_value_errors() -> None:
    assert issubclass(DataError, DDError)
    assert issubclass(DataError, ValueError)
    assert DataError.exit_status == 1


def values(count: int = 10) -> tuple[Tensor, Tensor]:
    """Images in a value space of any range."""
    generator = torch.Generator().manual_seed(0)
    images = 4 * torch.randn(count, 1, 4, 4, generator=generator) - 1
    return images, torch.arange(count) % 2


def test_values_are_drawn_as_they_are() -> None:
    images, labels = values()
    data = RealData.from_values(images, labels, class_names=["a", "b", "no image"])
    assert (data.num_classes, data.image_shape) == (3, (1, 4, 4))
    assert torch.equal(data.train_indices, torch.arange(10))
    assert len(data.validation.labels) == 0
    transform, sampler = sampler_of(
        data, seed=0, device=torch.device("cpu"), precision=torch.float32
    )
    assert torch.equal(sampler.batch(0, 10).images, images)
    assert torch.equal(transform.invert(transform(images)), images)
    with pytest.raises(DataError, match="no test set"):
        data.read_test()


def test_values_may_be_arrays_and_labels_a_list() -> None:
    images, labels = values()
    expected = RealData.from_values(images, labels).fingerprint
    for form in ((images.numpy(), labels.numpy()), (images.double(), labels.tolist())):
        assert RealData.from_values(*form).fingerprint == expected


@pytest.mark.parametrize("names", ["ab", 2])
def test_class_names_of_values_are_a_list(names: Any) -> None:
    with pytest.raises(DataError, match=f"must be a list of names.*{names}"):
        RealData.from_values(*values(), class_names=names)


def test_values_may_stay_in_their_dataset() -> None:
    images, labels = values()
    in_dataset = streamed.StreamedImages(
        items.Items(TensorDataset(images, labels)),
        (1, 4, 4),
        torch.arange(10),
        workers=0,
    )
    data = RealData.from_values(in_dataset, labels)
    assert data.train.images is in_dataset
    in_memory = RealData.from_values(images, labels)
    assert data.fingerprint == in_memory.fingerprint
    assert data.value_space == in_memory.value_space
    images[7, 0, 1, 1] = math.nan
    with pytest.raises(DataError, match="not finite, the first is number 7"):
        RealData.from_values(in_dataset, labels)


def test_an_absurd_label_of_values_needs_names() -> None:
    images, labels = values()
    with pytest.raises(DataError, match=r"up to 1000000000, .* or pass class_names"):
        RealData.from_values(images, labels * 10**9)
    names = list(map(str, range(20)))
    data = RealData.from_values(images, labels * 19, class_names=names)
    assert data.num_classes == 20


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x[0], y), r"shape \(n, channels.*got \(1, 4, 4\)"),
        (lambda x, y: (x[:0], y[:0]), "none of them 0"),
        (lambda x, y: (x.to(torch.uint8), y), "must be floating, got torch.uint8"),
        (lambda x, y: (x / 0, y), "10 image.s. with values that are not finite"),
        (lambda x, y: (x, y[:3]), r"shape \(10,\).*got torch.int64 of shape \(3,\)"),
        (lambda x, y: (x, y.float()), "integers of shape .*got torch.float32"),
        (lambda x, y: (x, y - 1), "labels must be from 0 to 1, .*; got -1 to 0"),
        (lambda x, y: (x, y + 1), "labels must be from 0 to 1, .*; got 1 to 2"),
    ],
)
def test_wrong_values_are_refused(change: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        RealData.from_values(*change(*values()), class_names=["a", "b"])
