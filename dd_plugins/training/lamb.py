"""LAMB, an optimizer missing from torch."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

__all__ = ["LAMB"]


class LAMB(torch.optim.Optimizer):
    """Adam, with the step on each tensor scaled to the tensor's norm.

    A step moves a tensor by ``learning_rate * ||tensor||`` in Adam's direction, with
    bias correction and without clamping. Norms are Frobenius norms over the whole
    tensor; where either norm is zero, the scale is one.

    Args:
        parameters: tensors or parameter groups.
        lr: the learning rate, relative to the norm of each tensor; not negative.
        betas: the decay rates of the two moments, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: the weight decay, added before the scaling; not negative.

    Reference: You et al., "Large Batch Optimization for Deep Learning: Training BERT in
    76 minutes", ICLR 2020, arXiv 1904.00962, algorithm 2.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ValueError(
                f"lr, eps and weight_decay must not be negative, "
                f"got {lr}, {eps} and {weight_decay}"
            )
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every tensor with a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, self.state[parameter], group)
        return loss

    @staticmethod
    def _update(tensor: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(tensor)
            state["exp_avg_sq"] = torch.zeros_like(tensor)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(tensor.grad, 1 - beta1)
        square.mul_(beta2).addcmul_(tensor.grad, tensor.grad, value=1 - beta2)

        mean_hat = mean / (1 - beta1 ** state["step"])
        root = (square / (1 - beta2 ** state["step"])).sqrt()
        direction = mean_hat / root.add_(group["eps"])
        if group["weight_decay"]:
            direction.add_(group["weight_decay"] * tensor)
        tensor_norm, direction_norm = tensor.norm(), direction.norm()
        scaled = tensor_norm / direction_norm
        usable = (tensor_norm > 0) & (direction_norm > 0)
        ratio = torch.where(usable, scaled, 1.0)
        tensor.sub_(group["lr"] * ratio * direction)
