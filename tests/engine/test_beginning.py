"""A set begins as real images or noise, alone or beside a finished one."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import begun, of_classes

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.engine.beginning import Beginning
from dd_plugins.errors import OptionError


def data_of(classes: int = 3) -> RealData:
    generator = torch.Generator().manual_seed(classes)
    images = torch.rand(60, 1, 8, 8, generator=generator)
    return RealData.from_tensors(
        images, torch.arange(60) % classes, preprocessing="standardize"
    )


def finished(initial_images: str = "real", **options: Any) -> DistilledSet:
    return dd_plugins.distill(
        data_of(),
        "dm(real_batch_size=8)",
        steps=1,
        network="mlp(width=4)",
        initial_images=initial_images,
        **({"images_per_class": 2} | options),
    )


def beginning(context: DistilledSet | None = None, **options: Any) -> Beginning:
    given = {"images_per_class": 2} | options
    return begun(data=data_of(), context=context, **given).beginning


def test_a_set_begins_as_the_real_images_that_it_names() -> None:
    made, data = beginning(), data_of()
    assert made.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert made.indices is not None
    assert data.train.labels[made.indices].tolist() == made.classes.tolist()
    leaves = made.synthetic().decode()
    expected = made.transform(data.train.images[made.indices])
    torch.testing.assert_close(leaves.pixels.detach(), expected, rtol=0, atol=0)
    assert leaves.labels.argmax(dim=1).tolist() == leaves.classes.tolist()
    classes, indices = made.history()
    assert classes == made.classes.tolist()
    assert indices == data.train_indices[made.indices].tolist(), "before the split"


def test_a_set_begins_as_draws_of_a_unit_normal() -> None:
    noise, again, other = (
        beginning(initial_images="noise", images_per_class=50, seed=seed)
        for seed in (0, 0, 1)
    )
    pixels = noise.synthetic().decode().pixels.detach()
    assert noise.history() == ([0] * 50 + [1] * 50 + [2] * 50, None)
    assert abs(float(pixels.mean())) < 0.05
    assert abs(float(pixels.std()) - 1) < 0.05
    assert torch.equal(again.synthetic().decode().pixels, pixels)
    assert not torch.equal(other.synthetic().decode().pixels, pixels)


def test_the_start_is_a_function_of_the_run_whatever_torch_has_drawn() -> None:
    first = beginning()
    torch.rand(3)
    state = torch.random.get_rng_state()
    second = beginning()
    assert first.indices is not None
    assert second.indices is not None
    assert torch.equal(first.indices, second.indices)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first.indices, beginning(seed=1).indices)  # type: ignore[arg-type]


@pytest.mark.parametrize("refined", [False, True])
def test_classes_of_a_context_get_no_new_images(refined: bool) -> None:
    context = of_classes(finished(), [0, 2])
    made = beginning(context, refine_context=refined, images_per_class=3)
    assert made.classes.tolist() == [1, 1, 1]
    synthetic = made.synthetic()
    leaves = synthetic.decode()
    assert leaves.classes.tolist() == [0, 0, 2, 2, 1, 1, 1]
    assert torch.equal(leaves.pixels[:4], context.images)
    assert torch.equal(leaves.labels[:4], context.labels)
    (moved,) = synthetic.parameters().images
    assert len(moved) == (7 if refined else 3), "what the optimizer moves"
    classes, indices = made.history()
    assert classes == [0, 0, 2, 2, 1, 1, 1]
    assert indices is not None
    assert indices[:4] == context.header.initial_indices
    record = made.context_record
    assert record is not None
    assert (record.refined, record.header.content_hash) == (
        refined,
        context.content_hash(),
    )


def test_learning_beside_a_context_leaves_the_context_itself_alone() -> None:
    context = of_classes(finished(), [0])
    before = context.images.clone()
    synthetic = beginning(context, refine_context=True).synthetic()
    synthetic.parameters().images[0].add_(1)
    assert torch.equal(context.images, before)


@pytest.mark.parametrize(
    ("context", "new", "same_data", "known"),
    [
        ("real", "real", True, True),
        ("real", "noise", True, False),
        ("noise", "real", True, False),
        ("real", "real", False, False),
    ],
)
def test_where_images_began_is_told_if_it_is_known_of_all(
    context: str, new: str, same_data: bool, known: bool
) -> None:
    held = of_classes(finished(context), [1])
    if not same_data:
        dataset = held.header.dataset.model_copy(update={"fingerprint": "another"})
        header = held.header.model_copy(update={"dataset": dataset})
        held = replace(held, header=header)
    classes, indices = beginning(held, initial_images=new).history()
    assert classes == [1, 1, 0, 0, 2, 2]
    assert (indices is not None) is known
    assert indices is None or len(indices) == len(classes)


@pytest.mark.parametrize(
    ("options", "images", "values"),
    [
        ({}, 6, 6 * 64),
        ({"parametrization": "packed(factor=2)"}, 6, 6 * 64),
        ({"context": True}, 4 + 2, 6 * 64),
        ({"context": True, "refine_context": True}, 6, 6 * 64),
        ({"context": True, "parametrization": "packed(factor=2)"}, 4 + 2, 6 * 64),
    ],
)
def test_the_budget_counts_what_is_stored_of_both(
    options: dict[str, Any], images: int, values: int
) -> None:
    given = dict(options)
    context = of_classes(finished(), [0, 1]) if given.pop("context", None) else None
    made = beginning(context, **given)
    found = made.budget(made.synthetic())
    told = {"stored_images": images, "stored_values": values, "decoder_values": 0}
    assert found == told


def test_stored_images_of_a_packed_context_count_as_they_were_stored() -> None:
    packed = finished(parametrization="packed(factor=2)", images_per_class=1)
    kept = of_classes(packed, [0])
    header = kept.header.model_copy(update={"stored_images": 1, "stored_values": 64})
    made = beginning(replace(kept, header=header))
    synthetic = made.synthetic()
    assert len(synthetic.decode().pixels) == 4 + 4
    found = made.budget(synthetic)
    assert (found["stored_images"], found["stored_values"]) == (1 + 4, 5 * 64)


def test_a_parametrization_stores_the_new_images_beside_a_plain_context() -> None:
    context = of_classes(finished(), [0, 1])
    synthetic = beginning(context, parametrization="packed(factor=2)").synthetic()
    pixels = synthetic.decode().pixels
    assert len(pixels) == 4 + 2 * 4
    assert torch.equal(pixels[:4], context.images)
    assert list(synthetic.stored()) == ["grids"]
    assert len(synthetic.stored()["grids"]) == 2


def test_a_context_is_refined_in_pixels_alone() -> None:
    context = of_classes(finished(), [0])
    with pytest.raises(OptionError, match=r"identity.*packed\(factor=4\)"):
        beginning(
            context,
            refine_context=True,
            images_per_class=1,
            parametrization="packed(factor=4)",
        )
