"""The losses of retrieval, and its ranks, against loops over pairs, on random batches in which some rows share an identity."""

import math

import numpy as np
import pytest
import torch

from triptych.tasks.retrieve import Retrieve, both_ways, hits


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def slow_clip(first, second, labels, scale):
    total, n = 0.0, len(labels)
    for ours, theirs in ((first, second), (second, first)):
        for i in range(n):
            others = [j for j in range(n) if j == i or labels[j] != labels[i]]
            exponentials = {j: math.exp(scale * cosine(ours[i], theirs[j])) for j in others}
            total -= math.log(exponentials[i] / sum(exponentials.values()))
    return total / (2 * n)


def slow_siglip(first, second, labels, scale, bias):
    total, n = 0.0, len(labels)
    for i in range(n):
        for j in range(n):
            sign = 1 if labels[i] == labels[j] else -1
            total += math.log(1 + math.exp(-sign * (scale * cosine(first[i], second[j]) + bias)))
    return total / n


def slow_hit(queries, others, labels, row, k):
    """A fair draw among those that are equally near: the mean over orders is the chance of a place among the first k."""
    seen, gallery = set(), []
    for j, vector in enumerate(others):
        if (labels[j], tuple(vector)) not in seen:
            seen.add((labels[j], tuple(vector)))
            gallery.append(j)
    near = {j: cosine(queries[row], others[j]) for j in gallery}
    best = max(value for j, value in near.items() if labels[j] == labels[row])
    wrong = [value for j, value in near.items() if labels[j] != labels[row]]
    above = sum(value > best + 1e-9 for value in wrong)
    equal = 1 + sum(abs(value - best) <= 1e-9 for value in wrong)
    return sum(above + place < k for place in range(equal)) / equal


def drawn(seed):
    rng = np.random.default_rng(seed)
    rows, width = int(rng.integers(2, 12)), int(rng.integers(2, 6))
    vectors = torch.from_numpy(rng.standard_normal((rows, 2, width)))
    return vectors, torch.from_numpy(rng.integers(0, max(2, rows // 2), rows))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_losses(name, seed):
    z, labels = drawn(seed)
    task = Retrieve(Retrieve.Config(loss=name), z.shape[-1]).double()
    task.log_scale.data.fill_(math.log(3.0))
    first, second = z[:, 0].tolist(), z[:, 1].tolist()
    expected = (
        slow_clip(first, second, labels.tolist(), 3.0)
        if task.bias is None
        else slow_siglip(first, second, labels.tolist(), 3.0, float(task.bias.detach()))
    )
    assert float(task.loss(task(z), labels).detach()) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_ranks(seed):
    z, labels = drawn(seed)
    signs = torch.sign(z)  # few directions, so that some are equal
    vectors, labels = torch.nn.functional.normalize(signs, dim=-1).numpy(), labels.numpy()
    for k in (1, 3):
        for side, found in enumerate(both_ways(vectors, labels)):
            queries, others = signs[:, side].tolist(), signs[:, 1 - side].tolist()
            expected = [slow_hit(queries, others, labels.tolist(), row, k) for row in range(len(labels))]
            assert hits(*found, k) == pytest.approx(np.array(expected))
