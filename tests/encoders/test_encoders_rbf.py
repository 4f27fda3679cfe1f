"""The radial basis encoder and the perceptron: what they see of each kind of cell."""

import torch

from triptych.encoders.mlp import MLPEncoder
from triptych.encoders.rbf import RadialBasis, RBFEncoder
from triptych.structure import Features


def test_a_centre_answers_itself_with_one_and_far_away_with_nothing():
    basis = RadialBasis(3, 5)
    near, far = basis(basis.centres.unsqueeze(0)), basis(basis.centres.unsqueeze(0) + 100)
    assert torch.allclose(near[0].diagonal(), torch.ones(5), atol=1e-5)
    assert (near <= 1).all()
    assert far.max() < 1e-6


def test_a_picture_is_the_mean_of_its_patches():
    encoder = RBFEncoder(RBFEncoder.Config(patch=4), Features(kind="image", shape=(3, 8, 12)))
    encoded = encoder(torch.randn(2, 3, 8, 12))
    assert encoded.tokens.shape[1] == 6
    assert torch.allclose(encoded.tokens.mean(dim=1), encoded.pooled)


def test_text_is_a_bag_of_words():
    encoder = RBFEncoder(RBFEncoder.Config(), Features(kind="text", shape=(4,), vocabulary=9))
    ids = torch.tensor([[1, 2, 3, 0], [3, 1, 2, 0]])
    one, other = encoder(ids).pooled
    assert torch.allclose(one, other, atol=1e-6)


def test_numbers_bend():
    torch.manual_seed(0)
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    number = Features(kind="number", shape=(1,))
    for encoder in (RBFEncoder(RBFEncoder.Config(), number), MLPEncoder(MLPEncoder.Config(), number)):
        low, middle, high = encoder(x).pooled
        assert not torch.allclose(low + high, 2 * middle, atol=1e-3)


def test_every_category_has_a_vector_of_its_own():
    torch.manual_seed(0)
    encoder = MLPEncoder(MLPEncoder.Config(), Features(kind="category", shape=(1,), vocabulary=5))
    vectors = encoder(torch.arange(5).unsqueeze(1)).pooled
    assert torch.pdist(vectors).min() > 1e-3
