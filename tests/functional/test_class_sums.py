import torch

from dd_plugins.functional.class_sums import class_sums


def test_values_are_added_up_by_class():
    values = torch.arange(8.0).view(4, 2).requires_grad_()

    sums = class_sums(values, torch.tensor([2, 0, 2, 0]), 4)
    sums[2].sum().backward()

    assert sums.tolist() == [[8, 10], [0, 0], [4, 6], [0, 0]]
    assert values.grad.tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]
