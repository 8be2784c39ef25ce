r"""The loss of trajectory matching, and two ways to compute its gradient.

A student starts at the weights :math:`\theta_0` of an expert and takes N steps of
gradient descent on the synthetic set. Its final weights are compared with the weights
of the expert some epochs later, :math:`\theta^*`:

.. math:: \theta_N = \theta_0 - a \sum_{i<N} g_i, \qquad
    L = \frac{\|\theta_N - \theta^*\|^2}{\|\theta_0 - \theta^*\|^2}

Here :math:`g_i` is the gradient of the student's loss at :math:`\theta_i` on the
images of its step i, and a is the step size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Gradient", "Match", "match_in_constant_memory", "match_unrolled"]


class Gradient(Protocol):
    """The gradient g_i of the student's loss."""

    def __call__(self, number: int, weights: Tensor, *, create_graph: bool) -> Tensor:
        """Return the gradient, ``(parameters,)``.

        Args:
            number: i, the number of the student's step.
            weights: flat weights, ``(parameters,)``, with gradients enabled.
            create_graph: whether the result can be differentiated by the inputs and by
                the weights.
        """
        ...


@dataclass(frozen=True)
class Match:
    """The loss of a match, and its derivatives.

    Attributes:
        loss: the loss, 0-d; 1 for a student still at its start.
        by_inputs: derivatives by the inputs, such as images.
        by_step_size: derivative by the step size, 0-d.
    """

    loss: Tensor
    by_inputs: tuple[Tensor, ...]
    by_step_size: Tensor


def match_in_constant_memory(
    gradient: Gradient,
    start: Tensor,
    target: Tensor,
    *,
    step_size: Tensor,
    steps: int,
    inputs: Sequence[Tensor],
    mask: Tensor | None = None,
) -> Match:
    r"""Match with the graph of one step in memory at a time.

    The derivative is TESLA's. Each :math:`g_i` depends on the images of its own step;
    the dependence of the weights :math:`\theta_i` on the images of earlier steps is
    left out:

    .. math:: \frac{dL}{dS} = \sum_{i<N} -\frac{2a}{D}\,
        \bigl\langle \theta_N - \theta^*,\ \partial g_i(S;\theta_i) / \partial S
        \bigr\rangle, \qquad
        \frac{dL}{da} = -\frac{2}{D} \Bigl\langle \theta_N - \theta^*,\
        \sum_{i<N} g_i \Bigr\rangle

    with :math:`D = \|\theta_0 - \theta^*\|^2`. A first pass takes the steps and keeps
    their weights; a second pass computes each :math:`g_i` again, with its graph.

    Args:
        gradient: gradient of the student's loss.
        start: weights of the expert, ``(parameters,)``.
        target: later weights of the expert, ``(parameters,)``.
        step_size: the student's step size, 0-d, positive.
        steps: the student's steps N, at least 1.
        inputs: tensors to differentiate by; :math:`g_i` depends on them.
        mask: 1 for each compared weight, else 0; None to compare all.

    Reference: Cui, Wang, Si, Hsieh, "Scaling Up Dataset Distillation to ImageNet-1K
    with Constant Memory" (TESLA), ICML 2023, arXiv 2211.10586, section 4.
    """
    start, step = start.detach(), step_size.detach()
    visited, weights, total = [], start, torch.zeros_like(start)
    for number in range(steps):
        visited.append(weights)
        point = weights.clone().requires_grad_()
        found = gradient(number, point, create_graph=False).detach()
        weights = weights - step * found
        total = total + found
    apart = _compared(weights - target, mask)
    distance = _compared(start - target, mask).square().sum()
    along = (-2 * step / distance) * apart
    sums = [torch.zeros_like(each) for each in inputs]
    for number, weights in enumerate(visited):
        point = weights.clone().requires_grad_()
        found = gradient(number, point, create_graph=True)
        parts = torch.autograd.grad(found @ along, inputs)
        sums = [each + part for each, part in zip(sums, parts, strict=True)]
    return Match(
        apart.square().sum() / distance,
        tuple(sums),
        -2 * (apart @ total) / distance,
    )


def match_unrolled(
    gradient: Gradient,
    start: Tensor,
    target: Tensor,
    *,
    step_size: Tensor,
    steps: int,
    inputs: Sequence[Tensor],
    mask: Tensor | None = None,
) -> Match:
    """Match with the graph of all steps in memory.

    The arguments are those of the match in constant memory. The derivative is exact,
    and memory grows with the number of steps.

    Reference: Cazenavette et al., "Dataset Distillation by Matching Training
    Trajectories", CVPR 2022, arXiv 2203.11932, algorithm 1.
    """
    step = step_size.detach().requires_grad_()
    weights = start.detach().clone().requires_grad_()
    for number in range(steps):
        weights = weights - step * gradient(number, weights, create_graph=True)
    apart = _compared(weights - target, mask)
    distance = _compared(start.detach() - target, mask).square().sum()
    loss = apart.square().sum() / distance
    *found, by_step = torch.autograd.grad(loss, [*inputs, step])
    return Match(loss.detach(), tuple(found), by_step)


def _compared(difference: Tensor, mask: Tensor | None) -> Tensor:
    return difference if mask is None else difference * mask
