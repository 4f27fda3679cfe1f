"""Distillation losses against loops over samples and numbers, on 100 random shapes."""

import math

import pytest
import torch

from triptych.compress.distill import (
    AffinityDistillation,
    FeatureDistillation,
    LogitsDistillation,
    RegressionDistillation,
    RelationalDistillation,
    SimilarityDistillation,
)


def softmax(row, temperature):
    exponentials = [math.exp(x / temperature) for x in row]
    return [e / sum(exponentials) for e in exponentials]


def divergence(theirs, ours):
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(theirs, ours, strict=True))


def length(row):
    return math.sqrt(sum(x * x for x in row))


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_logits(student, teacher, temperature):
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        total += temperature**2 * divergence(softmax(theirs, temperature), softmax(ours, temperature))
    return total / len(student)


def slow_features(student, teacher, projection, normalise, mask):
    error = energy = 0.0
    for ours, theirs, real in zip(student.tolist(), teacher.tolist(), mask.tolist(), strict=True):
        if not real:
            continue
        said, hoped = ours if projection is None else [dot(row, ours) for row in projection.tolist()], theirs
        if normalise == "unit":
            said, hoped = [x / length(said) for x in said], [x / length(theirs) for x in theirs]
        error += sum((a - b) ** 2 for a, b in zip(said, hoped, strict=True))
        energy += dot(hoped, hoped)
    return error / energy


def slow_similarity(student, teacher):
    def similarities(features):
        table = [[dot(a, b) for b in features.tolist()] for a in features.tolist()]
        return [[x / length(row) for x in row] for row in table]

    ours, theirs, n = similarities(student), similarities(teacher), len(student)
    return sum((ours[i][j] - theirs[i][j]) ** 2 for i in range(n) for j in range(n)) / n**2


def slow_relational(student, teacher):
    def relative(features):
        rows = features.tolist()
        pairs = [(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        distances = [math.dist(a, b) for a, b in pairs]
        return [d / (sum(distances) / len(distances)) for d in distances]

    total, ours, theirs = 0.0, relative(student), relative(teacher)
    for a, b in zip(ours, theirs, strict=True):
        total += (a - b) ** 2 / 2 if abs(a - b) <= 1 else abs(a - b) - 0.5
    return total / len(ours)


def slow_affinity(student, teacher, temperature):
    def table(pair):
        first, second = (tensor.tolist() for tensor in pair)
        return [[dot(a, b) / length(a) / length(b) for b in second] for a in first]

    ours, theirs, total = table(student), table(teacher), 0.0
    transposed = [list(column) for column in zip(*ours, strict=True)], [list(c) for c in zip(*theirs, strict=True)]
    for mine, yours in ((ours, theirs), transposed):
        for a, b in zip(mine, yours, strict=True):
            total += divergence(softmax(b, temperature), softmax(a, temperature)) / 2
    return total / len(ours)


@pytest.mark.parametrize("seed", range(100))
def test_losses_equal_their_loops(seed):
    generator = torch.Generator().manual_seed(seed)

    def size(low, high):
        return int(torch.randint(low, high, (), generator=generator))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def equal(loss, expected):
        torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-14)

    batch, narrow, wide, temperature = size(2, 9), size(2, 9), size(2, 9), 0.5 + size(0, 8) / 2
    student, teacher = normal(batch, narrow), normal(batch, wide)
    alike = normal(batch, narrow)

    equal(
        LogitsDistillation(LogitsDistillation.Config(temperature=temperature))(student, alike),
        slow_logits(student, alike, temperature),
    )
    equal(
        RegressionDistillation()(student, alike),
        sum((a - b) ** 2 for a, b in zip(student.flatten().tolist(), alike.flatten().tolist(), strict=True))
        / student.numel(),
    )
    equal(SimilarityDistillation()(student, teacher), slow_similarity(student, teacher))
    equal(RelationalDistillation()(student, teacher), slow_relational(student, teacher))

    pairs = (student, normal(batch, narrow)), (teacher, normal(batch, wide))
    config = AffinityDistillation.Config(temperature=temperature)
    equal(AffinityDistillation(config)(*pairs), slow_affinity(*pairs, temperature))

    mask = torch.rand(batch, generator=generator) < 0.7
    mask[0] = True
    for normalise in ("energy", "unit"):
        config = FeatureDistillation.Config(normalise=normalise)
        method = FeatureDistillation(config, student_width=narrow, teacher_width=wide).double()
        weight = None if narrow == wide else method.projection.weight
        equal(method(student, teacher, mask), slow_features(student, teacher, weight, normalise, mask))
        everything = torch.ones(batch, dtype=torch.bool)
        equal(method(student, teacher), slow_features(student, teacher, weight, normalise, everything))
