"""Rounded weights as named tensors and JSON, in the naming of compressed-tensors.

For the parameter `a.b.weight`: codes of eight bits are `a.b.weight` (int8, the layer's shape); narrower ones
`a.b.weight_packed` (int32, see `pack`) with `a.b.weight_shape`. Beside them stand `a.b.weight_scale` [rows, groups],
`a.b.weight_zero_point` where the grid has zero points (packed along the rows when narrower than eight bits), and
`a.b.input_scale` with `a.b.input_zero_point` (signed: 128 below the unsigned one) where the input is rounded. Scales
are float16 where that is exact, which the scale search sees to, and float32 elsewhere: storing never changes a weight.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from triptych.compress.quantize.activation import Range
from triptych.compress.quantize.grid import Codes
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.pack import pack, unpack
from triptych.errors import ArtifactError

NEXT = "The folder is damaged or was made by another version; fetch or make it again."


def to_tensors(quantized: Mapping[str, QuantizedWeight]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and for every weight its scheme and notes as JSON."""
    tensors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {}
    for name, item in quantized.items():
        codes, bits = item.codes, item.codes.grid.bits
        if bits == 8:
            tensors[name] = codes.values.reshape(item.shape)
        else:
            tensors[f"{name}_packed"] = pack(codes.values, bits)
            tensors[f"{name}_shape"] = torch.tensor(item.shape)
        half = codes.scale.to(torch.float16)
        tensors[f"{name}_scale"] = half if torch.equal(half.to(torch.float32), codes.scale) else codes.scale
        if codes.zero is not None:
            tensors[f"{name}_zero_point"] = (
                codes.zero if bits == 8 else pack(codes.zero.T.contiguous(), bits).T.contiguous()
            )
        if item.input is not None:
            layer = name.rpartition(".")[0]
            tensors[f"{layer}.input_scale".lstrip(".")] = torch.tensor([item.input.scale], dtype=torch.float32)
            tensors[f"{layer}.input_zero_point".lstrip(".")] = torch.tensor([item.input.zero - 128], dtype=torch.int8)
        meta[name] = {"scheme": item.scheme.model_dump(), "passes": list(item.passes), "notes": list(codes.notes)}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}, meta


def from_tensors(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> dict[str, QuantizedWeight]:
    """The rounded weights that `to_tensors` wrote; tensors of other parameters are left alone.

    Raises:
        ArtifactError: a tensor is missing or does not fit the scheme; the message names it.
    """
    quantized = {}
    for name, entry in meta.items():
        try:
            scheme = LayerScheme.model_validate(entry["scheme"])
        except (KeyError, TypeError, ValidationError) as error:
            raise ArtifactError(f"The scheme of {name} cannot be read: {error}.", NEXT) from error
        if scheme.weight is None:
            raise ArtifactError(f"{name} is listed as quantised but its scheme has no weight grid.", NEXT)
        quantized[name] = _read(tensors, name, scheme, entry)
    return quantized


def _read(tensors: Mapping[str, Tensor], name: str, scheme: LayerScheme, entry: Mapping[str, Any]) -> QuantizedWeight:
    def get(key: str, dtype: torch.dtype | None = None) -> Tensor:
        tensor = tensors.get(key)
        if tensor is None:
            raise ArtifactError(f"The tensor {key} is missing.", NEXT)
        if dtype is not None and tensor.dtype != dtype:
            raise ArtifactError(f"The tensor {key} is {tensor.dtype}, not {dtype}.", NEXT)
        return tensor

    grid = scheme.weight
    assert grid is not None
    bits = grid.bits
    shape = tuple(get(name, torch.int8).shape) if bits == 8 else tuple(int(n) for n in get(f"{name}_shape"))
    rows = shape[0] if shape else 0
    columns = torch.Size(shape[1:]).numel()
    scale = get(f"{name}_scale").to(torch.float32)
    zero = None
    if not grid.symmetric:
        stored = get(f"{name}_zero_point", torch.int8 if bits == 8 else torch.int32)
        zero = stored if bits == 8 else unpack(stored.T.contiguous(), bits, rows).T.contiguous()
    values = (
        tensors[name].reshape(rows, columns) if bits == 8 else unpack(get(f"{name}_packed", torch.int32), bits, columns)
    )
    if values.shape != (rows, columns) or scale.shape != (rows, grid.groups(columns)):
        raise ArtifactError(f"The codes and scales of {name} do not fit its shape {shape}.", NEXT)
    span = None
    if scheme.calibrated:
        layer = name.rpartition(".")[0]
        step = get(f"{layer}.input_scale".lstrip("."), torch.float32)
        point = get(f"{layer}.input_zero_point".lstrip("."), torch.int8)
        span = Range.of(float(step), int(point) + 128)
    codes = Codes(values, scale, zero, grid, tuple(entry.get("notes", ())))
    return QuantizedWeight(codes, shape, scheme, span, tuple(entry.get("passes", ())))
