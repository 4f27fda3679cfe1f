"""A PyTorch model as an OpenVINO graph that computes with our codes.

The model is traced with its inputs' rounding in place, so the graph rounds exactly what PyTorch rounds, and read by
OpenVINO's PyTorch frontend alone, before any of the transformations that would fold norms into weights or merge
constants: each weight is then still one constant with its parameter's name. A rounded weight becomes

    constant (i4 or i8) -> convert -> [subtract zero] -> multiply scale -> [reshape]

which the CPU plugin recognises. It keeps the codes as they are for Linear (FullyConnected) and Embedding (Gather), and,
where the layer's input is rounded too, multiplies integers in Convolution and FullyConnected. Elsewhere it restores the
weight once, when the model is compiled.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from triptych.compress.quantize import layers
from triptych.compress.quantize.activation import LEVELS
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines import Example
from triptych.engines.torch import logits
from triptych.errors import InputError


@cache
def core() -> ov.Core:
    """The plugin loader, one a process."""
    return ov.Core()


Call = Callable[..., Tensor | tuple[Tensor, ...]]


class _Traced(nn.Module):
    """A model and what is called of it, with positional tensors, as tracing wants it."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.call(self.model, *tensors)


def to_graph(model: nn.Module, example: Example, quantized: Mapping[str, QuantizedWeight] | None = None) -> ov.Model:
    """Converts a model; inputs carry their modality's name, and `presence`, and take any batch size.

    Args:
        model: called as model(inputs, presence). It is copied, and what `layers.apply` may have installed is taken out of
            the copy: `quantized` says it all.
        example: a batch to trace with, best of more than one sample.
        quantized: rounded weights; all others stay as they are in the model.

    Raises:
        InputError: a rounded weight that the model or its graph does not have.
    """
    inputs, presence = example
    names = list(inputs)

    def whole(model: nn.Module, *tensors: Tensor) -> Tensor:
        return logits(model(dict(zip(names, tensors[:-1], strict=True)), tensors[-1]))

    twin = _twin(model, quantized)
    graph = _trace(twin, whole, {**inputs, "presence": presence}, ["logits"])
    _put_codes([graph], twin, quantized or {})
    return _finished(graph)


def to_steps(
    model: nn.Module, example: Example, quantized: Mapping[str, QuantizedWeight] | None = None
) -> tuple[ov.Model, ov.Model]:
    """Converts a model that writes token by token: one graph that reads a sample, one that takes a step.

    The first turns inputs and presence into a state, `state_0` and so on; the second turns `ids`, `place` and a state into `logits`
    and the next state. Arguments and errors as of `to_graph`.
    """
    inputs, presence = example
    names = list(inputs)

    def read(model: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        memory, _ = model.read(dict(zip(names, tensors[:-1], strict=True)), tensors[-1])
        return tuple(model.task.start(*memory))

    def step(model: Any, ids: Tensor, place: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        said, after = model.task.step(ids, place, state)
        return said, *after

    twin = _twin(model, quantized)
    with torch.no_grad():
        state = read(twin, *inputs.values(), presence)
    kept = {f"state_{number}": one.clone() for number, one in enumerate(state)}
    ids = torch.zeros(len(presence), dtype=torch.int64)
    reading = _trace(twin, read, {**inputs, "presence": presence}, list(kept))
    stepping = _trace(twin, step, {"ids": ids, "place": ids, **kept}, ["logits", *(f"next_{name}" for name in kept)])
    _put_codes([reading, stepping], twin, quantized or {})
    return _finished(reading), _finished(stepping)


def _twin(model: nn.Module, quantized: Mapping[str, QuantizedWeight] | None) -> nn.Module:
    twin = copy.deepcopy(model).eval()
    layers.remove(twin)
    layers.apply(twin, quantized or {})
    return twin


def _trace(twin: nn.Module, call: Call, tensors: Mapping[str, Tensor], outputs: list[str]) -> ov.Model:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every shape that Python reads, and of its own age
        decoder = TorchScriptPythonDecoder(
            _Traced(twin, call),
            example_input=tuple(tensors.values()),
            shared_memory=False,
            trace_kwargs={"check_trace": False},
        )
        frontend = FrontEndManager().load_by_framework("pytorch")
        graph: ov.Model = frontend.convert(frontend.load(decoder))
    for port, (name, tensor) in zip(graph.inputs, tensors.items(), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
        port.get_node().set_partial_shape(ov.PartialShape([-1, *tensor.shape[1:]]))
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    return graph


def _finished(graph: ov.Model) -> ov.Model:
    _share_rounding(graph)
    graph.validate_nodes_and_infer_types()
    return graph


def _put_codes(graphs: list[ov.Model], model: nn.Module, quantized: Mapping[str, QuantizedWeight]) -> None:
    """Puts codes in the place of rounded weights' constants, in every graph that has them."""
    held = [
        {node.get_friendly_name(): node for node in graph.get_ops() if node.get_type_name() == "Constant"}
        for graph in graphs
    ]
    views = layers.weights(model)
    for name, item in quantized.items():
        spellings = [f"self.model.{alias}" for alias in (name, *views[name].aliases)]
        found = [next((c[spelling] for spelling in spellings if spelling in c), None) for c in held]
        if not any(found):
            found = [_same_values(c.values(), views[name].parameter) for c in held]
        if not any(found):
            raise InputError(
                f"OpenVINO's graph of the model has no constant for {name}.",
                "Leave this weight unrounded in the plan, or run the model with the torch engine.",
            )
        for constant in filter(None, found):
            restored = _restore(item)
            for reader in constant.output(0).get_target_inputs():
                reader.replace_source_output(restored)


def _share_rounding(graph: ov.Model) -> None:
    """Leaves one FakeQuantize a tensor and range, with plain numbers for its ends, however many layers asked for it."""
    found = [node for node in graph.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    if not found:
        return
    ends = [node.input_value(place) for node in found for place in (1, 2)]  # small subgraphs of constants
    numbers = core().compile_model(ov.Model(ends, [], "ends"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({})
    shared: dict[tuple[str, int, float, float], ov.Output] = {}
    for index, node in enumerate(found):
        source, low, high = node.input_value(0), float(numbers[2 * index]), float(numbers[2 * index + 1])
        key = (source.get_node().get_name(), source.get_index(), low, high)
        if key not in shared:
            bounds = [op.constant(np.float32(end)) for end in (low, high, low, high)]
            shared[key] = op.fake_quantize(source, *bounds, LEVELS).output(0)
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(shared[key])


def _same_values(constants: Iterable[ov.Node], parameter: Tensor) -> ov.Node | None:
    """The constant that holds a parameter's values under another name."""
    wanted = parameter.detach().numpy()
    for node in constants:
        alike = tuple(node.get_output_shape(0)) == wanted.shape and node.get_element_type() == ov.Type.f32
        if alike and np.array_equal(node.data, wanted):
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
