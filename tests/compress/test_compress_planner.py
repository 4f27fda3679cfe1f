"""What a unit of a width costs: its share of the parameters, and of the multiplications counted by hand."""

import copy

import pytest
import torch
from torch import nn

from triptych.compress.planner import _unit_cost
from triptych.compress.quantize.layers import weights
from triptych.models.summary import example_inputs


@pytest.fixture
def model(tiny_trained):
    return copy.deepcopy(tiny_trained.loaded.model)


def test_a_unit_costs_what_it_owns_of_parameters_and_of_products(model):
    sizes = {name: view.parameter.numel() for name, view in weights(model).items()}
    positions = {name: 1.0 + number for number, name in enumerate(sizes)}
    products = {name: size * positions[name] for name, size in sizes.items()}
    width = next(w for w in model.widths() if w.name == "encoders.picture.stages.0.0.inner")
    own = [f"encoders.picture.stages.0.0.{part}.conv.weight" for part in ("first", "second")]
    share = sum(sizes[n] for n in own) / sum(sizes.values()), sum(products[n] for n in own) / sum(products.values())
    assert _unit_cost(model, width, positions) == pytest.approx(sum(share) / 2 / width.units)


def test_an_early_channel_costs_more_than_its_parameters_alone(model):
    grids: dict[str, float] = {}

    def note(name):
        def hook(module, inputs, output):
            grids[name] = output[0, 0].numel() if output.ndim > 2 else 1

        return hook

    handles = [m.register_forward_hook(note(n)) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(example_inputs(model))
    for handle in handles:
        handle.remove()
    positions = {name: grids.get(name.removesuffix(".weight"), 1.0) for name in weights(model)}
    flat = dict.fromkeys(positions, 1.0)
    stem, last = (
        next(w for w in model.widths() if w.name == f"encoders.picture.{name}")
        for name in ("stem.stream", "stages.1.0.stream")
    )
    assert _unit_cost(model, stem, positions) > _unit_cost(model, stem, flat)
    assert _unit_cost(model, last, positions) < _unit_cost(model, last, flat)
