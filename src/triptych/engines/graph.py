"""A PyTorch model as an OpenVINO graph that computes with our codes.

The model is traced and read by OpenVINO's PyTorch frontend alone, before any of the transformations that would fold norms into weights
or merge constants, so that each weight is still one constant with its parameter's name. Each rounded weight then becomes

    constant (i4 or i8) -> convert -> [subtract zero] -> multiply scale -> [reshape]

which the CPU plugin recognises: it keeps the codes as they are for Linear (FullyConnected) and Embedding (Gather), and, where the
layer's input is rounded too, multiplies integers in Convolution and FullyConnected. Elsewhere it restores the weight once, when the
model is compiled. A rounded input is a FakeQuantize on the layer's input alone: what else reads that tensor, such as a residual sum,
gets it unrounded, exactly as in PyTorch.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from triptych.compress.quantize import layers
from triptych.compress.quantize.activation import LEVELS, Range
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines import Example
from triptych.engines.torch import logits
from triptych.errors import InputError

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")
MOVES = ("Reshape", "Transpose", "Convert", "ConvertLike", "Unsqueeze", "Squeeze")  # they only move or recast a weight


class _Positional(nn.Module):
    """The model with one positional tensor an input, presence last, as tracing wants it."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *tensors: Tensor) -> Tensor:
        return logits(self.model(dict(zip(self.names, tensors[:-1], strict=True)), tensors[-1]))


def to_graph(model: nn.Module, example: Example, quantized: Mapping[str, QuantizedWeight] | None = None) -> ov.Model:
    """Converts a model; inputs carry their modality's name, and `presence`, and take any batch size.

    Args:
        model: called as model(inputs, presence); it is copied, and input rounding that `layers.apply` installed is left out
            of the copy, because `quantized` says it.
        example: a batch to trace with, best of more than one sample.
        quantized: rounded weights; all others stay as they are in the model.

    Raises:
        InputError: a rounded weight that the graph does not have.
    """
    inputs, presence = example
    names = list(inputs)
    twin = copy.deepcopy(model).eval()
    layers.remove(twin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every shape that Python reads, and of its own age
        decoder = TorchScriptPythonDecoder(
            _Positional(twin, names),
            example_input=(*inputs.values(), presence),
            shared_memory=False,
            trace_kwargs={"check_trace": False},
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph = frontend.convert(frontend.load(decoder))
    _name_inputs(graph, [*names, "presence"], [*inputs.values(), presence])
    if quantized:
        _put_codes(graph, twin, quantized)
    graph.validate_nodes_and_infer_types()
    return graph


def _name_inputs(graph: ov.Model, names: list[str], tensors: list[Tensor]) -> None:
    for port, name, tensor in zip(graph.inputs, names, tensors, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(ov.PartialShape([-1, *tensor.shape[1:]]))
    graph.outputs[0].get_tensor().set_names({"logits"})


def _put_codes(graph: ov.Model, model: nn.Module, quantized: Mapping[str, QuantizedWeight]) -> None:
    """Replaces the constants of rounded weights and rounds the inputs of eight-bit layers."""
    constants = {node.get_friendly_name(): node for node in graph.get_ops() if node.get_type_name() == "Constant"}
    views = layers.weights(model)
    rounded: dict[
        tuple[str, int, float, int], ov.Output
    ] = {}  # one FakeQuantize a tensor and range, however many read it
    for name, item in quantized.items():
        view = views.get(name)
        spellings = [name] if view is None else [name, *view.aliases]
        constant = next((constants[key] for s in spellings if (key := f"self.model.{s}") in constants), None)
        if constant is None and view is not None:
            constant = _same_values(constants.values(), view.parameter)
        if constant is None or tuple(constant.get_output_shape(0)) != tuple(item.shape):
            raise InputError(
                f"OpenVINO's graph of the model has no constant of shape {tuple(item.shape)} for {name}.",
                "Leave this weight unrounded in the plan, or run the model with the torch engine.",
            )
        restored = _restore(item)
        for reader in constant.output(0).get_target_inputs():
            reader.replace_source_output(restored)
        if item.input is not None:
            for product in _products(restored):
                _round_input(product, item.input, rounded)


def _same_values(constants: Iterator[ov.Node], parameter: Tensor) -> ov.Node | None:
    """The constant that holds a parameter's values under another name."""
    wanted = parameter.detach().numpy()
    for node in constants:
        if tuple(node.get_output_shape(0)) == wanted.shape and node.get_element_type() == ov.Type.f32:
            if np.array_equal(node.data, wanted):
                return node
    return None


def _restore(item: QuantizedWeight) -> ov.Output:
    """The subgraph that turns codes into the weight, in the layer's shape."""
    codes, shape = item.codes, tuple(item.shape)
    rows, columns = codes.values.shape
    groups, width = codes.grid.groups(columns), codes.grid.width(columns)
    values = torch.nn.functional.pad(codes.values, (0, groups * width - columns))
    # One scale a row: the constant has the layer's shape, as integer convolutions need. Else it is [rows, groups, width].
    stored = shape if groups == 1 else (rows, groups, width)
    beside = (rows, *[1] * (len(shape) - 1)) if groups == 1 else (rows, groups, 1)
    weight = _integers(values.numpy(), stored, codes.grid.bits)
    if item.input is not None:  # integer kernels take eight bits; narrower codes are widened when the model is compiled
        weight = op.convert(weight, "i8")
    weight = op.convert(weight, "f32")
    if codes.zero is not None:
        weight = op.subtract(weight, op.convert(_integers(codes.zero.numpy(), beside, codes.grid.bits), "f32"))
    weight = op.multiply(weight, _scales(codes.scale.numpy().reshape(beside)))
    if groups > 1:
        if groups * width != columns:
            weight = op.reshape(weight, np.array([rows, groups * width]), special_zero=False)
            weight = op.slice(weight, np.array([0]), np.array([columns]), np.array([1]), np.array([1]))
        weight = op.reshape(weight, np.array(shape), special_zero=False)
    return weight.output(0)


def _integers(values: np.ndarray, shape: tuple[int, ...], bits: int) -> ov.Node:
    """A constant of four-bit integers where they suffice, of eight-bit ones elsewhere; it owns its memory."""
    if bits > 4:
        return op.constant(np.ascontiguousarray(values.reshape(shape)), dtype=np.int8, shared_memory=False)
    low = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).astype(np.uint8) & 15
    packed = ov.Tensor(low[0::2] | (low[1::2] << 4), ov.Shape(list(shape)), ov.Type.i4)
    return op.constant(packed, shared_memory=False)


def _scales(scale: np.ndarray) -> ov.Node:
    """Scales as float32, stored in two bytes each where that changes none of them."""
    half = scale.astype(np.float16)
    if np.array_equal(half.astype(np.float32), scale):
        return op.convert(op.constant(half, shared_memory=False), "f32")
    return op.constant(scale, shared_memory=False)


def _products(weight: ov.Output) -> Iterator[ov.Node]:
    """The convolutions and matrix products that a weight reaches."""
    for reader in weight.get_target_inputs():
        node = reader.get_node()
        if node.get_type_name() in PRODUCTS and reader.get_index() == 1:
            yield node
        elif node.get_type_name() in MOVES and reader.get_index() == 0:
            yield from _products(node.output(0))


def _round_input(product: ov.Node, range: Range, rounded: dict[tuple[str, int, float, int], ov.Output]) -> None:  # noqa: A002
    """Puts a FakeQuantize on the data input of a product."""
    source = product.input(0).get_source_output()
    key = (source.get_node().get_name(), source.get_index(), range.scale, range.zero)
    if key not in rounded:
        ends = [op.constant(np.float32(end)) for end in (*range.bounds, *range.bounds)]
        rounded[key] = op.fake_quantize(source, *ends, LEVELS).output(0)
    product.input(0).replace_source_output(rounded[key])
