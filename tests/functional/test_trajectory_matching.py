"""Trajectory matching in float64: TESLA's derivative as stated, the exact one as it is.

The student is a small network with a tanh, written out over flat weights.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.functional.trajectory_matching import (
    Match,
    match_in_constant_memory,
    match_unrolled,
)

PIXELS, HIDDEN, CLASSES, IMAGES = 4, 5, 3, 6
SIZES = [PIXELS * HIDDEN, HIDDEN * CLASSES]
STEP_SIZE = torch.tensor(0.3, dtype=torch.float64)


def drawn(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


IMAGES_OF_SET = drawn(IMAGES, PIXELS, seed=0)
LOGITS_OF_SET = drawn(IMAGES, CLASSES, seed=1)
START, TARGET = drawn(sum(SIZES), seed=2), drawn(sum(SIZES), seed=3)


class Student:
    """Each step sees two images; labels are learned."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __call__(self, number: int, weights: Tensor, *, create_graph: bool) -> Tensor:
        first, second = weights.split(SIZES)
        chosen = torch.tensor([number % IMAGES, (number + 1) % IMAGES])
        hidden = torch.tanh(self.images[chosen] @ first.view(PIXELS, HIDDEN))
        logits = hidden @ second.view(HIDDEN, CLASSES)
        loss = F.cross_entropy(logits, self.labels[chosen].softmax(dim=1))
        (gradient,) = torch.autograd.grad(loss, [weights], create_graph=create_graph)
        return gradient


def matched(match, steps: int, mask: Tensor | None = None) -> Match:
    inputs = [IMAGES_OF_SET.clone(), LOGITS_OF_SET.clone()]
    for each in inputs:
        each.requires_grad_()
    found: Match = match(
        Student(*inputs),
        START,
        TARGET,
        step_size=STEP_SIZE,
        steps=steps,
        inputs=inputs,
        mask=mask,
    )
    return found


def loss_of(
    images: Tensor, labels: Tensor, step_size: Tensor, steps: int, mask: Tensor
) -> Tensor:
    """The loss by its definition, differentiable through every step."""
    weights = START.clone().requires_grad_()
    student = Student(images, labels)
    for number in range(steps):
        gradient = student(number, weights, create_graph=True)
        weights = weights - step_size * gradient
    return ((weights - TARGET) * mask).square().sum() / (
        (START - TARGET) * mask
    ).square().sum()


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_constant_memory_gives_the_derivative_that_tesla_states(steps: int) -> None:
    """d/dS of 2/D (a (target - start) + a^2 G) . g_i, weights held fixed, summed."""
    images = IMAGES_OF_SET.clone().requires_grad_()
    labels = LOGITS_OF_SET.clone().requires_grad_()
    student, weights, visited = Student(images, labels), START.clone(), []
    total = torch.zeros_like(START)
    for number in range(steps):
        visited.append(weights)
        gradient = student(number, weights.requires_grad_(), create_graph=False)
        total = total + gradient
        weights = (weights - STEP_SIZE * gradient).detach()
    distance = (START - TARGET).square().sum()
    by_images, by_labels = torch.zeros_like(images), torch.zeros_like(labels)
    for number, point in enumerate(visited):
        gradient = student(number, point.requires_grad_(), create_graph=True)
        along = STEP_SIZE * (TARGET - START) + STEP_SIZE**2 * total
        stated = 2 / distance * (along.detach() @ gradient)
        for whole, part in zip(
            (by_images, by_labels),
            torch.autograd.grad(stated, [images, labels]),
            strict=True,
        ):
            whole += part  # noqa: PLW2901
    step_size = STEP_SIZE.clone().requires_grad_()
    loss = (START - step_size * total - TARGET).square().sum() / distance
    (by_step,) = torch.autograd.grad(loss, [step_size])

    found = matched(match_in_constant_memory, steps)

    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.by_inputs[0], by_images, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.by_inputs[1], by_labels, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.by_step_size, by_step, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_the_unrolled_gradient_is_that_of_the_loss(masked: bool) -> None:
    mask = torch.ones_like(START)
    if masked:
        mask[: SIZES[0]] = 0
    arguments = [IMAGES_OF_SET, LOGITS_OF_SET, STEP_SIZE]
    arguments = [each.clone().requires_grad_() for each in arguments]
    loss = loss_of(*arguments, 5, mask)
    expected = torch.autograd.grad(loss, arguments)

    found = matched(match_unrolled, 5, mask if masked else None)

    torch.testing.assert_close(found.loss, loss.detach())
    derivatives = (*found.by_inputs, found.by_step_size)
    for one, other in zip(derivatives, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda *given: loss_of(*given, 3, mask), arguments, atol=1e-6
    )


def test_both_agree_for_one_step_and_on_the_loss_of_many() -> None:
    exact, constant = (
        matched(match, 1) for match in (match_unrolled, match_in_constant_memory)
    )
    for one, other in zip(exact.by_inputs, constant.by_inputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(exact.by_step_size, constant.by_step_size)
    exact, constant = (
        matched(match, 9) for match in (match_unrolled, match_in_constant_memory)
    )
    torch.testing.assert_close(exact.loss, constant.loss)
    # TESLA leaves out a part of the derivative.
    assert not torch.allclose(exact.by_inputs[0], constant.by_inputs[0], rtol=1e-2)


@pytest.mark.parametrize("step_size", [1e-2, 1e-5])
def test_a_small_step_size_costs_no_digits_in_float32(step_size: float) -> None:
    def match(dtype: torch.dtype) -> Match:
        inputs = [IMAGES_OF_SET.to(dtype), LOGITS_OF_SET.to(dtype)]
        return match_in_constant_memory(
            Student(*(each.requires_grad_() for each in inputs)),
            START.to(dtype),
            TARGET.to(dtype),
            step_size=torch.tensor(step_size, dtype=dtype),
            steps=20,
            inputs=inputs,
        )

    exact = float(match(torch.float64).by_step_size)
    assert float(match(torch.float32).by_step_size) == pytest.approx(exact, rel=1e-4)


def test_a_student_that_stays_has_the_loss_one() -> None:
    found = match_in_constant_memory(
        lambda number, weights, *, create_graph: (weights * IMAGES_OF_SET.sum()) * 0,
        START,
        TARGET,
        step_size=STEP_SIZE,
        steps=2,
        inputs=[IMAGES_OF_SET.requires_grad_()],
    )
    IMAGES_OF_SET.requires_grad_(requires_grad=False)
    assert float(found.loss) == 1.0
