"""A step: what it changes, what it refuses, and what of it a checkpoint keeps."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import GO_ON, Told, begun, doing
from torch import Tensor

from dd_plugins.api import AbstractState, FileError, PluginError, Run, RunError
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME
from dd_plugins.engine.learning import Learning
from dd_plugins.engine.restoring import LARGEST


def pixels_of(learning: Learning) -> Tensor:
    return learning.synthetic.decode().pixels.detach().clone()


def test_a_step_moves_the_set_then_the_schedule_then_the_inner_level() -> None:
    told: list[Any] = []

    def schedule(self: Any, optimizer: Any, steps: int) -> Any:
        told.append(steps)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)

    def advance(self: Any, state: Any, leaves: Any, step: int) -> None:
        told.append((step, leaves.pixels.detach().clone(), leaves.pixels.grad))

    learning = begun(doing(schedule=schedule, advance=advance))
    before = pixels_of(learning)
    for step, moved in enumerate((0.5, 0.75)):  # a rate of 0.5, then of 0.25
        figures, wishes = learning.one_step(GO_ON)
        assert figures == {"before": 7.0, "loss": step}
        assert wishes == GO_ON
        torch.testing.assert_close(pixels_of(learning), before - moved)
        number, seen, gradient = told[-1]
        assert (number, gradient) == (step, None)
        assert torch.equal(seen, pixels_of(learning)), "the set after the update"
        assert learning.step == step + 1
    assert told[0] == 3


def giving(loss: float) -> Any:
    return lambda self, *given: (
        Told.accumulate(self, *given) | {"loss": torch.tensor(loss)}
    )


def without_loss(self: Any, *given: Any) -> Any:
    return {"distance": Told.accumulate(self, *given)["loss"]}


def without_gradient(self: Any, state: Any, leaves: Any, *rest: Any) -> Any:
    return {"loss": torch.zeros(())}


def poisoned_labels(self: Any, state: Any, leaves: Any, *rest: Any) -> Any:
    leaves.labels.grad = torch.full_like(leaves.labels, float("inf"))
    return Told.accumulate(self, state, leaves, *rest)


def singular(*given: Any) -> Any:
    raise RunError("the kernel is singular")


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (doing(accumulate=giving(float("nan"))), ["finite", "loss nan"]),
        (doing(accumulate=giving(float("-inf"))), ["finite", "loss -inf"]),
        (doing(accumulate=without_loss), ["loss", "accumulate"]),
        (doing(accumulate=without_gradient), ["gradient", "accumulate"]),
        (Told(gradient=1e30), ["5e+29", "learning rate"]),
        (Told(gradient=-1e30), ["5e+29", "learning rate"]),
        (Told(gradient=1e38, learning_rate=1e20), ["not finite", "loss 0"]),
        (doing(accumulate=singular), ["singular", "learning rate"]),
        (
            doing(
                accumulate=poisoned_labels, learns_labels=property(lambda self: True)
            ),
            ["gradient", "not finite"],
        ),
    ],
)
def test_a_step_that_leads_nowhere_ends_the_run(method: Told, told: list[str]) -> None:
    advanced: list[int] = []
    object.__setattr__(method, "advance", lambda *given: advanced.append(1))
    learning = begun(method)
    rate = learning.schedule.last_epoch
    with pytest.raises(RunError) as refused:
        learning.one_step(GO_ON)
    text = str(refused.value)
    assert [word for word in told if word not in text] == []
    assert "step 0" in text
    assert method.name in text
    assert CHECKPOINT_NAME not in text, "there is none"
    assert (learning.step, learning.schedule.last_epoch, advanced) == (0, rate, [])


@pytest.mark.parametrize(("part", "refused"), [(0.9, False), (1.1, True)])
def test_a_set_may_grow_as_far_as_an_image_can(part: float, refused: bool) -> None:
    learning = begun(Told(gradient=part * LARGEST, learning_rate=1.0))
    if refused:
        with pytest.raises(RunError, match=r"1\.1e\+06"):
            learning.one_step(GO_ON)
    else:
        learning.one_step(GO_ON)
        assert float(pixels_of(learning).abs().max()) > 0.8 * LARGEST


def test_a_failure_names_the_checkpoint_that_is_there(tmp_path: Path) -> None:
    learning = begun(Told(), folder=tmp_path)
    assert CHECKPOINT_NAME not in str(learning.failure("x"))
    (tmp_path / CHECKPOINT_NAME).touch()
    text = str(learning.failure("what has happened"))
    assert text.startswith("what has happened")
    assert str(tmp_path / CHECKPOINT_NAME) in text
    assert "--resume" in text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("value cannot be converted without overflow\nat"), "overflow"),
        (OverflowError("cannot convert float: overflow"), "overflow"),
        (RuntimeError("DataLoader worker (pid 7) is killed"), "workers"),
    ],
)
def test_errors_of_torch_that_a_user_can_mend_say_how(
    error: Exception, told: str
) -> None:
    with (
        pytest.raises(RunError, match=told) as raised,
        begun(Told()).annotated_errors(),
    ):
        raise error
    assert raised.value.__cause__ is error
    assert str(raised.value).isprintable()
    assert "step 0" in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 cannot be multiplied"),
        OverflowError("int too large"),
        ValueError("overflow"),
    ],
)
def test_errors_that_nobody_foresaw_keep_their_type_and_tell_the_step(
    error: Exception,
) -> None:
    with pytest.raises(type(error)) as raised, begun(Told()).annotated_errors():
        raise error
    assert raised.value is error
    (note,) = error.__notes__
    assert note.startswith("at step 0 of told")


SPECS = [
    "frepo(pool_size=2, real_batch_size=16, max_online_updates=2)",
    "dsa(real_batch_size=8)",
    "dm(real_batch_size=8, momentum=0.9)",
]


@pytest.mark.parametrize("parametrization", ["identity", "packed(factor=2)"])
@pytest.mark.parametrize("spec", SPECS)
def test_a_run_goes_on_from_what_it_was(spec: str, parametrization: str) -> None:
    options: dict[str, Any] = {"parametrization": parametrization, "steps": 5}
    whole, other = begun(spec, **options), begun(spec, **options)
    for _ in range(2):
        whole.one_step(GO_ON)
    whole.seconds = 1.5
    saved = copy.deepcopy(whole.state_dict(whole.own_state()))
    other.load_state_dict(copy.deepcopy(saved))
    assert (other.step, other.seconds) == (2, 1.5)
    for _ in range(3):
        assert whole.one_step(GO_ON)[0] == other.one_step(GO_ON)[0]
    one, same = whole.synthetic.decode(), other.synthetic.decode()
    assert torch.equal(one.pixels, same.pixels)
    assert torch.equal(one.labels, same.labels)
    third = begun(spec, **options)
    for _ in range(5):
        third.one_step(GO_ON)
    assert torch.equal(third.synthetic.decode().pixels, same.pixels)


def test_a_finished_run_is_restored_as_it_ended() -> None:
    whole, other = begun("dm(real_batch_size=8)"), begun("dm(real_batch_size=8)")
    for _ in range(3):
        whole.one_step(GO_ON)
    other.load_state_dict(copy.deepcopy(whole.state_dict(whole.own_state())))
    assert other.step == other.run.steps
    assert torch.equal(pixels_of(other), pixels_of(whole))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"step": 4}, r"step.*3.*4"),
        ({"step": -1}, "-1"),
        ({"step": True}, "True"),
        ({"step": 1.0}, r"1\.0"),
        ({"seconds": 2}, "seconds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"seconds": -0.5}, r"seconds .*-0\.5"),
        ({"synthetic": {}}, "synthetic"),
        ({"optimizer": {}}, "param_groups"),
        ({"schedule": []}, "foreign"),
    ],
)
def test_a_refused_checkpoint_changes_nothing(
    changed: dict[str, Any], told: str
) -> None:
    whole, other = begun("dm(real_batch_size=8)"), begun("dm(real_batch_size=8)")
    whole.one_step(GO_ON)
    saved = copy.deepcopy(whole.state_dict(whole.own_state())) | changed
    before = pixels_of(other)
    with pytest.raises(FileError, match=told):
        other.load_state_dict(saved)
    assert (other.step, other.seconds) == (0, 0.0)
    assert torch.equal(pixels_of(other), before)
    other.one_step(GO_ON)
    assert torch.equal(pixels_of(other), pixels_of(whole)), "as if nobody had tried"


class Counting(AbstractState):
    """A state whose parts are put together by adding."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": 2}

    def load_state_dict(self, state: Any) -> None:
        del state

    def merge(self, parts: Any) -> dict[str, Any]:
        return {"count": sum(part["count"] for part in parts), "of": len(parts)}


def test_the_state_is_put_together_where_it_is_written(tmp_path: Path) -> None:
    def setup(self: Any, run: Run, real: Any) -> Counting:
        return Counting(run)

    assert begun(doing(setup=setup)).whole_state() is None, "nobody writes it"
    learning = begun(doing(setup=setup), folder=tmp_path)
    assert learning.own_state() == {"count": 2}
    assert learning.whole_state() == {"count": 2, "of": 1}
    learning.state.merge = list  # type: ignore
    with pytest.raises(PluginError, match="merge"):
        learning.whole_state()
