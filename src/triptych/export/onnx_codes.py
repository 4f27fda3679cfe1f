"""Codes as the operands of ONNX Runtime's block-quantised operators, and the layers that compute with them.

MatMulNBits and GatherBlockQuantized read codes of 2, 4 or 8 bits, unsigned, lowest bits first, in blocks along the columns
whose width is a power of two from 16 to 256. Ours become theirs exactly: 3 bits are stored in 4, and 5 to 7 in 8; a group
is one block, or several with the same scale.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from triptych.compress.quantize import layers
from triptych.compress.quantize.grid import Codes
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.errors import InputError

WIDTHS = (256, 128, 64, 32, 16)
DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class Blocks:
    """Operands of the block-quantised operators; the last block is padded with zero points.

    Attributes:
        codes: packed along the last axis.
        scale: one a block.
        zero: zero points, packed along the blocks; None for the middle of the range.
        bits: of a stored code.
        width: columns in a block.
        columns: of the matrix.
    """

    codes: UInt8[Tensor, "rows blocks bytes"]
    scale: Float[Tensor, "rows blocks"]
    zero: UInt8[Tensor, "rows packed"] | None
    bits: int
    width: int
    columns: int


def block_width(codes: Codes) -> int | None:
    """Columns in a block: the widest that the groups allow and that pads least; None where the operators have none."""
    columns = codes.values.shape[1]
    group = codes.grid.width(columns)
    if codes.scale.shape[1] == 1:
        return min(WIDTHS, key=lambda width: (-(-columns // width) * width, -width))
    return next((width for width in WIDTHS if group % width == 0), None)


def to_blocks(codes: Codes) -> Blocks | None:
    """The operands for a rounded matrix, or None where its groups are no multiple of 16 columns."""
    width = block_width(codes)
    if width is None:
        return None
    rows, columns = codes.values.shape
    bits = next(bits for bits in (2, 4, 8) if bits >= codes.grid.bits)
    blocks, middle = -(-columns // width), 1 << (bits - 1)
    group = blocks if codes.scale.shape[1] == 1 else codes.grid.width(columns) // width  # blocks in a group
    scale = codes.scale.repeat_interleave(group, 1)[:, :blocks].contiguous()
    zero = None if codes.zero is None else codes.zero.repeat_interleave(group, 1)[:, :blocks]
    pad = codes.values.new_zeros(rows, 1) if zero is None else zero[:, -1:]
    values = torch.cat([codes.values, pad.expand(rows, blocks * width - columns)], 1).reshape(rows, blocks, width)
    return Blocks(
        _pack(values.to(torch.int16) + middle, bits),
        scale,
        None if zero is None else _pack(zero.to(torch.int16) + middle, bits),
        bits,
        width,
        columns,
    )


def _pack(values: Int[Tensor, "*axes columns"], bits: int) -> UInt8[Tensor, "*axes bytes"]:
    """Unsigned codes as bytes, the first in the lowest bits."""
    each = 8 // bits
    filled = F.pad(values, (0, -values.shape[-1] % each)).unflatten(-1, (-1, each))
    return (filled << torch.arange(each, dtype=values.dtype) * bits).sum(-1).to(torch.uint8)


class Coded(nn.Module):
    """What a layer with a rounded weight becomes while a model is exported."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, source: Codes, blocks: Blocks) -> None:
        super().__init__()
        self.source, self.bits, self.width, self.columns = source, blocks.bits, blocks.width, blocks.columns
        self.register_buffer("codes", blocks.codes)
        self.register_buffer("scale", blocks.scale)
        self.register_buffer("zero", blocks.zero)


class CodedLinear(Coded):
    """A linear layer: MatMulNBits in a graph, the plain product of the restored weight elsewhere."""

    def __init__(self, source: Codes, blocks: Blocks, bias: Tensor | None) -> None:
        super().__init__(source, blocks)
        self.bias = bias

    def forward(self, x: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch rows"]:
        """The product."""
        if not torch.compiler.is_exporting():
            return F.linear(x, self.source.dequantize(x.dtype), self.bias)
        rows = self.codes.shape[0]
        settings: dict[str, Any] = {
            "K": self.columns,
            "N": rows,
            "bits": self.bits,
            "block_size": self.width,
            "accuracy_level": 0,
        }
        operands: tuple[Tensor | None, ...] = (x, self.codes, self.scale, self.zero, None, self.bias)
        while operands[-1] is None:
            operands = operands[:-1]
        shape = (*x.shape[:-1], rows)
        return symbolic(f"{DOMAIN}::MatMulNBits", operands, settings, dtype=x.dtype, shape=shape, version=1)


class CodedEmbedding(Coded):
    """A table: GatherBlockQuantized in a graph, the rows of the restored weight elsewhere."""

    def __init__(self, source: Codes, blocks: Blocks) -> None:
        super().__init__(source, blocks)
        self.num_embeddings, self.embedding_dim = source.values.shape  # as nn.Embedding calls them

    def forward(self, ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch columns"]:
        """The rows asked for."""
        if not torch.compiler.is_exporting():
            return F.embedding(ids, self.source.dequantize())
        settings: dict[str, Any] = {"bits": self.bits, "block_size": self.width, "gather_axis": 0, "quantize_axis": 1}
        operands = (self.codes.flatten(1), ids, self.scale, *(() if self.zero is None else (self.zero,)))
        shape = (*ids.shape, self.codes.shape[1] * self.width)
        rows = symbolic(
            f"{DOMAIN}::GatherBlockQuantized", operands, settings, dtype=self.scale.dtype, shape=shape, version=1
        )
        return rows[..., : self.columns]


@contextmanager
def rounded(model: nn.Module, quantized: Mapping[str, QuantizedWeight]) -> Iterator[list[str]]:
    """The model with its weights rounded, as coded layers where there is an operator for them, until this ends.

    Gives the names of rounded weights that are float values somewhere.

    Raises:
        InputError: a weight that the model lacks, or one whose layer's input is rounded.
    """
    views, dense = layers.weights(model), []
    with ExitStack() as undo:
        for name, item in quantized.items():
            view = views.get(name)
            if view is None:
                raise InputError(f"The model has no compressible weight {name!r}.", f"It has: {', '.join(views)}.")
            if item.scheme.activation is not None:
                raise InputError(
                    f"The plan rounds the input of {name}, which the decoder's operators do not do as it says.",
                    "Set activation: null for the layers of the decoder.",
                )
            blocks = to_blocks(item.codes) if view.kind in ("linear", "embedding") else None
            paths = [alias.rpartition(".")[0] for alias in (name, *view.aliases)]
            coded = {path: _coded(model.get_submodule(path), item.codes, blocks) for path in paths}
            for path, layer in coded.items():
                if layer is not None:
                    undo.callback(model.set_submodule, path, model.get_submodule(path))
                    model.set_submodule(path, layer)
            if not all(coded.values()):
                dense.append(name)
                undo.callback(setattr, view.parameter, "data", view.parameter.data)
                view.parameter.data = item.restored(view.parameter.dtype)
        yield dense


def _coded(module: nn.Module, codes: Codes, blocks: Blocks | None) -> Coded | None:
    """The coded layer that does what a module does, if there is one; a subclass may do something else."""
    if blocks is not None and isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward:
        return CodedLinear(codes, blocks, module.bias)
    if blocks is not None and type(module).forward is nn.Embedding.forward:
        return CodedEmbedding(codes, blocks)
    return None
