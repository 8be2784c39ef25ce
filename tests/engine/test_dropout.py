"""Networks with dropout: what they make is a function of the seed, as with others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_networks import Dropping

import dd_plugins
from dd_plugins import DistilledSet
from dd_plugins.api import get_recipe
from dd_plugins.hookspecs import RegisterNetwork
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import toy_data
from dd_plugins.testing.toys import Interruption
from dd_plugins.training.kept_networks import train_networks


class Registering:
    @dd_plugins.hookimpl
    def dd_register_networks(self, register: RegisterNetwork) -> None:
        register(Dropping)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))


def plugins(**extra: object) -> Plugins:
    return Plugins(load=[], extra={"registering": Registering(), **extra})


def distilled(spec: str, global_seed: int, **options: Any) -> DistilledSet:
    torch.manual_seed(global_seed)
    usual = {"network": "dropping", "steps": 6, "data": toy_data(validation=0.0)}
    usual |= {"plugins": plugins(), **EXACTLY}
    return dd_plugins.distill(distiller=spec, **usual | options)


EXACTLY: Any = {"device": "cpu", "precision": "float32"}
MTT = "experts=2, snapshot_steps=4, student_steps=3, learn_labels=True"
TEACHER = "teachers=(dropping(),), teacher_recipe=recipe(steps=5)"


@pytest.mark.parametrize(
    "spec",
    [
        "frepo(pool_size=2, max_online_updates=2)",
        "dsa(real_batch_size=16, updates_per_network=3, inner_epochs=2)",
        "dm(real_batch_size=16)",
        f"mtt({MTT}, memory='constant')",
        "metadd(dm(real_batch_size=16), auxiliaries='learning', variant='variance', "
        "networks=(conv(width=4, depth=2), vgg11(width=4)), every=1, start=0)",
    ],
)
def test_a_resumed_run_ends_as_a_whole_one_whatever_others_draw(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distilled(spec, 1)
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "another"))  # all is trained anew
    stopping = plugins(interruption=Interruption(3))
    with pytest.raises(KeyboardInterrupt):
        distilled(spec, 2, out=tmp_path / "run", plugins=stopping)
    resumed = distilled(spec, 3, out=tmp_path / "run", resume=True)
    assert torch.equal(whole.images, resumed.images)
    assert torch.equal(whole.labels, resumed.labels)


def test_constant_memory_differentiates_the_student_that_it_ran() -> None:
    """It computes each step of the student twice, and the masks must be the same."""
    one_step = "experts=2, snapshot_steps=4, student_steps=1"
    first, second = (
        distilled(f"mtt({one_step}, memory={memory!r})", 0, steps=1)
        for memory in ("constant", "unrolled")
    )
    torch.testing.assert_close(first.images, second.images)


def test_a_kept_network_is_a_function_of_its_seed(tmp_path: Path) -> None:
    weights = []
    for number in range(2):
        torch.manual_seed(number)
        (report,) = train_networks(
            toy_data(),
            Dropping(),
            recipe=get_recipe("recipe(steps=20)"),
            device="cpu",
            folder=tmp_path / str(number),
        )
        weights.append(report.module.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name


def test_labels_of_a_teacher_trained_anew_are_those_that_were_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"rded({TEACHER}, factor=1, temperature=1.0, views=views(count=3), "
    data, accuracies = toy_data(validation=0.0), []
    for stored in (True, False):
        made = distilled(
            f"{spec}student=recipe(steps=9), store_labels={stored})", 0, steps=1
        )
        assert (made.view_labels is not None) == stored
        monkeypatch.setenv("DD_CACHE", str(tmp_path / f"cache {stored}"))
        torch.manual_seed(5 + stored)
        recipe = "recipe(steps=5)"
        list(train_networks(data, Dropping(), recipe=recipe, **EXACTLY))
        found = dd_plugins.evaluate(
            made, "dropping", repeats=4, data=data, plugins=plugins(), device="cpu"
        )
        accuracies.append(found.networks[0].accuracies)
    assert accuracies[0] == accuracies[1]
    assert len(set(accuracies[0])) > 1


def test_an_evaluation_leaves_the_global_generator_alone() -> None:
    made = distilled("random", 0)
    found = []
    for number in range(2):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        result = dd_plugins.evaluate(
            made,
            "dropping",
            protocol="recipe(steps=9)",
            repeats=4,
            data=toy_data(validation=0.0),
            plugins=plugins(),
            device="cpu",
        )
        assert torch.equal(torch.get_rng_state(), before)
        found.append(result.networks[0].accuracies)
    assert found[0] == found[1]
