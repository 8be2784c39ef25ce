"""The header: which run it stands for, what its version holds, what it refuses."""

import json
from dataclasses import replace
from typing import Any

import pydantic
import pytest
import torch
from made_sets import DATA, header_of, made_set

from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import OptionError
from dd_plugins.run import RunOptions
from dd_plugins.synthetic.header import (
    DEEPEST_CONTEXT,
    FORMAT_VERSION,
    ContextRecord,
    Header,
    ViewsRecord,
    check_nesting,
    library_versions,
    make_header,
)

THREE_IMAGES = ContextRecord(
    refined=False, header=header_of(initial_classes=[0, 0, 0], stored_images=3)
)


def test_a_header_stands_for_the_run_that_made_it() -> None:
    asked = RunOptions(
        distiller="dsa(real_batch_size=16)",
        images_per_class=2,
        steps=5,
        seed=7,
        network="mlp(width=4)",
        initial_images="noise",
        parametrization="identity",
        preprocessing="standardize",
        mirror=True,
        precision="bfloat16",
    )
    names = ("distiller", "network", "initial_images", "steps", "seed", "mirror")
    given = {name: getattr(asked, name) for name in names}
    made = header_of(precision="bfloat16", **given)
    assert made.run == asked
    assert replace(made.run, seed=8).arguments() == asked.arguments() | {"seed": 8}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"steps": 0}, {"steps": None}),
        ({"precision": "float16"}, {"precision": "float32"}),
        ({"stored_images": None}, {"images_per_class": 2}),
        # 12 images per class, of which a stored one holds four
        (
            {"initial_classes": [0] * 12 + [1] * 12, "stored_images": 6},
            {"images_per_class": 3},
        ),
        (
            {"initial_classes": [0, 0, 0, 1, 2], "stored_images": 5},
            {"images_per_class": (3, 1, 1)},
        ),
        # a context, whose three images of a class do not count
        (
            {
                "initial_classes": [0, 0, 0, 1, 2],
                "stored_images": 5,
                "context": THREE_IMAGES,
            },
            {"images_per_class": 1},
        ),
        (
            {
                "initial_classes": [0, 0, 0, 1, 2, 2],
                "stored_images": 6,
                "context": THREE_IMAGES,
            },
            {"images_per_class": (1, 1, 2)},
        ),
        # a context of a packed image, beside packed images of two classes
        (
            {
                "initial_classes": [0] * 4 + [1] * 8 + [2] * 8,
                "stored_images": 5,
                "context": ContextRecord(
                    refined=False,
                    header=header_of(initial_classes=[0] * 4, stored_images=1),
                ),
            },
            {"images_per_class": 2},
        ),
        # the same context, refined in pixels
        (
            {
                "initial_classes": [0] * 4 + [1, 1, 2, 2],
                "stored_images": 8,
                "context": ContextRecord(
                    refined=True,
                    header=header_of(initial_classes=[0] * 4, stored_images=1),
                ),
            },
            {"images_per_class": 2},
        ),
        (
            {"initial_classes": [0] * 64, "stored_images": 1},
            {"images_per_class": 1},
        ),
        (
            {"context": ContextRecord(refined=True, header=header_of())},
            {"refine_context": True, "images_per_class": 1},
        ),
        (
            {"context": ContextRecord(refined=False, header=header_of())},
            {"refine_context": False},
        ),
    ],
)
def test_what_a_header_says_in_other_words_is_asked_for_again(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    run = header_of(**fields).run
    assert {name: getattr(run, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("version", "missing"),
    [
        (
            1,
            {"initial_images", "context", "parametrization", "stored_images"}
            | {"stored_values", "learned", "recipe", "views", "decoder_values"}
            | {"privacy", "architectures"},
        ),
        (
            2,
            {"parametrization", "stored_images", "stored_values", "learned"}
            | {"recipe", "views", "decoder_values", "privacy", "architectures"},
        ),
        (3, {"decoder_values", "privacy", "architectures"}),
        (4, {"decoder_values", "privacy", "architectures"}),
        (5, {"privacy", "architectures"}),
        (6, {"architectures"}),
        (7, set()),
    ],
)
def test_an_older_version_holds_what_it_held_then(
    version: int, missing: set[str]
) -> None:
    header = header_of(format_version=version, content_hash="abc")
    assert set(Header.model_fields) - header.fields().keys() == missing | {
        "content_hash"
    }
    told = json.loads(header.text())
    assert told.pop("content_hash") == "abc"
    assert told == header.fields()


def test_the_header_of_a_context_holds_what_its_file_could_hold() -> None:
    """What a version does not know is not in its hash, however deep."""
    inner = header_of(context=ContextRecord(refined=False, header=header_of()))
    context = ContextRecord(refined=True, header=inner)
    fields = header_of(format_version=5, context=context).fields()
    held = fields["context"]["header"]
    assert "privacy" not in fields
    assert "privacy" not in held
    assert "privacy" not in held["context"]["header"]
    assert "decoder_values" in held
    newest = header_of(context=context).fields()
    assert "privacy" in newest["context"]["header"]


def test_text_is_read_back_as_the_same_header() -> None:
    inner = header_of(recipe="recipe(steps=3)", learned={"size": [0.5, -1.0]})
    views = ViewsRecord(views="views(count=2)", temperature=2.0)
    header = header_of(context=ContextRecord(refined=True, header=inner), views=views)
    assert Header.model_validate_json(header.text()) == header
    assert header.nesting == 1


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"steps": "5"}, "steps"),
        ({"steps": 5.0}, "steps"),
        ({"label_kind": "words"}, "label_kind"),
        ({"stored_images": 0}, "stored_images"),
        ({"stored_values": 2**53 + 1}, "stored_values"),
        ({"learned": {"size": [float("inf")]}}, "learned"),
        ({"views": {"views": "v", "temperature": -1.0}}, "temperature"),
        ({"dataset": DATA.model_dump() | {"train_images": None}}, "train_images"),
    ],
)
def test_fields_of_another_form_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=named):
        header_of(**fields)


def test_a_header_of_other_images_forgets_what_was_of_these() -> None:
    header = header_of(
        initial_indices=[0, 1, 2, 3, 4, 5],
        parametrization="packed(factor=2)",
        recipe="recipe(steps=3)",
        decoder_values=9,
        learned={"size": [0.5]},
        views=ViewsRecord(views="views(count=2)", temperature=2.0),
    )
    other = header.of_pixels([1, 2], 64)
    assert (other.initial_classes, other.initial_indices) == ([1, 2], None)
    assert (other.parametrization, other.recipe) == ("identity", None)
    assert (other.stored_images, other.stored_values) == (2, 64)
    assert (other.learned, other.views) == ({}, None)
    changed = {name for name, value in header if getattr(other, name) != value}
    assert changed == {
        *("initial_classes", "initial_indices", "parametrization", "recipe"),
        *("stored_images", "stored_values", "decoder_values", "learned", "views"),
    }


def test_contexts_are_counted_and_have_an_end() -> None:
    header = header_of()
    for depth in range(DEEPEST_CONTEXT):
        assert header.nesting == depth
        check_nesting(header, more=1)
        header = header_of(context=ContextRecord(refined=False, header=header))
    check_nesting(header)
    told = f"{DEEPEST_CONTEXT}.*got {DEEPEST_CONTEXT + 1}"
    with pytest.raises(OptionError, match=told):
        check_nesting(header, more=1)


def test_given_fields_go_before_those_of_the_run() -> None:
    run = RunOptions(seed=1, steps=9, mirror=True, network="mlp")
    transform = Transform.fit(torch.rand(40, 1, 2, 2), "zca")
    old = header_of().model_dump(exclude={"versions", "seed", "network", "value_space"})
    made = make_header({"dd-more": "2.5"}, transform, run, **old)
    assert (made.seed, made.network) == (1, "mlp"), "of the run"
    assert (made.steps, made.mirror) == (5, False), "given"
    assert (made.value_space, made.format_version) == ("zca", FORMAT_VERSION)
    assert made.versions == library_versions() | {"dd-more": "2.5"}


def test_a_file_holds_what_images_are_decoded_from_in_their_place() -> None:
    made = made_set()
    assert list(made.tensors()) == [
        *("images", "labels", "transform.mean", "transform.deviation")
    ]
    grids = torch.rand(2, 2, 4, 4).to(memory_format=torch.channels_last)
    labels = torch.rand(3, 6, 3).half()
    other = replace(made, stored={"grids": grids}, view_labels=labels).tensors()
    assert set(other) == {
        *("stored.grids", "labels", "view_labels"),
        *("transform.mean", "transform.deviation"),
    }
    assert other["stored.grids"].is_contiguous(), "as safetensors asks"
    assert torch.equal(other["stored.grids"], grids)
    assert torch.equal(other["view_labels"], labels)
