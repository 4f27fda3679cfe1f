"""Rounded nn.Linear weights as compressed-tensors stores them, and the `quantization_config` that tells readers of them.

For the weight `a.b.weight`, named as the checkpoint names it:

- pack-quantized: `weight_packed` int32 [rows, ceil(columns * bits / 32)], `weight_shape` int64 [2], `weight_scale` [rows, groups];
  where asymmetric `weight_zero_point` int32 [ceil(rows * bits / 32), groups];
- int-quantized: `weight` int8 [rows, columns], `weight_scale` [rows, groups], where asymmetric `weight_zero_point` int8 [rows, groups];
- float-quantized: `weight` float8_e4m3fn [rows, columns], `weight_scale` [rows, 1];
- `input_scale` float32 [1] and `input_zero_point` int8 [1] beside the integer ones where the input has a fixed range.

Words are filled bit after bit at every width (see `compress.quantize.pack`), as compressed-tensors does since 0.18; older
releases left bits of a word unused at 3, 5, 6 and 7 bits. A scale is two bytes where that is exact and float32 elsewhere;
transformers and vLLM turn it into the type that the model is loaded in, so a scale that is to mean the same there must be
a number of that type (bfloat16 keeps 8 bits of mantissa) before the codes are chosen.

What readers demand (compressed-tensors 0.15 to 0.20 through transformers 5.23; vLLM from its source, not run here):

- Groups that divide the columns, both; vLLM's kernels want 32, 64, 128 or one scale a row, and rows and columns that are
  multiples of 64 and 128. `group_for` finds what transformers takes.
- Widths: transformers 2 to 8 bits; zero points narrower than 8 only as `caution` says, so those of 8 bits are stored
  int-quantized. vLLM 4 and 8 bits (2 to 8 in its newest sources), zero points only pack-quantized; of int-quantized it asserts a
  rounded input, so a symmetric weight of 8 bits whose input stays in float is pack-quantized.
- Some families cannot be loaded packed by transformers: see `export.packable`. Their layers are int-quantized.
- Scales: vLLM reads those of pack-quantized in the model's type and the others as float32. A fixed input range with a
  zero point is implemented there, and called untested by itself.
- vLLM fuses q, k and v, and gate and up: they must share one scheme, or it refuses the folder.
- Inputs rounded a token at a time: transformers does that for [batch, tokens, width]; an input of two axes (the vision
  tower of Qwen2-VL) it rounds with one scale for all tokens.
- `dequantize=True` of transformers 5.23 reads every layer as the first group's: it is for folders with one group. Layers
  are otherwise restored in the first call of the model itself; its parts (`get_image_features`) fail before.
- Modules are known by other names to each reader; `export.targets` writes patterns in which each finds its layers.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.compress.quantize.pack import pack
from triptych.errors import InputError
from triptych.export.targets import targets
from triptych.structure import Settings

Format = Literal["pack-quantized", "int-quantized", "float-quantized"]
VERSION = "0.20.0"  # of compressed-tensors, whose reader the tests hold this against
LEAST_GROUP = 16  # below, scales take more than a bit a weight


class Stored(Settings):
    """How a layer is stored, all that its config entry says.

    Attributes:
        format: the layout of its tensors.
        bits: width of a code.
        group: columns that share a scale; None for one scale a row.
        symmetric: no zero points.
        inputs: "tensor" where the input has a fixed range, "token" where its range is found anew for each token, None
            where it stays in float.
    """

    format: Format
    bits: int = 8
    group: int | None = None
    symmetric: bool = True
    inputs: Literal["tensor", "token"] | None = None


def group_for(columns: int, wanted: int | None) -> int | None:
    """The group size nearest below `wanted` that readers take: the largest divisor of the columns, if it is 16 or more
    (or `wanted`, where that is less); None, one scale a row, where there is none or one group would be the whole row.
    """
    if wanted is None or wanted >= columns:
        return None
    least = min(LEAST_GROUP, wanted)
    return next((group for group in range(wanted, least - 1, -1) if columns % group == 0), None)


def stored(item: QuantizedWeight, inputs: Literal["token"] | None = None, *, plain: bool = False) -> Stored:
    """How a rounded weight is stored.

    Args:
        item: the weight.
        inputs: "token" for engines to round the layer's input too, each token to its own range.
        plain: store one byte a code whatever its width, for layers that cannot be loaded packed (`export.packable`).

    Raises:
        InputError: no reader takes it: another shape than a matrix, a group that does not divide the columns, an
            eight-bit weight in groups or with zero points whose input is rounded.
    """
    if len(item.shape) != 2:
        raise InputError(
            f"compressed-tensors stores matrices, not a weight of shape {tuple(item.shape)}.", "Leave it dense."
        )
    return layout(item.codes.grid, item.shape[1], "tensor" if item.input else inputs, plain=plain)


def layout(
    grid: Grid, columns: int, inputs: Literal["tensor", "token"] | None = None, *, plain: bool = False
) -> Stored:
    """How a weight on a grid is stored; arguments and errors are those of `stored`."""
    group = None if grid.groups(columns) <= 1 else grid.width(columns)
    if group is not None and columns % group:
        raise InputError(
            f"Groups of {group} do not divide {columns} columns, which readers of compressed-tensors refuse.",
            f"Use {group_for(columns, group) or 'one scale a row (group: null)'} there; see `group_for`.",
        )
    if inputs and (group is not None or not grid.symmetric):
        raise InputError(
            "An eight-bit input needs a symmetric weight with one scale a row.", "Set group: null, symmetric: true."
        )
    if grid.number == "float":
        return Stored(format="float-quantized", inputs=inputs)
    plain |= grid.bits == 8 and (inputs is not None or not grid.symmetric)  # see `caution` for the second
    kind: Format = "int-quantized" if plain else "pack-quantized"
    return Stored(format=kind, bits=grid.bits, group=group, symmetric=grid.symmetric, inputs=inputs)


def stored_bytes(shape: Sequence[int], entry: Stored) -> int:
    """Bytes of all tensors of a weight that is stored so; its scales take two bytes each."""
    rows, columns = shape
    groups = 1 if entry.group is None else columns // entry.group
    found = 2 * rows * groups + (5 if entry.inputs == "tensor" else 0)
    if entry.format != "pack-quantized":
        return found + rows * columns + (0 if entry.symmetric else rows * groups)
    zeros = 0 if entry.symmetric else groups * -(-rows * entry.bits // 32)
    return found + 4 * (rows * -(-columns * entry.bits // 32) + zeros) + 16


def caution(entry: Stored) -> str | None:
    """Which released reader refuses a layer that is stored so, where one does."""
    if entry.format != "pack-quantized" or entry.symmetric:
        return None
    old = "older ones read it, or" if entry.bits in {2, 4, 8} else "no older one reads it, but"
    return (
        f"A weight of {entry.bits} bits with zero points is not loaded by transformers with compressed-tensors 0.18 to 0.20, "
        f"which expect them unpacked; {old} `from_pretrained` with `CompressedTensorsConfig(dequantize=True)` does "
        "where all layers are stored alike."
    )


def tensors(name: str, item: QuantizedWeight, *, format: Format | None = None) -> dict[str, Tensor]:  # noqa: A002 - the word of the specification
    """What is stored for one weight, by name on disk.

    Args:
        name: the weight's name on disk, ending in ".weight".
        item: the rounded weight.
        format: the layout; None for the one that `stored` names.

    Raises:
        InputError: as `stored`, or a layout that cannot hold the weight.
    """
    layer, _, attribute = name.rpartition(".")
    if attribute != "weight":
        raise InputError(f"compressed-tensors stores `weight` of a layer, not {name!r}.", "Leave it dense.")
    entry = stored(item)
    kind = format or entry.format
    prefix = f"{layer}." if layer else ""
    if item.codes.grid.number == "float":
        _fits(name, kind, ("float-quantized",))
        values = item.codes.values.view(torch.float8_e4m3fn)
        return {f"{prefix}weight": values.contiguous(), f"{prefix}weight_scale": narrow(item.codes.scale)}
    codes, bits = item.codes, item.codes.grid.bits
    _fits(name, kind, ("int-quantized", "pack-quantized"))
    packed = kind == "pack-quantized"
    found = {"weight_packed": pack(codes.values, bits)} if packed else {"weight": codes.values}
    if packed:
        found["weight_shape"] = torch.tensor(item.shape)
    found["weight_scale"] = narrow(codes.scale)
    if codes.zero is not None:
        found["weight_zero_point"] = pack(codes.zero.T.contiguous(), bits).T if packed else codes.zero
    if item.input is not None:
        found["input_scale"] = torch.tensor([item.input.scale], dtype=torch.float32)
        found["input_zero_point"] = torch.tensor([item.input.zero - 128], dtype=torch.int8)
    return {prefix + key: tensor.contiguous() for key, tensor in found.items()}


def narrow(scale: Float[Tensor, "rows groups"]) -> Float[Tensor, "rows groups"]:
    """The scales in two bytes where that changes none of them, else in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        half = scale.to(dtype)
        if torch.equal(half.to(torch.float32), scale.to(torch.float32)):
            return half.contiguous()
    return scale.to(torch.float32).contiguous()


def quantization_config(
    layers: Mapping[str, Stored],
    dense: Iterable[str],
    *,
    on_disk: Mapping[str, str] | None = None,
    kv_cache_scheme: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The entry `quantization_config` of config.json.

    Args:
        layers: by module name in the built model, how its weight is stored.
        dense: names of the nn.Linear modules that stay as they are.
        on_disk: by module name, its name on disk where that differs.
        kv_cache_scheme: arguments of a rounded key-value cache, as compressed-tensors spells them.

    Raises:
        InputError: a layer that is both stored and dense.
    """
    left = sorted(set(dense))
    both = next((name for name in left if name in layers), None)
    if both is not None:
        raise InputError(f"{both} is listed as rounded and as dense.", "List it once.")
    names = on_disk or {}
    known = {*layers, *left, *names.values()}
    groups: dict[Stored, list[str]] = defaultdict(list)
    for name, entry in layers.items():
        groups[entry].append(name)
    formats = sorted({entry.format for entry in groups})
    return {
        "quant_method": "compressed-tensors",
        "version": VERSION,
        "quantization_status": "compressed",
        "format": formats[0] if len(formats) == 1 else "mixed-precision" if formats else "dense",
        "config_groups": {
            f"group_{number}": _group(entry, targets(groups[entry], names, known))
            for number, entry in enumerate(sorted(groups, key=repr))
        },
        "ignore": targets(left, names, known),
        "kv_cache_scheme": None if kv_cache_scheme is None else dict(kv_cache_scheme),
        "global_compression_ratio": None,
    }


def _group(entry: Stored, names: list[str]) -> dict[str, Any]:
    number = "float" if entry.format == "float-quantized" else "int"
    inputs = None
    if entry.inputs:
        fixed = entry.inputs == "tensor"
        inputs = {**_arguments(8, number, not fixed, entry.inputs), "dynamic": not fixed}
    strategy = "channel" if entry.group is None else "group"
    return {
        "format": entry.format,
        "targets": names,
        "weights": _arguments(entry.bits, number, entry.symmetric, strategy, entry.group),
        "input_activations": inputs,
        "output_activations": None,
    }


def _arguments(bits: int, number: str, symmetric: bool, strategy: str, group: int | None = None) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": number,
        "symmetric": symmetric,
        "strategy": strategy,
        "group_size": group,
        "dynamic": False,
    }


def _fits(name: str, kind: str, possible: tuple[Format, ...]) -> None:
    if kind not in possible:
        raise InputError(f"{name} cannot be stored as {kind}.", f"Store it as {' or '.join(possible)}.")
