"""The result of a run: the set as it is, and a header that says how it came about."""

from typing import Any

import pytest
import torch
from small_runs import GO_ON, begun, doing, of_classes

import dd_plugins
from dd_plugins.api import DistilledSet, Teacher, Views
from dd_plugins.engine.finished import finished_set
from dd_plugins.engine.learning import Learning
from dd_plugins.networks.conv import Conv
from dd_plugins.testing import toy_data


def result(learning: Learning, **versions: str) -> DistilledSet:
    """Return the set as it is, after a step at least."""
    if learning.step == 0:
        learning.one_step(GO_ON)
    return finished_set(
        learning.beginning,
        learning.synthetic,
        learning.state,
        learning.step,
        versions,
    )


def test_the_set_is_a_copy_of_what_is_learned() -> None:
    learning = begun(images_per_class=2)
    made = result(learning)
    before = made.images.clone(), made.labels.clone()
    learning.one_step(GO_ON)
    assert torch.equal(made.images, before[0])
    assert torch.equal(made.labels, before[1])
    later = result(learning)
    assert not torch.equal(later.images, made.images)
    assert torch.equal(later.images, learning.synthetic.decode().pixels)
    assert later.images.is_contiguous()
    assert not later.images.requires_grad
    assert (made.header.steps, later.header.steps) == (1, 2)


def test_the_header_says_how_the_set_came_about(tmp_path: Any) -> None:
    learning = begun(
        "clip(dm(real_batch_size=8), max_norm=2.0)",
        images_per_class=2,
        seed=7,
        network="conv(width=4, depth=2)",
    )
    made, data = result(learning, stranger="2.1"), toy_data()
    header = made.header
    assert header.distiller == "clip(dm(real_batch_size=8), max_norm=2.0)"
    assert header.options == {"base": "dm(real_batch_size=8)", "max_norm": "2.0"}
    asked = Conv(width=4, depth=2)
    assert header.network == repr(asked.for_distillation())
    assert header.evaluation_network == repr(asked.for_evaluation())
    assert header.network != header.evaluation_network
    assert (header.seed, header.steps, header.precision) == (7, 1, "float32")
    assert (header.stored_images, header.stored_values) == (4, 4 * 64)
    assert header.class_names == ["0", "1"]
    assert header.dataset.name == "toy"
    assert header.dataset.fingerprint == data.fingerprint
    assert header.dataset.train_images == len(data.train.labels)
    assert header.versions["stranger"] == "2.1"
    assert torch.__version__.startswith(header.versions["torch"])
    assert header.recipe == repr(learning.distiller.recipe(learning.run.task, 4, {}))
    assert (header.context, header.views, header.learned) == (None, None, {})
    loaded = DistilledSet.load(made.save(tmp_path / "set.safetensors"))
    assert loaded.content_hash() == made.content_hash()


@pytest.mark.parametrize("beside", [False, True])
def test_packed_images_are_stored_packed_unless_they_stand_beside_others(
    beside: bool,
) -> None:
    context = None
    if beside:
        whole = dd_plugins.distill(
            toy_data(), "dm(real_batch_size=8)", steps=1, network="mlp(width=4)"
        )
        context = of_classes(whole, [0])
    made = result(begun(context=context, parametrization="packed(factor=2)"))
    assert set(made.stored) == (set() if beside else {"grids"})
    assert len(made) == (1 + 4 if beside else 8)
    assert made.header.stored_images == 2
    assert made.header.parametrization == "packed"


def test_the_method_has_the_last_word_on_labels() -> None:
    def labels(self: Any, state: Any, leaves: Any) -> Any:
        return leaves.labels.flip(1) * 3

    learning = begun(doing(labels=labels))
    assert torch.equal(result(learning).labels, torch.eye(2).flip(1) * 3)
    assert torch.equal(learning.synthetic.decode().labels, torch.eye(2))


def test_a_teacher_labels_the_views_of_what_is_done_alone() -> None:
    asked: list[int] = []

    def teacher(self: Any, state: Any, leaves: Any) -> Teacher:
        asked.append(len(leaves.pixels))
        module = state.run.fresh_network(state.run.generator("teacher"))
        return Teacher([module], Views(count=3, seed=1), 2.0)

    kind = property(lambda self: "probabilities")
    learning = begun(doing(teacher=teacher, label_kind=kind), steps=2)
    unfinished = result(learning)
    assert (asked, unfinished.view_labels, unfinished.header.views) == ([], None, None)
    learning.one_step(GO_ON)
    made = result(learning)
    assert asked == [2]
    assert made.view_labels is not None
    assert made.view_labels.shape == (3, 2, 2)
    assert made.header.views is not None
    assert made.header.views.temperature == 2.0
    assert made.header.views.teacher is None, "the file holds the labels"
