"""Folders whose weights we rounded, opened as if they were dense: a rounded weight reads as what its codes stand for.

The inverse of `export.compressed_tensors`, which says how codes are stored: layouts pack-quantized and int-quantized.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.pack import unpack
from triptych.errors import ArtifactError, InputError
from triptych.models.tensors import AGAIN, Entry

SCALE, PACKED, ZERO, SHAPE = "weight_scale", "weight_packed", "weight_zero_point", "weight_shape"


@dataclass(frozen=True)
class RoundedEntry(Entry):
    """A weight that is stored as codes and what belongs to them.

    Attributes:
        parts: the stored tensors, by what each is called behind the layer's name.
        scheme: how it was rounded.
    """

    parts: Mapping[str, Entry]
    scheme: LayerScheme

    @property
    def bytes(self) -> int:
        """Bytes that all its parts take."""
        return sum(entry.bytes for entry in self.parts.values())

    def item(self) -> QuantizedWeight:
        """The codes."""
        grid, (rows, columns), packed = self.scheme.weight, self.shape, PACKED in self.parts
        assert grid is not None
        read = {name: entry.read() for name, entry in self.parts.items()}
        values = unpack(read[PACKED], grid.bits, columns) if packed else read["weight"]
        zero = read.get(ZERO)
        if packed and zero is not None:
            zero = unpack(zero.T.contiguous(), grid.bits, rows).T.contiguous()
        return QuantizedWeight(Codes(values, read[SCALE].float(), zero, grid), self.shape, self.scheme)

    def read(self, first: int = 0, count: int | None = None) -> Tensor:
        """What the codes of `count` rows from row `first` stand for, in float32."""
        return self.item().codes.rows(slice(first, None if count is None else first + count)).dequantize()

    def rows(self, ids: Tensor) -> Tensor:
        """Some rows, in the order of `ids`."""
        return self.item().codes.rows(ids).dequantize()


def with_codes(entries: Mapping[str, Entry], said: Mapping[str, Any], path: Path) -> dict[str, Entry]:
    """The stored tensors with those of each rounded layer in one entry, under the name of its weight.

    Args:
        entries: all that is stored, by name.
        said: `quantization_config`.
        path: the folder, for messages.

    Raises:
        InputError: it was rounded in another way than ours.
        ArtifactError: codes that the config does not speak of.
    """
    method = said.get("quant_method", "some method")
    if method != "compressed-tensors":
        raise InputError(f"{path} is quantised already ({method}).", "Point at the model it was made from.")
    found = dict(entries)
    for layer in [name.removesuffix(f".{SCALE}") for name in entries if name.endswith(f".{SCALE}")]:
        own = (PACKED, SHAPE, SCALE, ZERO, "weight", "input_scale", "input_zero_point")
        parts = {part: found.pop(f"{layer}.{part}") for part in own if f"{layer}.{part}" in found}
        group = next((g for g in said.get("config_groups", {}).values() if _meant(layer, g.get("targets", ()))), None)
        if group is None or not {PACKED, "weight"} & parts.keys():
            raise ArtifactError(f"{path} holds codes of {layer}, of which its config says nothing.", AGAIN)
        codes = parts.get(PACKED) or parts["weight"]
        shape = tuple(parts[SHAPE].read().tolist()) if SHAPE in parts else codes.shape
        scheme = _scheme(group, parts[SCALE].dtype, f"{path}: {layer}")
        found[f"{layer}.weight"] = RoundedEntry(codes.file, torch.float32, shape, codes.start, parts, scheme)
    return found


def _meant(layer: str, targets: Iterable[str]) -> bool:
    return any(re.match(t[3:], layer) if t.startswith("re:") else t == layer for t in targets)


def _scheme(group: Mapping[str, Any], scales: torch.dtype, where: str) -> LayerScheme:
    weights, inputs = group["weights"], group.get("input_activations")
    if weights["type"] != "int" or (inputs and not inputs["dynamic"]):
        how = f"as {group.get('format')}{' with a fixed range of inputs' if inputs and not inputs['dynamic'] else ''}"
        raise InputError(f"{where} is stored {how}, which is not read back.", "Point at the model it was made from.")
    kind = "bfloat16" if scales == torch.bfloat16 else "float16"
    grid = Grid(bits=weights["num_bits"], group=weights["group_size"], symmetric=weights["symmetric"], scales=kind)
    return LayerScheme(weight=grid, activation=8 if inputs else None, per_token=bool(inputs))
