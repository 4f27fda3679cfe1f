"""Every fusion against loops over plain numbers, 100 random shapes each."""

import math

import numpy as np
import pytest
import torch

import triptych.fusion  # noqa: F401 - files the fusions in the registry
from triptych.registry import find


def linear(layer, x):
    """W x + b, number by number."""
    rows, bias = layer.weight.tolist(), layer.bias.tolist()
    return [sum(w * value for w, value in zip(row, x, strict=True)) + b for row, b in zip(rows, bias, strict=True)]


def softmax(scores):
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def counted(presence):
    """The modalities that have a say: the present ones, or all where none is present."""
    return [m for m, here in enumerate(presence) if here] or list(range(len(presence)))


def concat(fusion, z, presence, settings):
    flat = [value for vector in z for value in vector]
    return [max(0.0, value) for value in linear(fusion.layer[0], flat)] if settings.get("hidden") else flat


def mean(fusion, z, presence, settings):
    present = counted(presence)
    return [sum(z[m][f] for m in present) / len(present) for f in range(len(z[0]))]


def weighted(fusion, z, presence, settings):
    present = counted(presence)
    weights = softmax([fusion.score[m].item() for m in present])
    return [sum(w * z[m][f] for w, m in zip(weights, present, strict=True)) for f in range(len(z[0]))]


def gated(fusion, z, presence, settings):
    present, width = counted(presence), len(z[0])
    scores = linear(fusion.gates, [value for vector in z for value in vector])
    values = [linear(layer, vector) for layer, vector in zip(fusion.values, z, strict=True)]
    fused = []
    for f in range(width):
        asked = [scores[m * width + f] for m in present]
        gates = softmax(asked) if settings["gate"] == "softmax" else [1 / (1 + math.exp(-score)) for score in asked]
        fused.append(sum(gate * math.tanh(values[m][f]) for gate, m in zip(gates, present, strict=True)))
    return fused


def attention(fusion, z, presence, settings):
    present, width = counted(presence), len(z[0])
    part = fusion.attention
    q, k, v = ([linear(layer, vector) for vector in z] for layer in (part.q, part.k, part.v))
    size = width // settings["heads"]
    answers = []
    for m, vector in enumerate(z):
        gathered = []
        for head in range(settings["heads"]):
            own = range(head * size, (head + 1) * size)
            weights = softmax([sum(q[m][f] * k[other][f] for f in own) / math.sqrt(size) for other in present])
            gathered += [sum(w * v[other][f] for w, other in zip(weights, present, strict=True)) for f in own]
        summed = [a + b for a, b in zip(vector, linear(part.out, gathered), strict=True)]
        centre = sum(summed) / width
        spread = math.sqrt(sum((value - centre) ** 2 for value in summed) / width + fusion.norm.eps)
        scale, shift = fusion.norm.weight.tolist(), fusion.norm.bias.tolist()
        answers.append([(summed[f] - centre) / spread * scale[f] + shift[f] for f in range(width)])
    if settings["pool"] == "concat":
        return [value for answer in answers for value in answer]
    return [sum(answers[m][f] for m in present) / len(present) for f in range(width)]


def bilinear(fusion, z, presence, settings):
    fused = [value for vector in z for value in vector] if settings["vectors"] else []
    sums = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            first, second = linear(fusion.U[i], z[i]), linear(fusion.V[j - 1], z[j])
            both = presence[i] and presence[j]
            products = [a * b if both else 0.0 for a, b in zip(first, second, strict=True)]
            window = settings["window"]
            sums += [sum(products[start : start + window]) for start in range(0, len(products), window)]
    if settings["window"] == 1 or not sums:
        return fused + sums
    norm = fusion.norm  # in evaluation: the statistics of training
    mean, variance = norm.running_mean.tolist(), norm.running_var.tolist()
    scale, shift = norm.weight.tolist(), norm.bias.tolist()
    return fused + [
        (value - mean[f]) / math.sqrt(variance[f] + norm.eps) * scale[f] + shift[f] for f, value in enumerate(sums)
    ]


def draw(name, rng):
    """Random settings, modalities, width, vectors and presence."""
    width, modalities, batch = (int(rng.integers(1, top)) for top in (7, 5, 4))
    width += name == "attention"  # the norm of a single feature is 0, whatever the rest does
    settings = {
        "concat": {"hidden": int(rng.integers(1, 6)) if rng.random() < 0.5 else None},
        "gated": {"gate": str(rng.choice(["softmax", "sigmoid"]))},
        "attention": {"heads": int(rng.integers(1, 4)), "pool": str(rng.choice(["mean", "concat"]))},
        "bilinear": {
            "window": (window := int(rng.integers(1, 4))),
            "rank": window * int(rng.integers(1, 6)),
            "vectors": True,
        },
    }.get(name, {})
    if name == "bilinear" and modalities > 1:
        settings["vectors"] = bool(rng.random() < 0.5)
    width *= settings.get("heads", 1)
    component = find("fusion", name)
    fusion = component(component.Config(**settings), modalities, width).double().eval()
    for parameter in fusion.parameters():
        parameter.data = torch.from_numpy(rng.normal(size=parameter.shape))
    for buffer_name, buffer in fusion.named_buffers():
        if buffer.is_floating_point():
            buffer.data = torch.from_numpy(
                rng.uniform(0.5, 2, size=buffer.shape) if "var" in buffer_name else rng.normal(size=buffer.shape)
            )
    z = torch.from_numpy(rng.normal(size=(batch, modalities, width)))
    presence = torch.from_numpy(rng.random((batch, modalities)) < 0.6)
    return fusion, settings, z, presence


@pytest.mark.parametrize("twin", [concat, mean, weighted, gated, attention, bilinear])
def test_equals_its_slow_twin(twin):
    rng = np.random.default_rng(0)
    for _ in range(100):
        fusion, settings, z, presence = draw(twin.__name__, rng)
        rows = zip(z.tolist(), presence.tolist(), strict=True)
        expected = torch.tensor([twin(fusion, *row, settings) for row in rows], dtype=torch.float64)
        scale = expected.abs().max()
        with torch.no_grad():
            assert (fusion(z, presence) - expected).abs().max() <= 1e-10 * scale
            single = fusion.float()(z.float(), presence)
            assert (single - expected).abs().max() <= 1e-5 * scale
