"""The laws of data sets."""

import warnings
from collections.abc import Callable

import torch

from dd_plugins.data.images import warn_if_trained_on
from dd_plugins.data.real import RealData
from dd_plugins.engine.distillation import distill
from dd_plugins.errors import DDWarning
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import assert_draws_nothing_globally

__all__ = [
    "DATASET_CHECKS",
    "check_dataset_can_be_distilled",
    "check_dataset_has_a_test_set",
    "check_dataset_has_unseen_test_images",
    "check_dataset_is_reproducible",
]

Loader = Callable[[], RealData]


@asserts
def check_dataset_is_reproducible(load: Loader) -> None:
    """Two loads give the same images, labels and class names, and draw nothing."""
    loaded: list[RealData] = []
    law = "loading must leave the global random state as it was"
    assert_draws_nothing_globally(lambda: loaded.extend([load(), load()]), law)
    first, second, *_ = loaded
    for data in (first, second):
        got = type(data).__name__
        assert isinstance(data, RealData), f"a loader must return RealData, got {got}"
    assert first.fingerprint == second.fingerprint, (
        "every load must give the same images"
    )
    assert first.class_names == second.class_names, (
        "every load must give the same class names"
    )


@asserts
def check_dataset_has_a_test_set(load: Loader) -> None:
    """The test set has images of the training images' shape, and of every class."""
    data = load()
    images, labels = data.read_test()
    again = data.read_test()
    same = torch.equal(images[:], again.images[:]) and torch.equal(labels, again.labels)
    assert same, "every read must give the same test images and labels"
    assert tuple(images.shape[1:]) == data.image_shape, (
        f"test images must have shape {data.image_shape}, got {tuple(images.shape[1:])}"
    )
    tested = set(labels.tolist())
    missing = [name for n, name in enumerate(data.class_names) if n not in tested]
    assert not missing, f"the test set must hold every class, it lacks {missing}"


@asserts
def check_dataset_has_unseen_test_images(load: Loader) -> None:
    """Most test images are not training images too; streamed ones are not compared."""
    data = load()
    with warnings.catch_warnings():
        warnings.simplefilter("error", DDWarning)
        try:
            warn_if_trained_on(data.read_test(), data.train)
        except DDWarning as warning:
            raise AssertionError(str(warning)) from warning


@asserts
def check_dataset_can_be_distilled(load: Loader) -> None:
    """A core set of one image for each class can be chosen from the data."""
    data = load()
    options = {"network": "mlp(width=4)", "device": "cpu", "plugins": Plugins(load=[])}
    made = distill(data, "random", steps=1, **options)  # type: ignore[arg-type]
    assert len(made) == data.num_classes, (
        f"a core set must have an image for each of {data.num_classes} classes, got "
        f"{len(made)}"
    )


DATASET_CHECKS: tuple[Callable[[Loader], None], ...] = (
    check_dataset_is_reproducible,
    check_dataset_has_a_test_set,
    check_dataset_has_unseen_test_images,
    check_dataset_can_be_distilled,
)
"""Every check of a data set; each takes its loader, a function without arguments."""
