import copy

import numpy as np
import pytest
import torch

from dd_plugins.training.lamb import LAMB


def _tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    ]


class _NaiveLAMB:
    """Algorithm 2 of arXiv 1904.00962, with numpy, one tensor at a time."""

    def __init__(self, tensors, lr, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0):
        self.tensors = [tensor.numpy().copy() for tensor in tensors]
        self.first = [0.0 * tensor for tensor in self.tensors]
        self.second = [0.0 * tensor for tensor in self.tensors]
        self.lr, self.betas, self.eps, self.decay = lr, betas, eps, weight_decay
        self.time = 0

    def step(self, gradients):
        self.time += 1
        beta1, beta2 = self.betas
        for i, gradient in enumerate(gradients):
            self.first[i] = beta1 * self.first[i] + (1 - beta1) * gradient
            self.second[i] = beta2 * self.second[i] + (1 - beta2) * gradient**2
            first = self.first[i] / (1 - beta1**self.time)
            second = self.second[i] / (1 - beta2**self.time)
            update = first / (np.sqrt(second) + self.eps) + self.decay * self.tensors[i]
            ratio = np.sqrt((self.tensors[i] ** 2).sum()) / np.sqrt((update**2).sum())
            self.tensors[i] = self.tensors[i] - self.lr * ratio * update


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 3e-4},
        {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-2},
        {"lr": 0.01, "weight_decay": 0.1},
    ],
)
def test_twenty_steps_equal_a_naive_implementation(options):
    parameters = _tensors((4, 3, 2), (5,))
    parameters[1] *= 100
    naive = _NaiveLAMB(parameters, **options)
    optimizer = LAMB(parameters, **options)

    for step in range(20):
        gradients = _tensors((4, 3, 2), (5,), seed=1 + step)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        naive.step([gradient.numpy() for gradient in gradients])

    for parameter, expected in zip(parameters, naive.tensors, strict=True):
        np.testing.assert_allclose(parameter.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gradient_scale", [1e-3, 1e6])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_a_step_moves_a_tensor_by_the_learning_rate_times_its_norm(
    scale, gradient_scale
):
    (tensor,), (gradient,) = _tensors((6, 5)), _tensors((6, 5), seed=1)
    tensor, before = scale * tensor, scale * tensor
    tensor.grad = gradient_scale * gradient

    LAMB([tensor], lr=0.01).step()

    moved = (tensor - before).norm() / before.norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-9)


def test_all_rows_of_a_tensor_share_one_trust_ratio():
    tensor = torch.tensor([[1000.0, 1000.0], [1e-3, 1e-3]])
    before, tensor.grad = tensor.clone(), torch.tensor([[1.0, -1.0], [7.0, 7.0]])

    LAMB([tensor], lr=0.01, eps=0.0).step()

    # Adam's first step is as long in each coordinate: here 0.01 * ||tensor|| / 2.
    length = 0.01 * before.norm().item() / 2
    expected = before - length * torch.tensor([[1.0, -1.0], [1.0, 1.0]])
    torch.testing.assert_close(tensor, expected)


def test_every_tensor_has_its_own_trust_ratio():
    small, large = torch.full((3,), 0.01), torch.full((3,), 100.0)
    small.grad, large.grad = torch.ones(3), torch.ones(3)

    LAMB([small, large], lr=0.1).step()

    torch.testing.assert_close(small, torch.full((3,), 0.009))
    torch.testing.assert_close(large, torch.full((3,), 90.0))


def test_a_zero_tensor_takes_an_unscaled_step():
    tensor = torch.zeros(3)
    tensor.grad = torch.tensor([2.0, -0.5, 0.0])

    LAMB([tensor], lr=0.1, eps=1e-12).step()

    torch.testing.assert_close(tensor, torch.tensor([-0.1, 0.1, 0.0]))


def test_a_tensor_with_a_zero_gradient_stays():
    tensor = torch.ones(3)
    tensor.grad = torch.zeros(3)

    LAMB([tensor], lr=0.1).step()

    assert torch.equal(tensor, torch.ones(3))


def test_a_tensor_without_a_gradient_stays():
    moved, left = torch.ones(2), torch.ones(2)
    moved.grad = torch.ones(2)

    LAMB([moved, left], lr=0.1).step()

    assert not torch.equal(moved, torch.ones(2))
    assert torch.equal(left, torch.ones(2))


def test_a_restored_state_continues_as_if_uninterrupted():
    (tensor,) = _tensors((4, 3))
    optimizer = LAMB([tensor], lr=0.02, betas=(0.8, 0.9))
    gradients = _tensors(*6 * [(4, 3)], seed=1)
    for gradient in gradients[:3]:
        tensor.grad = gradient
        optimizer.step()
    copied = tensor.clone()
    restored = LAMB([copied])
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    for gradient in gradients[3:]:
        tensor.grad = copied.grad = gradient
        optimizer.step()
        restored.step()

    assert torch.equal(copied, tensor)


def test_groups_have_their_own_learning_rate():
    first, second = torch.ones(2), torch.ones(2)
    first.grad, second.grad = torch.ones(2), torch.ones(2)

    LAMB([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1).step()

    torch.testing.assert_close(first, torch.full((2,), 0.9))
    torch.testing.assert_close(second, torch.full((2,), 0.5))


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    parameter = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = LAMB([parameter], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 9.0
    assert parameter.item() == pytest.approx(2.7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "must not be negative, got -1.0"),
        ({"eps": -1e-6}, "must not be negative"),
        ({"weight_decay": -0.1}, "must not be negative"),
        ({"betas": (1.0, 0.999)}, r"betas must be in \[0, 1\)"),
        ({"betas": (0.9, -0.1)}, r"betas must be in \[0, 1\)"),
    ],
)
def test_arguments_out_of_range_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        LAMB([torch.ones(1)], **options)
