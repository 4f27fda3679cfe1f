"""Rounded weights in a model: choosing, applying, removing."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from triptych.compress.quantize import layers, moments
from triptych.compress.quantize.activation import fake_quantize
from triptych.compress.quantize.grid import Grid, output_error
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.rounding import quantize_weight
from triptych.errors import InputError, NumericsError

INT8 = LayerScheme(weight=Grid(bits=8), activation=8)
INT4 = LayerScheme(weight=Grid(bits=4, group=5, symmetric=False))


def quantized(model, batches):
    """Eight-bit products for Linear and Conv, four bits in groups for the rest."""
    found = moments.collect(model, batches)
    return {
        name: quantize_weight(view, INT8 if view.kind in ("linear", "convolution") else INT4, found[name])
        for name, view in layers.weights(model).items()
    }


def test_applied_weights_are_the_codes(zoo, batches):
    reference = copy.deepcopy(zoo)
    chosen = quantized(zoo, batches)
    before = zoo(**batches[0])
    layers.apply(zoo, chosen)
    for name, item in chosen.items():
        torch.testing.assert_close(zoo.get_parameter(name).detach(), item.restored())
        error = output_error(reference.get_parameter(name).detach().flatten(1), item.codes.dequantize(), None)
        assert error < (1e-3 if item.input else 0.02)
    after = zoo(**batches[0])
    assert 0 < (after - before).abs().max() < 0.1 * before.std()


def test_applying_twice_is_applying_once_and_removal_is_complete(zoo, batches):
    chosen = quantized(zoo, batches)
    layers.apply(zoo, chosen)
    once = zoo(**batches[0])
    layers.apply(zoo, chosen)
    torch.testing.assert_close(zoo(**batches[0]), once, rtol=0, atol=0)
    assert len(zoo.conv._forward_pre_hooks) == 1
    twin = copy.deepcopy(zoo)
    layers.remove(twin)
    assert not any(module._forward_pre_hooks for module in twin.modules())
    assert zoo.conv._forward_pre_hooks
    assert not torch.equal(twin(**batches[0]), once)


def test_inputs_are_rounded_to_the_range(zoo, batches):
    chosen = quantized(zoo, batches)
    layers.apply(zoo, {"conv.weight": chosen["conv.weight"]})
    image = batches[0]["image"]
    expected = torch.nn.functional.conv2d(
        fake_quantize(image, chosen["conv.weight"].input), chosen["conv.weight"].restored(), zoo.conv.bias, padding=1
    )
    torch.testing.assert_close(zoo.conv(image), expected)


def test_a_shortcut_passes_the_rounded_input_on(batches):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.short = nn.Conv2d(3, 3, 3, padding=1), nn.Identity()

        def forward(self, image):
            return self.conv(image) + self.short(image)

    torch.manual_seed(0)
    model, images = Residual(), [{"image": batch["image"]} for batch in batches]
    found = moments.collect(model, images)["conv.weight"]
    item = quantize_weight(layers.weights(model)["conv.weight"], INT8, found)
    for _ in range(2):
        layers.apply(model, {"conv.weight": item})
    x = fake_quantize(images[0]["image"], item.input)
    expected = torch.nn.functional.conv2d(x, item.restored(), model.conv.bias, padding=1) + x
    torch.testing.assert_close(model(**images[0]), expected)
    assert len(model.short._forward_pre_hooks) == 1
    model.short = nn.ReLU()
    with pytest.raises(InputError, match=r"input of conv\.weight is shared with 'short', which is no nn\.Identity"):
        layers.apply(model, {"conv.weight": item})


def test_minmax_ranges_use_the_extremes(zoo, batches):
    found = moments.collect(zoo, batches, ["conv.weight"])["conv.weight"]
    view = layers.weights(zoo)["conv.weight"]
    span = quantize_weight(view, INT8, found, search="minmax").input
    assert (span.low, span.high) == (found.low, found.high)


def test_embeddings_fall_back_to_the_nearest(zoo, batches):
    found = moments.collect(zoo, batches, ["words.weight"])["words.weight"]
    view = layers.weights(zoo)["words.weight"]
    assert torch.equal(
        quantize_weight(view, INT4, found).codes.values,
        quantize_weight(view, INT4.model_copy(update={"method": "rtn"})).codes.values,
    )


def test_grouped_convolutions_use_a_moment_a_group(zoo, batches):
    found = moments.collect(zoo, batches, ["grouped.weight"])["grouped.weight"]
    view = layers.weights(zoo)["grouped.weight"]
    scheme = LayerScheme(weight=Grid(bits=3))
    near = quantize_weight(view, scheme.model_copy(update={"method": "rtn"}), found)
    ours = quantize_weight(view, scheme, found)
    assert output_error(view.matrix, ours.codes.dequantize(), found.moment) < output_error(
        view.matrix, near.codes.dequantize(), found.moment
    )


def test_errors_name_the_weight(zoo, batches):
    views = layers.weights(zoo)
    chosen = quantized(zoo, batches)
    with pytest.raises(InputError, match=r"no compressible weight 'conv\.nose'"):
        layers.apply(zoo, {"conv.nose": chosen["conv.weight"]})
    with pytest.raises(
        InputError, match=r"codes of head\.weight are for the shape \(8, 3, 3, 3\), but the model's weight is \(3, 16\)"
    ):
        layers.apply(zoo, {"head.weight": chosen["conv.weight"]})
    with pytest.raises(InputError, match=r"gru\.weight_hh_l0 cannot be rounded: only Linear and Conv"):
        quantize_weight(views["gru.weight_hh_l0"], INT8)
    with pytest.raises(InputError, match=r"head\.weight needs calibration statistics"):
        quantize_weight(views["head.weight"], INT8)
    with pytest.raises(InputError, match=r"head\.weight: GPTQ of a 3 x 16 weight got second moments of shape None"):
        quantize_weight(views["head.weight"], INT4)
    with pytest.raises(InputError, match=r"head\.weight has no weight grid"):
        quantize_weight(views["head.weight"], LayerScheme())
    with pytest.raises(InputError, match=r"no quantizer called 'gtpq'\. Did you mean 'gptq'"):
        quantize_weight(views["head.weight"], INT4.model_copy(update={"method": "gtpq"}))
    with torch.no_grad():
        zoo.head.weight[0, 0] = torch.inf
    with pytest.raises(NumericsError, match=r"head\.weight holds NaN or infinity"):
        quantize_weight(views["head.weight"], INT4.model_copy(update={"method": "rtn"}))


def test_integer_products_need_one_symmetric_scale_a_row():
    for grid in (None, Grid(bits=8, group=32), Grid(bits=8, symmetric=False)):
        with pytest.raises(ValidationError, match="needs a symmetric weight grid with one scale a row"):
            LayerScheme(weight=grid, activation=8)
