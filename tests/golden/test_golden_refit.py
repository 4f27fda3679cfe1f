"""The refit against ridge regression by `numpy.linalg.lstsq` on the samples themselves, and convolution by loops."""

import numpy as np
import pytest
import torch
from torch import nn

from triptych.compress.prune.refit import refitted, shrink_and_refit
from triptych.structure import Member, Width


def slow_refit(weight, samples, keep, ridge, bias=None):
    """min over W', b' of mean ||W x - W' x_S (+ b - b')||^2 + ridge ||W' - W_S||^2, on stacked rows."""
    n, rows = len(samples), len(weight)
    columns = [samples[:, c] for c in keep] + ([np.ones(n)] if bias is not None else [])
    design = np.stack(columns, 1) / np.sqrt(n)
    kept = weight[:, keep]
    target = (samples @ weight.T + (0 if bias is None else bias)) / np.sqrt(n)
    pull = np.sqrt(ridge) * np.eye(len(keep), design.shape[1])
    design, target = np.vstack([design, pull]), np.vstack([target, np.sqrt(ridge) * kept.T])
    solution = np.linalg.lstsq(design, target, rcond=None)[0].T
    return solution[:, : len(keep)], (solution[:, -1] if bias is not None else None), rows


def random_problem(seed):
    rng = np.random.default_rng(seed)
    rows, columns = (int(rng.integers(1, 9)) for _ in range(2))
    columns += 1
    mix = np.eye(columns) + 0.3 * rng.standard_normal((columns, columns)) / np.sqrt(columns)
    samples = rng.standard_normal((200, columns)) @ mix + rng.standard_normal(columns)
    keep = np.sort(rng.choice(columns, int(rng.integers(1, columns + 1)), replace=False))
    return rng.standard_normal((rows, columns)), rng.standard_normal(rows), samples, keep


@pytest.mark.parametrize("seed", range(100))
def test_refit_equals_ridge_regression_on_the_samples(seed):
    weight, bias, samples, keep = random_problem(seed)
    moments, mean = samples.T @ samples / len(samples), samples.mean(0)
    damping = (0.0, 0.01, 0.5)[seed % 3]

    found = refitted(torch.tensor(weight), torch.tensor(moments), torch.tensor(keep), damping=damping)
    ridge = damping * np.diag(moments)[keep].mean()
    expected, _, _ = slow_refit(weight, samples, keep, ridge)
    np.testing.assert_allclose(found.weight.numpy(), expected, rtol=1e-10, atol=1e-10)
    outputs = samples @ weight.T
    left = ((outputs - samples[:, keep] @ expected.T) ** 2).sum() / (outputs**2).sum()
    assert found.error == pytest.approx(left, rel=1e-8, abs=1e-12)

    found = refitted(
        torch.tensor(weight),
        torch.tensor(moments),
        torch.tensor(keep),
        bias=torch.tensor(bias),
        means=torch.tensor(mean),
        damping=damping,
    )
    ridge = damping * samples.var(0)[keep].mean()
    expected, offset, _ = slow_refit(weight, samples, keep, ridge, bias)
    np.testing.assert_allclose(found.weight.numpy(), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.bias.numpy(), offset, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_undamped_error_is_that_of_the_optimal_brain_surgeon(seed):
    """tr(W_P ((H^-1)_PP)^-1 W_P^T), ZipLM's price of removing the columns P."""
    weight, _, samples, keep = random_problem(1000 + seed)
    moments = samples.T @ samples / len(samples)
    removed = np.setdiff1d(np.arange(weight.shape[1]), keep)
    inverse = np.linalg.inv(moments)[np.ix_(removed, removed)]
    price = np.trace(weight[:, removed] @ np.linalg.inv(inverse) @ weight[:, removed].T) if len(removed) else 0.0
    found = refitted(torch.tensor(weight), torch.tensor(moments), torch.tensor(keep), damping=0.0)
    assert found.error * np.trace(weight @ moments @ weight.T) == pytest.approx(price, rel=1e-8, abs=1e-10)


def patches(x, kernel, padding, stride):
    """Every window of every image as a row: channel by channel, row by row of the kernel."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows = []
    for image in padded:
        for i in range(0, image.shape[1] - kernel[0] + 1, stride):
            across = range(0, image.shape[2] - kernel[1] + 1, stride)
            rows += [image[:, i : i + kernel[0], j : j + kernel[1]].flatten() for j in across]
    return np.stack(rows)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_a_convolution_is_refitted_on_its_patches(seed, groups):
    rng = np.random.default_rng(seed)
    kernel, stride = (int(rng.integers(1, 3)), int(rng.integers(1, 4))), int(rng.integers(1, 3))
    channels = 3 * groups
    net = nn.Sequential(nn.Conv2d(2, channels, 1), nn.Conv2d(channels, 4, kernel, stride, padding=1, groups=groups))
    net = net.double()
    x = net[0](torch.tensor(rng.standard_normal((8, 2, 6, 6)))).detach().numpy()
    rows = [patches(part, kernel, 1, stride) for part in np.split(x, groups, 1)]
    moments = torch.tensor(np.stack([r.T @ r / len(r) for r in rows]))
    means = torch.tensor(np.stack([r.mean(0) for r in rows]))
    keep, area = [0, 2], kernel[0] * kernel[1]
    columns = [c * area + j for c in keep for j in range(area)]
    weights = np.split(net[1].weight.detach().numpy().reshape(4, -1), groups)
    biases = np.split(net[1].bias.detach().numpy().copy(), groups)
    expected = []
    for r, w, b in zip(rows, weights, biases, strict=True):
        ridge = 0.1 * r.var(0)[columns].mean()
        expected.append(slow_refit(w.copy(), r, columns, ridge, b))

    made = tuple(Member(p, 0, repeat=groups) for p in ("0.weight", "0.bias"))
    width = Width("channels", 3, made, (Member("1.weight", 1),))
    shrink_and_refit(
        net,
        width,
        torch.tensor(keep),
        {"1.weight": moments if groups > 1 else moments[0]},
        {"1.weight": means if groups > 1 else means[0]},
        damping=0.1,
    )
    assert net[1].weight.shape == (4, 2, *kernel)
    np.testing.assert_allclose(
        net[1].weight.detach().numpy().reshape(4, -1), np.vstack([w for w, _, _ in expected]), rtol=1e-9, atol=1e-10
    )
    np.testing.assert_allclose(
        net[1].bias.detach().numpy(), np.concatenate([b for _, b, _ in expected]), rtol=1e-9, atol=1e-10
    )
