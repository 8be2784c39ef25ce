"""What a run is asked for, and what a distiller is told of it."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run, RunOptions, Task

CPU = torch.device("cpu")

UNUSUAL = RunOptions(
    distiller="dm",
    images_per_class=3,
    steps=7,
    seed=-2,
    network="mlp",
    initial_images="noise",
    parametrization="packed",
    preprocessing="zca",
    mirror=False,
    precision="bfloat16",
    refine_context=True,
)


def test_arguments_ask_for_the_same_run() -> None:
    usual = RunOptions()
    for each in fields(RunOptions):
        value = getattr(UNUSUAL, each.name)
        assert value != getattr(usual, each.name), f"{each.name} shows nothing here"
        one = replace(usual, **{each.name: value})
        assert one.arguments() == usual.arguments() | {each.name: value}
        assert RunOptions(**one.arguments()) == one
    assert RunOptions(**UNUSUAL.arguments()) == UNUSUAL


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("images_per_class", value) for value in (0, -1, 1.0, True, None, "2")),
        *(("steps", value) for value in (0, -5, 2.5, False, "3")),
        *(("seed", value) for value in (None, 1.5, True, "4")),
    ],
)
def test_a_number_that_is_none_or_too_small_is_named(option: str, value: Any) -> None:
    with pytest.raises(OptionError) as refused:
        replace(UNUSUAL, **{option: value})
    assert option in str(refused.value)
    assert repr(value) in str(refused.value)


def test_images_of_a_set_are_those_begun_and_those_of_a_context() -> None:
    task = Task("toy", (1, 4, 4), 10, 3)
    assert task.synthetic_images == 30
    beside = replace(task, context_images=20)
    assert beside.synthetic_images == 50
    grown = replace(beside, context_classes=8)
    assert grown.synthetic_images == 20 + 2 * 3
    assert replace(grown, context_classes=10).synthetic_images == 20


def run(**options: Any) -> Run:
    task = Task("toy", (3, 8, 8), 4, 1)
    return Run(
        task, "dm", Conv(width=4, depth=2), 5, **({"seed": 1, "device": CPU} | options)
    )


def drawn(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def test_processes_of_a_run_draw_together_or_each_for_itself() -> None:
    runs = [run(rank=rank, ranks=3) for rank in range(3)]
    together = {drawn(each.generator("noise", 2)) for each in runs}
    alone = [drawn(each.own_generator("noise", 2)) for each in runs]
    assert len(together) == 1
    assert len({*alone}) == 3
    assert alone[0] in together, "a run of one process has no other draws"
    others = (
        run().own_generator("noise", 3),
        run().own_generator("else", 2),
        run(seed=2).own_generator("noise", 2),
    )
    assert len({drawn(each) for each in others} | {*alone}) == 6


def test_fresh_networks_are_a_function_of_their_generator() -> None:
    def weights(*network: Any) -> list[Tensor]:
        made = run().fresh_network(run().generator("weights"), *network)
        assert made(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
        return [each.detach() for each in made.parameters()]

    one, other = weights(), weights()
    assert all(map(torch.equal, one, other))
    kernel = next(each for each in one if each.ndim == 4)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    layers = [each.shape for each in weights(MLP(width=5))]
    assert layers != [each.shape for each in one], "another than the run's, if given"
    assert torch.Size((5, 192)) in layers


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_features_are_computed_in_the_precision_of_the_run(
    precision: torch.dtype,
) -> None:
    matrix = torch.ones(2, 2)
    with run(precision=precision).autocast():
        assert (matrix @ matrix).dtype == precision
    assert (matrix @ matrix).dtype == torch.float32
