"""Shares, maps, attributions and attention flow against their definitions, spelled out."""

from itertools import permutations

import numpy as np
import pytest
import torch

from triptych.data.batch import Batch
from triptych.evaluate.explain.attention import rolled_out
from triptych.evaluate.explain.attributions import token_attributions
from triptych.evaluate.explain.contribution import shapley
from triptych.evaluate.explain.gradcam import gradcam
from triptych.evaluate.explain.grids import Grid
from triptych.evaluate.explain.subject import Subject, fuse
from triptych.models.fusion_model import FusionConfig, FusionModel


def shapley_twin(value, modalities):
    """The mean over all orders of arrival of what each adds when it comes; `value` of a set of modalities."""
    orders = list(permutations(range(modalities)))
    shares = [0.0] * modalities
    for order in orders:
        there = set()
        for m in order:
            shares[m] += (value[frozenset(there | {m})] - value[frozenset(there)]) / len(orders)
            there.add(m)
    return shares


def test_shapley_values_are_means_over_orders():
    rng = np.random.default_rng(0)
    for _ in range(100):
        modalities, rows = int(rng.integers(1, 6)), int(rng.integers(1, 4))
        values = rng.normal(size=(rows, 2**modalities))
        found = shapley(values)
        for row in range(rows):
            sets = {
                frozenset(m for m in range(modalities) if s >> m & 1): float(values[row, s])
                for s in range(2**modalities)
            }
            assert found[row] == pytest.approx(shapley_twin(sets, modalities))
        assert found.sum(1) == pytest.approx(values[:, -1] - values[:, 0])


def draw(rng):
    """A random model of a picture and a text, and rows of both; some lack one."""
    size, tokens, rows = int(rng.integers(8, 20)), int(rng.integers(1, 6)), int(rng.integers(1, 4))
    inputs = {
        "picture": {
            "features": {"kind": "image", "shape": (2, size, size + 3)},
            "encoder": {"name": "cnn", "widths": [3, 5], "blocks": [1, 1], "stem_stride": 1},
        },
        "text": {
            "features": {"kind": "text", "shape": (tokens,), "vocabulary": 7},
            "encoder": {"name": "rnn", "hidden": 3, "embedding": 4, "layers": 1, "width": 5},
        },
    }
    task = {"name": "classify", "labels": ("a", "b", "c"), "hidden": 6}
    torch.manual_seed(int(rng.integers(2**31)))
    model = FusionModel(
        FusionConfig(inputs=inputs, fusion={"name": "bilinear", "width": 6, "rank": 4}, task=task)
    ).eval()
    given = {
        "picture": torch.randn(rows, 2, size, size + 3),
        "text": torch.randint(1, 7, (rows, tokens)),
    }
    presence = torch.rand(rows, 2) < 0.8
    return Subject.of(model, Batch(given, presence, torch.randint(3, (rows,)), torch.arange(rows)))


def cam_twin(subject, *, averaged):
    """Stage by stage up to the grid, then the derivative of one output, cell by cell."""
    model, encoder = subject.model, subject.model.encoders["picture"]
    hidden = encoder.stem(subject.batch.inputs["picture"]).relu()
    for block in encoder.stages[0]:
        inner = block.second(block.first(hidden).relu())
        hidden = (inner + block.shortcut(hidden)).relu()
    grid = hidden.detach().requires_grad_()
    hidden = grid
    for block in encoder.stages[1]:
        inner = block.second(block.first(hidden).relu())
        hidden = (inner + block.shortcut(hidden)).relu()
    own = model.projectors["picture"](hidden.mean((2, 3)))
    logits = fuse(model, torch.stack([own, subject.vectors[:, 1]], dim=1), subject.batch.presence)
    maps = torch.zeros(len(grid), *grid.shape[2:])
    for row, target in enumerate(subject.targets.tolist()):
        (gradient,) = torch.autograd.grad(logits[row, target], grid, retain_graph=True)
        for i in range(grid.shape[2]):
            for j in range(grid.shape[3]):
                for k in range(grid.shape[1]):
                    alpha = gradient[row, k].mean() if averaged else gradient[row, k, i, j]
                    maps[row, i, j] += (alpha * grid[row, k, i, j]).detach()
    return maps.clamp(min=0)


@pytest.mark.parametrize("averaged", [True, False], ids=["Grad-CAM", "HiResCAM"])
def test_maps_are_features_times_gradients(averaged):
    rng = np.random.default_rng(0)
    for _ in range(20):
        subject = draw(rng)
        height, width = subject.batch.inputs["picture"].shape[2:]
        grid = Grid("stages.0", (height + 1) // 2, (width + 1) // 2)
        found = gradcam(subject, "picture", grid, "mean" if averaged else "own")
        expected = cam_twin(subject, averaged=averaged)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.max().clamp(min=1e-3)))
        assert not found[~subject.batch.presence[:, 0]].any()


def attributions_twin(subject, steps=2_000):
    """(e - b) times the mean gradient along the straight way from b to e, by midpoints."""
    model, encoder = subject.model, subject.model.encoders["text"]
    ids = subject.batch.inputs["text"]
    table = encoder.embed.weight.detach()
    found = torch.zeros(ids.shape)
    for row, target in enumerate(subject.targets.tolist()):
        end, start = table[ids[row]], table[torch.zeros_like(ids[row])]
        at = (torch.arange(steps) + 0.5).view(-1, 1, 1) / steps
        way = (start + at * (end - start)).requires_grad_()
        (layer,) = encoder.layers
        ahead, back = layer.ahead(way)[0], layer.back(way.flip(1))[0].flip(1)
        pooled = encoder.out(torch.cat([ahead, back], dim=-1).mean(1))
        vectors = subject.vectors[row].expand(steps, -1, -1)
        z = torch.stack([vectors[:, 0], model.projectors["text"](pooled)], dim=1)
        logits = fuse(model, z, subject.batch.presence[row].expand(steps, -1))
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), way)
        found[row] = ((end - start) * gradient.mean(0)).sum(-1)
    return found


def test_attributions_are_the_integral_and_sum_to_what_the_text_changes():
    rng = np.random.default_rng(1)
    for _ in range(10):
        subject = draw(rng)
        found, expected = token_attributions(subject, "text"), attributions_twin(subject)
        torch.testing.assert_close(found, expected, rtol=5e-3, atol=2e-4)
        assert not found[~subject.batch.presence[:, 1]].any()


def test_rollout_is_the_product_over_layers():
    rng = np.random.default_rng(2)
    for _ in range(20):
        layers, rows, tokens = (int(rng.integers(1, 5)) for _ in range(3))
        attention = rng.dirichlet(np.ones(tokens), size=(layers, rows, tokens))
        for row in range(rows):
            flow = np.eye(tokens)
            for layer in attention[:, row]:
                mixed = [[0.5 * layer[i, j] + 0.5 * (i == j) for j in range(tokens)] for i in range(tokens)]
                flow = np.array(mixed) @ flow
            found = rolled_out(torch.from_numpy(attention).float())[row]
            assert found.numpy() == pytest.approx(flow, abs=1e-5)
            assert found.sum(1).numpy() == pytest.approx(1, abs=1e-5)
