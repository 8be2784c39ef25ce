"""What is said of a set whose file has a right hash and holds other than the format."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_sets import header_of, made_set, with_header
from torch import Tensor

from dd_plugins import DistilledSet
from dd_plugins.data.preprocess import Transform
from dd_plugins.synthetic.artifact_faults import faults
from dd_plugins.synthetic.header import ContextRecord, TeacherRecord, ViewsRecord

VIEWS = ViewsRecord(views="views(count=2)", temperature=1.0)
TAUGHT = ViewsRecord(
    views="views(count=2)",
    temperature=1.0,
    teacher=TeacherRecord(network="mlp", recipe="recipe(steps=1)"),
)
LABELS = torch.zeros(2, 6, 3).half()
CONTEXT = ContextRecord(refined=True, header=header_of())


def told(made: DistilledSet, **more: Tensor) -> list[str]:
    return list(faults(made, made.tensors() | more))


def whitened(made: DistilledSet, **parts: Any) -> DistilledSet:
    """Return the set with a whitening, from which parts may be missing."""
    transform = replace(made.transform, **parts)
    return with_header(
        replace(made, transform=transform), value_space="zca", transform_stride=1
    )


CENTRE, MATRIX = torch.zeros(32), torch.eye(32)
DIRECTIONS, SCALES = torch.eye(32)[:4], torch.ones(4)

SOUND = {
    "plain": made_set(),
    "views": replace(
        made_set(label_kind="probabilities", views=VIEWS), view_labels=LABELS
    ),
    "views of a kept teacher": made_set(label_kind="probabilities", views=TAUGHT),
    "stored labels of a kept teacher": replace(
        made_set(label_kind="probabilities", views=TAUGHT), view_labels=LABELS
    ),
    "stored grids": replace(
        made_set(stored_images=1, stored_values=32, parametrization="packed"),
        stored={"grids": torch.zeros(1, 2, 4, 4)},
    ),
    "decoded in the file": made_set(
        stored_images=6, stored_values=72, parametrization="mixture"
    ),
    "beside a context": made_set(stored_images=2, stored_values=64, context=CONTEXT),
    "an old version tells no budget": made_set(
        format_version=2, stored_images=None, stored_values=None
    ),
    "whitened": whitened(made_set(), centre=CENTRE, whitening=MATRIX),
    "whitened by directions": whitened(
        made_set(), centre=CENTRE, directions=DIRECTIONS, scales=SCALES
    ),
    "places": made_set(initial_indices=[5, 0, 1, 1, 2, 10**9]),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_set_has_no_fault(name: str) -> None:
    assert told(SOUND[name]) == []


WRONG: dict[str, tuple[DistilledSet, str]] = {
    "labels of views of which nobody tells": (
        replace(made_set(), view_labels=LABELS),
        "views",
    ),
    "stored labels of a kept teacher, in version 3": (
        replace(
            made_set(label_kind="probabilities", views=TAUGHT, format_version=3),
            view_labels=LABELS,
        ),
        "need format version 4, got 3",
    ),
    "groups, in version 3": (
        replace(
            made_set(
                label_kind="probabilities",
                views=VIEWS.model_copy(update={"group": 4}),
                format_version=3,
            ),
            view_labels=LABELS,
        ),
        "need format version 4, got 3",
    ),
    "further teachers without a first": (
        made_set(
            label_kind="probabilities",
            views=VIEWS.model_copy(update={"further_teachers": [TAUGHT.teacher]}),
        ),
        "further teachers need a first",
    ),
    "views of other labels": (
        replace(made_set(label_kind="regression", views=VIEWS), view_labels=LABELS),
        "labels that are probabilities",
    ),
    "labels of views that are no probabilities": (
        replace(
            made_set(label_kind="probabilities", views=VIEWS), view_labels=LABELS - 7
        ),
        "from 0 to 1",
    ),
    "other labels of a kept teacher": (
        replace(
            made_set(label_kind="probabilities", views=TAUGHT), view_labels=LABELS[:1]
        ),
        r"\(2, 6, 3\).*\(1, 6, 3\)",
    ),
    "no labels of views": (
        made_set(label_kind="probabilities", views=VIEWS),
        r"\(2, 6, 3\).*None",
    ),
    "labels of other views": (
        replace(
            made_set(label_kind="probabilities", views=VIEWS),
            view_labels=torch.zeros(3, 6, 3).half(),
        ),
        r"\(2, 6, 3\).*\(3, 6, 3\)",
    ),
    "views of no count": (
        replace(
            made_set(
                label_kind="probabilities",
                views=ViewsRecord(views="views(count=0)", temperature=1.0),
            ),
            view_labels=LABELS,
        ),
        "views.*count",
    ),
    "other values than are there": (made_set(stored_values=193), "192.*193"),
    "other images than are there": (made_set(stored_images=3), "6.*3"),
    "other values than are stored": (
        replace(
            made_set(stored_images=1, stored_values=31, parametrization="packed"),
            stored={"grids": torch.zeros(1, 2, 4, 4)},
        ),
        r"\(1, 32\).*\(1, 31\)",
    ),
    "no budget": (made_set(stored_values=None), "stored_values"),
    "a class too many": (
        made_set(initial_classes=[0, 0, 1, 1, 2, 3]),
        r"classes.* 2, got 3",
    ),
    "a place too few": (made_set(initial_indices=[0, 1, 2, 3, 4]), "initial_indices"),
    "a stride for one side alone": (
        replace(
            made_set(transform_stride=3, stored_values=6 * 48),
            images=torch.zeros(6, 2, 4, 6),
        ),
        "4x6.*got 3",
    ),
    "a mean of other channels": (
        replace(made_set(), transform=Transform.identity(3)),
        r"mean.*\(2,\).*\(3,\)",
    ),
    "a matrix and directions": (
        whitened(
            made_set(),
            centre=CENTRE,
            whitening=MATRIX,
            directions=DIRECTIONS,
            scales=SCALES,
        ),
        "whitening",
    ),
    "directions without scales": (
        whitened(made_set(), centre=CENTRE, directions=DIRECTIONS),
        "scales",
    ),
    "directions without a centre": (
        with_header(
            whitened(made_set(), directions=DIRECTIONS, scales=SCALES),
            value_space="standardize",
        ),
        "centre",
    ),
    "directions of another size": (
        whitened(
            made_set(), centre=CENTRE, directions=DIRECTIONS[:, :9], scales=SCALES
        ),
        r"directions.*\(4, 32\).*\(4, 9\)",
    ),
    "a scale of nothing": (
        whitened(made_set(), centre=CENTRE, directions=DIRECTIONS, scales=0 * SCALES),
        "scales",
    ),
    "a whitening that is not symmetric": (
        whitened(made_set(), centre=CENTRE, whitening=MATRIX + MATRIX.roll(1, dims=0)),
        "whitening",
    ),
    "a deviation of nothing": (
        replace(
            made_set(), transform=Transform(torch.zeros(2), torch.tensor([1.0, 0.0]))
        ),
        "deviation",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_first_fault_says_what_is_wrong(name: str) -> None:
    made, named = WRONG[name]
    first = told(made)[0]
    assert re.search(named, first), first


def test_tensors_that_the_format_has_not_are_named_in_order() -> None:
    more = {"b.extra": torch.zeros(1), "a.extra": torch.zeros(1)}
    (only,) = told(made_set(), **more)
    assert "a.extra" in only
    half = replace(
        made_set(label_kind="probabilities", views=VIEWS), view_labels=LABELS.float()
    )
    (only,) = told(half)
    assert "view_labels" in only
    assert "float16" in only
    assert "float32" in only
