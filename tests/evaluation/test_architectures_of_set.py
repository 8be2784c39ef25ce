"""No architecture that took part in a set is held out, whoever brought it."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_in_two_processes

import dd_plugins
from dd_plugins import DistilledSet, get_network
from dd_plugins.api import (
    AbstractState,
    AbstractWrapper,
    Leaves,
    Metrics,
    RealSampler,
    Run,
    record,
    relabel,
)
from dd_plugins.evaluation.architectures_of_set import architectures_of
from dd_plugins.evaluation.cross_architecture import transfer
from dd_plugins.hookspecs import RegisterWrapper, hookimpl
from dd_plugins.plugins.manager import Plugins
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.testing import toy_data

BASE = "frepo(pool_size=2)"
OWN = "conv(width=4, depth=2)"
SEVERAL = "networks=(vgg11(width=4), dc_convnet(width=4, depth=1))"
OTHERS = f"{SEVERAL}, stages=(2,)"


@record
class Probe(AbstractWrapper):
    """A stranger's: at one step it looks by a network that it names nowhere."""

    name = "probe"

    at: int = 1

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the network's mean output."""
        if step == self.at:
            shape = leaves.pixels.shape
            module = get_network("alexnet(width=8)").build(
                (shape[1], shape[2], shape[3]), 2, generator=generator_for(0, "probe")
            )
            (gradient,) = torch.autograd.grad(
                module.eval()(leaves.pixels).mean(), [leaves.pixels]
            )
            assert leaves.pixels.grad is not None
            leaves.pixels.grad += gradient
        return {}


@record
class Second(Probe):
    """Another: only one of two processes builds its network, in ``setup``."""

    name = "second"

    at: int = -1

    def setup(self, run: Run, real: RealSampler) -> AbstractState:
        """Build a network in the second process alone."""
        if run.rank == 1:
            run.fresh_network(run.generator("second"), get_network("mlp(width=4)"))
        return super().setup(run, real)


@hookimpl
def dd_register_wrappers(register: RegisterWrapper) -> None:
    """Offer both."""
    register(Probe)
    register(Second)


PLUGINS = Plugins(load=[], extra={"probe": sys.modules[__name__]})


def others_of(made: DistilledSet) -> set[str]:
    found = architectures_of(made, PLUGINS.distiller, PLUGINS.network)
    assert found.own == "conv"
    return set(found.others)


def distilled(spec: str, **options: object) -> DistilledSet:
    given = {"steps": 3, "network": OWN, "plugins": PLUGINS} | options
    return dd_plugins.distill(toy_data(), spec, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "others"),
    [
        (BASE, set()),
        ("frepo(pool_size=2, pool_networks=(mlp(width=4),))", {"mlp"}),
        (f"metadd({BASE}, {OTHERS})", {"vgg11", "dc_convnet"}),
        (f"metadd({BASE}, {SEVERAL}, variant='gradients')", {"vgg11", "dc_convnet"}),
        (f"clip(metadd({BASE}, {OTHERS}, start=1))", {"vgg11", "dc_convnet"}),
        (
            "rded(teachers=(resnet18(width=4, normalization='batch'),), "
            "teacher_recipe=recipe(steps=2))",
            {"resnet18"},
        ),
        (f"probe({BASE})", {"alexnet"}),
        (f"probe({BASE}, at=9)", set()),  # it never looked
        (f"clip(probe({BASE}))", {"alexnet"}),
    ],
)
def test_pools_auxiliaries_teachers_and_probes_took_part(
    spec: str, others: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    made = distilled(spec)
    if spec.startswith("rded"):  # no network but the teacher shaped it
        assert made.header.architectures == ["resnet18"]
        return
    assert others_of(made) == others
    assert made.header.architectures == sorted({"conv", *others})
    loaded = DistilledSet.load(made.save(tmp_path / "set"))
    assert others_of(loaded) == others
    # Where the plugin is not installed, the file alone says it.
    found = architectures_of(loaded, dd_plugins.get_distiller, dd_plugins.get_network)
    assert found.others == others


def test_a_report_never_lists_them_as_held_out(tmp_path: Path) -> None:
    made = distilled(f"probe({BASE})")
    (report,) = transfer(
        [made],
        ["alexnet(width=8)", "mlp(width=4)"],
        repeats=1,
        protocol="recipe(steps=2)",
        data=toy_data(),
    ).sets
    assert report.roles == ("distilled with", "seen", "held out")


def test_what_labels_a_set_later_took_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    made = distilled(BASE)
    few: dict[str, Any] = {"data": toy_data(), "views": "views(count=2)"}
    taught = relabel(made, "mlp(width=4)", teacher_recipe="recipe(steps=2)", **few)
    assert others_of(taught) == {"mlp"}
    module = get_network("vgg11(width=4)").build(
        (1, 8, 8), 2, generator=generator_for(0, "teacher")
    )
    given = relabel(made, module.eval(), **few)
    assert others_of(given) == {"vgg11"}
    inside = torch.nn.Sequential(torch.nn.Identity(), module).eval()
    assert others_of(relabel(made, inside, **few)) == {"vgg11"}

    class Stranger(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :2]

    taught = relabel(made, Stranger().eval(), **few)
    assert others_of(taught) == {"Stranger"}


def test_what_made_the_context_took_part() -> None:
    first = distilled(f"probe({BASE})")
    refined = distilled(BASE, context=first, refine_context=True)
    again = distilled(BASE, context=refined, refine_context=True)
    assert others_of(refined) == others_of(again) == {"alexnet"}
    assert again.header.architectures == ["conv"]


def test_a_run_that_goes_on_remembers_them(tmp_path: Path) -> None:
    whole = distilled(f"probe({BASE}, at=0)", out=tmp_path / "whole")

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    class Stops:
        """Stops the run after its second step."""

        @hookimpl
        def dd_after_step(self, step: int) -> None:
            stop(step)

    stopping = Plugins(
        load=[], extra={"probe": sys.modules[__name__], "stops": Stops()}
    )
    with pytest.raises(KeyboardInterrupt):
        distilled(f"probe({BASE}, at=0)", out=tmp_path / "run", plugins=stopping)
    resumed = distilled(f"probe({BASE}, at=0)", out=tmp_path / "run", resume=True)
    assert resumed.header.architectures == ["alexnet", "conv"]
    assert resumed.content_hash() == whole.content_hash()


TWO = """
import sys
sys.path[:0] = sys.argv[2:]
import dd_plugins
from dd_plugins.runtime import processes
from dd_plugins.testing import toy_data
import test_architectures_of_set as plugin

with processes.process_group():
    made = dd_plugins.distill(
        toy_data(), "second(dm(real_batch_size=16))", steps=2,
        network="conv(width=4, depth=2)", precision="float32", plugins=plugin.PLUGINS,
        out=sys.argv[1],
    )
"""


def test_all_processes_of_a_run_tell_theirs(tmp_path: Path) -> None:
    here = Path(__file__).parent
    run_in_two_processes(TWO, tmp_path / "run", here, here.parent, folder=tmp_path)
    made = DistilledSet.load(tmp_path / "run")
    assert made.header.architectures == ["conv", "mlp"]


def test_sets_of_older_files_are_read_by_their_method() -> None:
    made = distilled(f"metadd({BASE}, {SEVERAL}, variant='gradients')")
    header = made.header.model_copy(update={"architectures": None, "format_version": 6})
    older = replace(made, header=header)
    assert others_of(older) == {"vgg11", "dc_convnet"}
    spec = header.distiller.replace("metadd(", "unknown(metadd(", 1) + ")"
    foreign = header.model_copy(update={"distiller": spec})
    assert others_of(replace(made, header=foreign)) == {"vgg11", "dc_convnet"}
    spec = "unknown(auxiliaries=(timm('resnet18'), vgg11(width=4)))"
    foreign = header.model_copy(update={"distiller": spec})
    assert others_of(replace(made, header=foreign)) == {"timm('resnet18')", "vgg11"}
    assert relabel(
        older,
        get_network("mlp(width=4)")
        .build((1, 8, 8), 2, generator=generator_for(0, "teacher"))
        .eval(),
        data=toy_data(),
    ).header.architectures == ["mlp"]
