"""Storage: exact round trips through safetensors, names, sizes and damage."""

import json

import pytest
import torch
from safetensors.torch import load, save

from triptych.compress.quantize.activation import Range
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.rtn import quantize
from triptych.compress.quantize.storage import from_tensors, to_tensors
from triptych.errors import ArtifactError

GRIDS = [
    Grid(bits=bits, group=group, symmetric=symmetric)
    for bits in range(2, 9)
    for group, symmetric in ((None, True), (7, True), (16, False), (None, False))
]


def weight_of(grid, shape=(6, 5, 3), activation=None, size=0.1):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(grid.bits)) * size
    scheme = LayerScheme(weight=grid, activation=activation, method="rtn")
    span = Range(low=-0.7, high=2.3) if activation else None
    passes = ("a.shortcut",) if activation else ()
    return QuantizedWeight(quantize(weight.flatten(1), None, grid), shape, scheme, span, passes)


def through_disk(quantized):
    tensors, meta = to_tensors(quantized)
    return from_tensors(load(save(tensors)), json.loads(json.dumps(meta)))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_nothing_changes_on_the_way(grid):
    item = weight_of(grid)
    back = through_disk({"a.conv.weight": item})["a.conv.weight"]
    assert torch.equal(back.restored(), item.restored())
    assert back.scheme == item.scheme
    assert tuple(back.shape) == item.shape


def test_input_ranges_survive():
    item = weight_of(Grid(bits=8), activation=8)
    back = through_disk({"weight": item})["weight"]
    assert (back.input.scale, back.input.zero) == (item.input.scale, item.input.zero)
    assert back.passes == ("a.shortcut",)


def test_names_types_and_sizes():
    tensors, meta = to_tensors(
        {
            "a.weight": weight_of(Grid(bits=8), activation=8),
            "b.weight_hh_l0": weight_of(Grid(bits=4, group=8, symmetric=False), (32, 16)),
        }
    )
    described = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    assert described == {
        "a.weight": ((6, 5, 3), torch.int8),
        "a.weight_scale": ((6, 1), torch.float16),
        "a.input_scale": ((1,), torch.float32),
        "a.input_zero_point": ((1,), torch.int8),
        "b.weight_hh_l0_packed": ((32, 2), torch.int32),
        "b.weight_hh_l0_shape": ((2,), torch.int64),
        "b.weight_hh_l0_scale": ((32, 2), torch.float16),
        "b.weight_hh_l0_zero_point": ((4, 2), torch.int32),
    }
    assert meta["a.weight"]["scheme"]["activation"] == 8
    assert json.dumps(meta)


def test_scales_that_float16_cannot_hold_stay_float32():
    tensors, _ = to_tensors({"a.weight": weight_of(Grid(bits=8), size=1e-6)})
    assert tensors["a.weight_scale"].dtype == torch.float32


def test_damage_is_named():
    tensors, meta = to_tensors({"a.weight": weight_of(Grid(bits=4), activation=8), "b.weight": weight_of(Grid(bits=8))})

    def broken(**changes):
        return {**tensors, **{name.replace("__", "."): tensor for name, tensor in changes.items()}}

    with pytest.raises(ArtifactError, match=r"The tensor a\.weight_packed is missing\. The folder is damaged"):
        from_tensors({name: t for name, t in tensors.items() if name != "a.weight_packed"}, meta)
    with pytest.raises(ArtifactError, match=r"The tensor a\.input_scale is missing"):
        from_tensors({name: t for name, t in tensors.items() if name != "a.input_scale"}, meta)
    with pytest.raises(ArtifactError, match=r"The tensor b\.weight is torch\.float32, not torch\.int8"):
        from_tensors(broken(b__weight=torch.zeros(6, 5, 3)), meta)
    with pytest.raises(ArtifactError, match="15 codes of 4 bits take 2 words a row, not 1"):
        from_tensors(broken(a__weight_packed=torch.zeros(6, 1, dtype=torch.int32)), meta)
    with pytest.raises(ArtifactError, match=r"codes and scales of b\.weight do not fit its shape \(6, 5, 3\)"):
        from_tensors(broken(b__weight_scale=torch.zeros(6, 2)), meta)
    with pytest.raises(ArtifactError, match=r"The scheme of a\.weight cannot be read"):
        from_tensors(tensors, {"a.weight": {"scheme": {"weight": {"bits": 40}}}})
    with pytest.raises(ArtifactError, match=r"a\.weight is listed as quantised but its scheme has no weight grid"):
        from_tensors(tensors, {"a.weight": {"scheme": {}}})
