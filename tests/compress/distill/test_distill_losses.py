import math

import pytest
import torch
from torch import nn

from triptych.compress.distill import (
    AffinityDistillation,
    FeatureDistillation,
    LogitsDistillation,
    RegressionDistillation,
    RelationalDistillation,
    SimilarityDistillation,
    softened_divergence,
)
from triptych.registry import find, names

PLAIN = [LogitsDistillation, RegressionDistillation, RelationalDistillation, SimilarityDistillation]


def features(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_all_are_registered():
    for name in ("affinity", "features", "logits", "regression", "relational", "similarity"):
        assert name in names("distillation")
        assert issubclass(find("distillation", name), nn.Module)


@pytest.mark.parametrize("kind", PLAIN)
def test_a_perfect_student_has_no_loss(kind):
    x = features(0, 6, 5)
    assert float(kind()(x, x)) == pytest.approx(0, abs=1e-6)
    assert float(kind()(features(1, 6, 5), x)) > 1e-3


def test_a_perfect_matcher_has_no_loss():
    pair = features(0, 6, 5), features(1, 6, 4)
    with pytest.raises(Exception, match=r"student"):  # both modalities share one width
        AffinityDistillation()(pair, pair)
    pair = features(0, 6, 5), features(1, 6, 5)
    assert float(AffinityDistillation()(pair, pair)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", PLAIN)
def test_only_the_student_learns(kind):
    student, teacher = features(0, 6, 5).requires_grad_(), features(1, 6, 5).requires_grad_()
    kind()(student, teacher).backward()
    assert teacher.grad is None
    assert bool(student.grad.isfinite().all())
    assert float(student.grad.abs().sum()) > 0


def test_the_size_of_the_gradient_hardly_depends_on_the_temperature():
    student, teacher = 0.1 * features(0, 8, 10), 0.1 * features(1, 8, 10)
    sizes = []
    for temperature in (2.0, 8.0):
        x = student.clone().requires_grad_()
        softened_divergence(x, teacher, temperature).backward()
        sizes.append(float(x.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_class_that_the_teacher_excludes_is_no_nan():
    student = torch.zeros(1, 3, requires_grad=True)
    loss = softened_divergence(student, torch.tensor([[0.0, 0.0, -torch.inf]]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1.5))
    assert bool(student.grad.isfinite().all())


def test_features_of_other_width_are_projected_and_the_projection_learns():
    torch.manual_seed(0)
    method = FeatureDistillation(student_width=4, teacher_width=6)
    method(features(0, 2, 5, 4), features(1, 2, 5, 6), torch.ones(2, 5, dtype=torch.bool)).backward()
    assert method.projection.weight.shape == (6, 4)
    assert method.projection.weight.grad is not None
    assert not list(FeatureDistillation(student_width=4, teacher_width=4).parameters())


@pytest.mark.parametrize("normalise", ["energy", "unit"])
def test_saying_nothing_costs_one_at_any_scale(normalise):
    method = FeatureDistillation(FeatureDistillation.Config(normalise=normalise), student_width=4, teacher_width=4)
    for scale in (1e-3, 1.0, 1e3):
        assert float(method(torch.zeros(3, 4), scale * features(1, 3, 4))) == pytest.approx(1)


def test_padding_does_not_count():
    method = FeatureDistillation(student_width=4, teacher_width=4)
    student, teacher = features(0, 2, 3, 4), features(1, 2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    before = method(student, teacher, mask)
    student[~mask], teacher[~mask] = 100.0, -100.0
    assert torch.equal(method(student, teacher, mask), before)
    assert float(method(student, teacher, torch.zeros(2, 3, dtype=torch.bool))) == 0


def test_relations_ignore_scale_and_survive_equal_samples():
    student, teacher = features(0, 6, 5), features(1, 6, 3)
    loss = RelationalDistillation()
    torch.testing.assert_close(loss(7 * student, teacher), loss(student, teacher))
    equal = torch.zeros(3, 4, requires_grad=True)
    loss(equal, features(1, 3, 4)).backward()
    assert bool(equal.grad.isfinite().all())
    lonely = torch.zeros(1, 4, requires_grad=True)
    loss(lonely, features(1, 1, 4)).backward()
    assert float(lonely.grad.sum()) == 0


def test_similarity_takes_feature_maps():
    student, teacher = features(0, 4, 3, 5, 5), features(1, 4, 8, 2, 2)
    flat = SimilarityDistillation()(student.flatten(1), teacher.flatten(1))
    assert torch.equal(SimilarityDistillation()(student, teacher), flat)
