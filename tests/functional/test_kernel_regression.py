import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.special
import torch
from sklearn.kernel_ridge import KernelRidge

from dd_plugins.errors import OptionError, RunError
from dd_plugins.functional import kernel_regression
from dd_plugins.functional.kernel_regression import (
    calibrated_cross_entropy,
    centred_targets,
    half_squared_error,
    kernel_ridge_regression,
    margin_loss,
    ridge_regression,
)


def _problem(n, d, batch=7, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in [(n, d), (n, classes), (batch, d)]
    )


def _dense_solve(syn_features, syn_targets, features, ridge):
    x, y, t = (each.double().numpy() for each in (syn_features, syn_targets, features))
    kernel = np.array([[np.dot(a, b) for b in x] for a in x])
    kernel += ridge * np.trace(kernel) / len(x) * np.eye(len(x))
    return t @ x.T @ scipy.linalg.solve(kernel, y, assume_a="pos")


@pytest.mark.parametrize("ridge", [1e-6, 1e-2, 0.5])
@pytest.mark.parametrize(("n", "d"), [(5, 12), (20, 4)])
def test_predictions_equal_a_dense_solve(n, d, ridge):
    syn_features, syn_targets, features = _problem(n, d)
    expected = _dense_solve(syn_features, syn_targets, features, ridge)

    predictions = ridge_regression(syn_features, syn_targets, features, ridge=ridge)

    np.testing.assert_allclose(predictions.numpy(), expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("ridge", [1e-6, 1e-1])
def test_predictions_equal_those_of_scikit_learn(ridge):
    syn_features, syn_targets, features = _problem(9, 30)
    alpha = ridge * float(syn_features.square().sum()) / 9
    model = KernelRidge(kernel="linear", alpha=alpha)
    model.fit(syn_features.numpy(), syn_targets.numpy())

    predictions = ridge_regression(syn_features, syn_targets, features, ridge=ridge)

    np.testing.assert_allclose(
        predictions.numpy(), model.predict(features.numpy()), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize(("n", "d"), [(3, 5), (6, 2)])
def test_gradients_equal_finite_differences_in_all_three_tensors(n, d):
    inputs = [tensor.requires_grad_() for tensor in _problem(n, d, batch=2, classes=2)]

    assert torch.autograd.gradcheck(
        lambda *tensors: ridge_regression(*tensors, ridge=1e-2), inputs
    )


def test_without_a_ridge_more_images_than_features_are_least_squares():
    syn_features, syn_targets, features = _problem(9, 4)
    weights, *_ = np.linalg.lstsq(syn_features.numpy(), syn_targets.numpy())

    predictions = ridge_regression(syn_features, syn_targets, features, ridge=0)

    np.testing.assert_allclose(
        predictions.numpy(), features.numpy() @ weights, rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(("n", "d"), [(3, 5), (6, 2)])
def test_a_second_derivative_is_refused(n, d):
    syn_features, syn_targets, features = _problem(n, d)
    syn_features.requires_grad_()
    predictions = ridge_regression(syn_features, syn_targets, features, ridge=1e-2)
    (gradient,) = torch.autograd.grad(
        predictions.square().sum(), [syn_features], create_graph=True
    )

    with pytest.raises(RuntimeError, match="twice"):
        gradient.sum().backward()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("d", [3, 8])
def test_predictions_do_not_depend_on_the_scale_of_the_features(scale, d):
    syn_features, syn_targets, features = _problem(5, d)
    expected = ridge_regression(syn_features, syn_targets, features, ridge=1e-2)

    scaled = ridge_regression(
        scale * syn_features, syn_targets, scale * features, ridge=1e-2
    )

    torch.testing.assert_close(scaled, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("d", [4, 300])
def test_low_precision_features_are_solved_in_float64(dtype, d):
    # 200 images along four directions: were they solved in float32, its rounding would
    # be as large as the ridge.
    directions, syn_targets, _ = _problem(200, 4)
    spread = torch.cat([torch.eye(4).double(), 1e-3 * _problem(4, d - 4)[0]], dim=1)
    syn_features = (directions @ spread).to(dtype)
    features = (_problem(200, 4)[2] @ spread).to(dtype)
    expected = _dense_solve(syn_features, syn_targets, features, 1e-6)

    predictions = ridge_regression(syn_features, syn_targets, features)

    np.testing.assert_allclose(predictions.numpy(), expected, rtol=1e-5, atol=2e-6)


def test_predictions_have_the_dtype_of_the_targets():
    syn_features, syn_targets, features = _problem(4, 6)

    predictions = ridge_regression(
        syn_features.bfloat16(), syn_targets.float(), features.bfloat16()
    )

    assert predictions.dtype == torch.float32


@pytest.mark.parametrize("d", [3, 9])
def test_equal_rows_are_solved_with_a_larger_ridge(monkeypatch, d):
    same = torch.ones(4, d, dtype=torch.float64)
    targets = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)

    predictions = ridge_regression(same, targets, same[:1], ridge=1e-18)

    # The ridge stops just above the rounding of float64, so a few digits are left.
    torch.testing.assert_close(
        predictions, targets.mean(dim=0)[None], rtol=0.2, atol=0.2
    )
    monkeypatch.setattr(kernel_regression, "_JITTER_STEPS", 0)
    with pytest.raises(RunError, match="not positive definite"):
        ridge_regression(same, targets, same[:1], ridge=1e-18)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.0, "not positive definite.* use a larger ridge"),
        (float("nan"), "not finite"),
        (float("inf"), "not finite"),
    ],
)
@pytest.mark.parametrize("d", [3, 7])
def test_a_hopeless_kernel_is_an_error(value, message, d):
    _, syn_targets, features = _problem(4, d)

    with pytest.raises(RunError, match=message):
        ridge_regression(torch.full((4, d), value), syn_targets, features)


@pytest.mark.parametrize("d", [3, 7])
def test_one_nan_among_the_synthetic_features_is_an_error(d):
    syn_features, syn_targets, features = _problem(4, d)
    syn_features[2, 1] = float("nan")

    with pytest.raises(RunError, match="not finite"):
        ridge_regression(syn_features, syn_targets, features)


@pytest.mark.parametrize("num_classes", [2, 10])
def test_centred_targets_are_one_hot_less_their_mean(num_classes):
    labels = torch.tensor([0, num_classes - 1, 1])
    expected = np.eye(num_classes)[labels.numpy()] - 1 / num_classes

    targets = centred_targets(labels, num_classes)

    assert targets.dtype == torch.float32
    np.testing.assert_allclose(targets.numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(targets.sum(dim=1).numpy(), 0, atol=1e-6)


def test_half_squared_error_sums_over_classes_and_averages_over_the_batch():
    predictions, targets, _ = _problem(6, 3, classes=3)
    errors = predictions.numpy() - targets.numpy()
    expected = np.mean([0.5 * np.sum(row**2) for row in errors])

    loss = half_squared_error(predictions.requires_grad_(), targets)
    (gradient,) = torch.autograd.grad(loss, predictions)

    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(gradient, (predictions - targets).detach() / 6)


def _noisy_predictions(noise, *, batch=40, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    right = torch.randint(classes, (batch,), generator=generator)
    disturbed = torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    return centred_targets(right, classes).double() + noise * disturbed, right


def _least_log_loss(predictions, right):
    """Return the least smoothed log loss of any temperature, found by SciPy."""
    values, (batch, classes) = predictions.double().numpy(), predictions.shape
    smoothing = 1 / (batch + 2)
    wanted = (1 - smoothing) * np.eye(classes)[right.numpy()] + smoothing / classes
    spread = np.ptp(values, axis=1).mean()

    def log_loss(exponent):
        logits = 10**exponent * values / spread
        log_sums = scipy.special.logsumexp(logits, axis=1, keepdims=True)
        return np.mean(np.sum(wanted * (log_sums - logits), axis=1))

    best = scipy.optimize.minimize_scalar(
        log_loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-9}
    )
    return best.fun


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_calibrated_cross_entropy_is_the_least_of_any_temperature(noise, classes):
    predictions, right = _noisy_predictions(noise, classes=classes)

    loss = calibrated_cross_entropy(predictions, right)

    assert loss.item() == pytest.approx(_least_log_loss(predictions, right), abs=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("factor", [1e-6, 0.2, 1e6])
def test_calibrated_cross_entropy_does_not_depend_on_the_scale(factor, noise):
    predictions, right = _noisy_predictions(noise)

    scaled = calibrated_cross_entropy(factor * predictions, right)

    torch.testing.assert_close(scaled, calibrated_cross_entropy(predictions, right))


def test_calibrated_cross_entropy_has_the_gradient_of_the_least_loss():
    predictions, right = _noisy_predictions(1.0, batch=6)
    assert 0.5 < calibrated_cross_entropy(predictions, right) < 1.5  # some are wrong

    assert torch.autograd.gradcheck(
        lambda values: calibrated_cross_entropy(values, right),
        [predictions.requires_grad_()],
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_calibrated_cross_entropy_stays_at_the_minimum_that_it_found(dtype):
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        right = torch.randint(10, (16,), generator=generator)
        signal = torch.nn.functional.one_hot(right, 10)
        predictions = torch.randn(16, 10, generator=generator) + 0.5 * signal
        if predictions[signal == 1].mean() < predictions.mean() + 0.05:
            continue  # as wrong as chance: the highest temperature
        predictions = predictions.to(dtype).requires_grad_()
        loss = calibrated_cross_entropy(predictions, right)
        (gradient,) = torch.autograd.grad(loss, predictions)
        # The loss does not depend on the scale, so its gradient has no part along it.
        along = (gradient * predictions).sum().abs()
        assert along < 1e-5 * gradient.norm() * predictions.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "predictions",
    [
        [[1.0, 0.0], [0.3, 0.5]],  # all right, one of them hardly
        [[0.0, 1.0], [1.0, 0.0]],  # all wrong: the highest temperature
        [[0.7, 0.1], [0.9, 0.2]],  # right for one
    ],
)
def test_calibrated_cross_entropy_of_few_images_is_moderate(predictions, dtype):
    predictions = torch.tensor(predictions, dtype=dtype, requires_grad=True)
    right = torch.tensor([0, 1])

    loss = calibrated_cross_entropy(predictions, right)
    (gradient,) = torch.autograd.grad(loss, predictions)

    least = _least_log_loss(predictions.detach(), right)
    assert loss.item() == pytest.approx(least, abs=1e-4)
    assert 1e-3 < gradient.abs().max() < 10


@pytest.mark.parametrize("value", [0.0, 0.3, -5.0, 1e30])
def test_calibrated_cross_entropy_of_equal_predictions_is_that_of_chance(value):
    predictions = torch.full((4, 3), value, requires_grad=True)

    loss = calibrated_cross_entropy(predictions, torch.tensor([0, 1, 2, 0]))

    assert loss.item() == pytest.approx(np.log(3), abs=1e-6)


@pytest.mark.parametrize(
    ("row", "loss"),
    [
        ([0.7, 0.1, -0.2, 0.0], -0.25),  # margin 0.6, counted as 1/4
        ([0.1, 0.0, 0.3, 0.2], -0.1),
        ([0.3, -1.0, 0.3, 0.0], 0.0),
        ([-5.0, -1.0, -2.0, -0.85], -0.15),
    ],
)
def test_margin_loss_is_the_top_two_margin_up_to_one_over_classes(row, loss):
    labels = torch.tensor([row], dtype=torch.float64)

    assert margin_loss(labels).item() == pytest.approx(loss, abs=1e-12)


def test_margin_loss_moves_only_labels_whose_margin_is_small():
    labels = torch.tensor(
        [[0.9, 0.1, 0.0, 0.0], [0.1, 0.0, 0.3, 0.2]],
        dtype=torch.float64,
        requires_grad=True,
    )

    (gradient,) = torch.autograd.grad(margin_loss(labels), labels)

    expected = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, -0.5, 0.5]]).double()
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("ridge", [1e-6, 1e-1])
def test_regression_from_kernels_is_that_of_scikit_learn(ridge):
    points, targets, others = _problem(9, 4)

    def kernel(one, other):  # of no finite features
        return torch.exp(-0.5 * torch.cdist(one, other).square())

    own, cross = kernel(points, points), kernel(others, points)
    alpha = ridge * float(own.diagonal().mean())
    model = KernelRidge(kernel="precomputed", alpha=alpha)
    expected = model.fit(own.numpy(), targets.numpy()).predict(cross.numpy())
    found = kernel_ridge_regression(own, cross, targets, ridge=ridge)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_regression_from_kernels_is_that_on_features_and_has_its_gradient():
    points, targets, others = _problem(6, 20)
    inputs = [each.requires_grad_() for each in (points, targets, others)]
    on_features = ridge_regression(*inputs, ridge=1e-3)
    from_kernels = kernel_ridge_regression(
        points @ points.mT, others @ points.mT, targets, ridge=1e-3
    )
    torch.testing.assert_close(from_kernels, on_features)
    weights = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)).double()
    one, other = (
        torch.autograd.grad((found * weights).sum(), inputs)
        for found in (on_features, from_kernels)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("kernel", "told"),
    [
        (-torch.eye(3), "not positive definite"),
        (torch.full((3, 3), torch.nan), "not finite"),
    ],
)
def test_kernel_that_is_none_is_refused(kernel, told):
    with pytest.raises(RunError, match=told):
        kernel_ridge_regression(kernel, torch.ones(2, 3), torch.ones(3, 2))
    with pytest.raises(OptionError, match="must not be negative, got -1"):
        kernel_ridge_regression(torch.eye(3), torch.eye(3), torch.eye(3), ridge=-1)


def test_equal_images_get_a_larger_ridge():
    found = kernel_ridge_regression(
        torch.ones(3, 3), torch.ones(1, 3), torch.tensor([[1.0], [2.0], [3.0]]), ridge=0
    )
    torch.testing.assert_close(found, torch.tensor([[2.0]]), atol=1e-3, rtol=0)
