"""How networks are trained on a set: by a name, a recipe, or the set's own."""

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from made_sets import made_set, with_header
from torch import Tensor, nn

from dd_plugins import get_network
from dd_plugins.errors import OptionError
from dd_plugins.networks.mlp import MLP
from dd_plugins.plugins.manager import loaded_plugins
from dd_plugins.spec import record
from dd_plugins.synthetic.header import TeacherRecord, ViewsRecord
from dd_plugins.synthetic.views import Views
from dd_plugins.training.protocols import (
    MOST_STEPS,
    as_protocol,
    recipe_for,
    training_set_of,
)
from dd_plugins.training.recipes import (
    Recipe,
    frepo_recipe,
    get_recipe,
    training_steps,
)
from dd_plugins.training.teacher import Teacher

CPU = torch.device("cpu")
BUILT_IN = set(loaded_plugins().names()["network"]) - {"factory", "timm"}
OWN = "recipe(steps=30, learning_rate=0.5, mix='mixup')"


def test_a_set_s_own_recipe_is_taken_unless_another_is_named() -> None:
    made = made_set(recipe=OWN)
    for protocol in ("auto", "retrieval"):
        assert recipe_for(made, protocol) == get_recipe(OWN)  # type: ignore[arg-type]
    assert recipe_for(made, "frepo") == frepo_recipe(6)
    other = Recipe(steps=8)
    assert recipe_for(made, other) is other
    assert as_protocol(other) is other


def test_a_set_may_ask_for_as_many_steps_as_its_size_allows() -> None:
    small, large = made_set(), made_set(count=2_001)
    assert frepo_recipe(len(large)).steps == 40_000
    for made, most in ((small, MOST_STEPS), (large, 400_000)):
        allowed = with_header(made, recipe=f"recipe(steps={most})")
        assert recipe_for(allowed).steps == most
        endless = with_header(made, recipe=f"recipe(steps={most + 1})")
        with pytest.raises(OptionError, match=f"{most + 1:,}.*{most:,}"):
            recipe_for(endless)
        named = as_protocol(f"recipe(steps={most + 1})")
        assert recipe_for(endless, named) == named, "a person may ask for it"


@pytest.mark.parametrize("own", ["recipe(steps=0)", "recipe(steps=3, new=1)", "other"])
def test_a_recipe_that_this_version_does_not_know_is_refused(own: str) -> None:
    with pytest.raises(OptionError, match=r"steps|new|other"):
        recipe_for(made_set(recipe=own))
    assert recipe_for(made_set(recipe=own), "classic").steps == 1_000


def test_the_training_set_is_the_set_s_tensors_and_meaning() -> None:
    made = made_set(mirror=True, label_kind="probabilities")
    found = training_set_of(made, device=CPU)
    assert torch.equal(found.images[:], made.images)
    assert found.images[:].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.labels, made.labels)
    assert (found.label_kind, found.mirror) == ("probabilities", True)
    assert found.views is None


def test_views_are_labelled_by_what_is_there() -> None:
    class Undecided(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 3)

    teach = Teacher([Undecided()], Views(count=2, seed=4))
    record: dict[str, Any] = {"views": "views(count=2, seed=4)", "temperature": 1.0}
    kept = TeacherRecord(network="mlp", recipe="recipe(steps=1)")
    absent = made_set(views=ViewsRecord(**record, teacher=kept))
    labels = torch.rand(2, 6, 3).half()
    stored = replace(made_set(views=ViewsRecord(**record)), view_labels=labels)

    assert training_set_of(absent, device=CPU).views is None
    for made, expected in (
        (absent, torch.full((6, 3), 1 / 3).half()),
        (stored, labels[1]),
    ):
        views = training_set_of(made, device=CPU, teacher=teach).views
        assert views is not None
        assert repr(views.views) == "views(count=2, seed=4)"
        _, found = views.of(made.images, torch.arange(6), 1)
        assert torch.equal(found, expected.float()), "stored labels go before"
    assert training_set_of(made_set(), device=CPU, teacher=teach).views is None


@record
class _Own(MLP):
    """A network that says how it is trained."""

    name = "own"
    few_images_recipe: ClassVar[str] = (
        "recipe(steps=600, learning_rate=0.02, warm_up=60, optimizer='adamw', "
        "weight_decay=0.1, augmentation='crop', mix='cutmix')"
    )


def test_the_recipe_of_a_family_is_for_its_networks_and_the_number_of_images() -> None:
    hundred, few = made_set(count=100), made_set(count=10)
    own = get_recipe(_Own.few_images_recipe)
    assert recipe_for(hundred, "family", _Own()) == own
    fewer = recipe_for(few, "family", _Own())
    assert fewer == replace(own, steps=300, warm_up=30)  # FRePo's 1,000 to 2,000
    assert as_protocol("family") == "family"


def test_a_network_without_a_recipe_takes_the_set_s() -> None:
    made = made_set(recipe=OWN)

    @record
    class Silent(MLP):
        name = "silent"
        few_images_recipe: ClassVar[str] = ""

    assert recipe_for(made, "family", Silent()) == get_recipe(OWN)
    assert recipe_for(made, "family") == get_recipe(OWN)
    assert recipe_for(made, "auto", _Own()) == get_recipe(OWN)


def test_a_family_leaves_the_labels_of_views_as_they_were_made() -> None:
    views = ViewsRecord(views=repr(Views(count=2)), temperature=4.0)
    taught = "recipe(steps=100, temperature=4.0, augmentation='none')"
    made = with_header(made_set(recipe=taught), views=views)
    found = recipe_for(made, "family", _Own())
    assert (found.temperature, found.augmentation, found.mix) == (4.0, "none", "none")
    assert (found.steps, found.warm_up) == (100, 10)
    assert (found.optimizer, found.learning_rate) == ("adamw", 0.02)


def test_built_in_families_have_recipes() -> None:
    found = {name: get_network(name).few_images_recipe for name in BUILT_IN}
    without = {name for name, spec in found.items() if not spec}
    assert without == {"mobilenet_v2"}, "docs/benchmarks/transfer.md says so"
    for spec in found.values():
        if spec:
            assert get_recipe(spec).steps == training_steps(100)
