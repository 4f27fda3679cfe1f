"""Radial basis functions against loops over plain numbers, 100 random shapes."""

import math

import numpy as np
import torch

from triptych.encoders.rbf import RadialBasis, RBFEncoder
from triptych.structure import Features


def slow_basis(basis, x):
    """exp(-gamma_k * squared distance) of one point to every centre."""
    answers = []
    for centre, log_gamma in zip(basis.centres.tolist(), basis.log_gamma.tolist(), strict=True):
        squared = sum((a - b) ** 2 for a, b in zip(x, centre, strict=True))
        answers.append(math.exp(-math.exp(log_gamma) * squared))
    return answers


def test_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    for _ in range(100):
        batch, tokens, dim, units = (int(rng.integers(1, top)) for top in (4, 5, 12, 9))
        basis = RadialBasis(dim, units).double()
        basis.centres.data = torch.from_numpy(rng.normal(size=(units, dim)))
        basis.log_gamma.data += torch.from_numpy(rng.normal(size=units))
        x = torch.from_numpy(rng.normal(size=(batch, tokens, dim)))
        answers = [[slow_basis(basis, point) for point in row] for row in x.tolist()]
        expected = torch.tensor(answers, dtype=torch.float64)
        with torch.no_grad():
            assert (basis(x) - expected).abs().max() <= 1e-10 * expected.max()
            assert (basis.float()(x.float()) - expected).abs().max() <= 1e-5 * expected.max()


def test_the_encoder_of_numbers_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    for _ in range(20):
        config = RBFEncoder.Config(units=int(rng.integers(1, 9)), width=int(rng.integers(1, 7)))
        encoder = RBFEncoder(config, Features(kind="number", shape=(1,))).double()
        x = torch.from_numpy(rng.normal(size=(3, 1)))
        weight, bias = encoder.out.weight.tolist(), encoder.out.bias.tolist()
        for row, pooled in zip(x.tolist(), encoder(x).pooled.tolist(), strict=True):
            answers = slow_basis(encoder.basis, row)
            for rows, shift, value in zip(weight, bias, pooled, strict=True):
                expected = sum(w * answer for w, answer in zip(rows, answers, strict=True)) + shift
                assert abs(value - expected) < 1e-10
