"""OpenVINO as an engine: the default on CPUs.

Every program has fixed shapes: one is compiled for single samples, which is what latency means on an embedded machine, and
one for each power of two that a batch is filled up to. Fixed shapes let the plugin plan its memory and kernels, and they are
the only right ones: with an open batch axis, OpenVINO 2026.4 loses the bias of a convolution whose output is rounded for two
readers (found with a residual block; the same graph with fixed shapes agrees with PyTorch to 1e-6).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from triptych.compress.quantize.layers import QuantizedWeight
from triptych.decoders import search
from triptych.engines import Example
from triptych.engines.graph import core, to_graph, to_steps
from triptych.errors import ArtifactError, InputError
from triptych.registry import register

STEP = "openvino_step.xml"  # beside the graph of a model that writes: one token

# Our scales and ranges are exact only in float32, and the plugin's own rounding of activations (on by default for low-bit weights)
# would add an error that the quality gate did not see.
SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}


class Executed(NamedTuple):
    """One operation of a compiled program."""

    name: str  # names of the graph's operations that were fused into it
    type: str  # "Convolution", "FullyConnected", ...
    precision: str  # of the arithmetic: "u8" and "i8" for integer products, "f32"
    kernel: str  # the plugin's implementation


class Program(NamedTuple):
    """A compiled graph of one batch size, with arrays on its inputs and outputs: they are filled and read, not passed, at a call."""

    compiled: ov.CompiledModel
    request: ov.InferRequest
    inputs: dict[str, np.ndarray]
    outputs: list[np.ndarray]


class Programs:
    """The programs of one graph, each compiled when its batch size is first asked for."""

    def __init__(self, graph: ov.Model, threads: int | None) -> None:
        self.graph = graph
        self.inputs = [port.get_node().get_friendly_name() for port in graph.inputs]
        self.settings = SETTINGS | ({} if threads is None else {"INFERENCE_NUM_THREADS": str(threads)})
        self._made: dict[int, Program] = {}

    def __getitem__(self, batch: int) -> Program:
        """The program for batches of this size."""
        if batch not in self._made:
            graph = self.graph.clone()
            shapes = {port: [batch, *list(port.get_partial_shape())[1:]] for port in graph.inputs}
            graph.reshape({port: ov.PartialShape(shape) for port, shape in shapes.items()})
            compiled = core().compile_model(graph, "CPU", self.settings)
            request = compiled.create_infer_request()
            tensors = [ov.Tensor(port.get_element_type(), port.get_shape()) for port in compiled.inputs]
            for place, tensor in enumerate(tensors):
                tensor.data[...] = 0
                request.set_input_tensor(place, tensor)
            inputs = dict(zip(self.inputs, (tensor.data for tensor in tensors), strict=True))
            outputs = [request.get_output_tensor(place).data for place in range(len(compiled.outputs))]
            self._made[batch] = Program(compiled, request, inputs, outputs)
        return self._made[batch]

    def __call__(self, tensors: Mapping[str, Tensor]) -> list[np.ndarray]:
        """The outputs of a batch; they are overwritten by the next call."""
        count = len(next(iter(tensors.values())))
        program = self[1 << max(0, count - 1).bit_length()]
        for name, tensor in tensors.items():  # rows beyond are what was there before; no row looks at another
            program.inputs[name][:count] = tensor.numpy()
        program.request.infer()
        return [output[:count] for output in program.outputs]


@register("engine", "openvino")
class OpenVINOEngine:
    """Runs a model in OpenVINO on the CPU, with our codes.

    Args:
        model: called as model(inputs, presence); copied.
        example: a batch to trace with.
        quantized: rounded weights; see `graph.to_graph`.
        threads: None for one a core.

    Attributes:
        sampler: where it is set, a model that writes draws its texts by it.

    Raises:
        InputError: a rounded weight that the graph does not have.
    """

    name = "openvino"
    sampler: search.Sampler | None = None

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        quantized: Mapping[str, QuantizedWeight] | None = None,
        threads: int | None = None,
    ) -> None:
        writer: Any = getattr(model, "task", None)
        if hasattr(writer, "step"):
            reading, stepping = to_steps(model, example, quantized)
            stepping.set_rt_info(writer.config.length, "length")
            stepping.set_rt_info(writer.config.beams, "beams")
            self._take(reading, stepping, threads)
        else:
            self._take(to_graph(model, example, quantized), None, threads)

    @classmethod
    def read(cls, path: Path, threads: int | None = None) -> "OpenVINOEngine":
        """The engine of a graph that `export.openvino` wrote; no PyTorch model is needed.

        Raises:
            ArtifactError: OpenVINO cannot read the file.
        """
        engine = cls.__new__(cls)
        step = path.with_name(STEP)
        try:
            graph = core().read_model(path)
            stepping = core().read_model(step) if step.exists() else None
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot read {path}: {error}", "Export the model again.") from error
        engine._take(graph, stepping, threads)
        return engine

    def _take(self, graph: ov.Model, stepping: ov.Model | None, threads: int | None) -> None:
        self.graph, self.threads = graph, threads
        self.program = Programs(graph, threads)
        self.step = None if stepping is None else Programs(stepping, threads)
        self._fields = frozenset(self.program.inputs) - {"presence"}

    def __call__(
        self, inputs: dict[str, Tensor], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[np.ndarray, "batch ..."] | Int[np.ndarray, "batch length"]:
        """The model's outputs for a batch; of a model that writes, the ids that were written.

        Raises:
            InputError: other inputs than the model has.
        """
        if inputs.keys() != self._fields:
            known = ", ".join(name for name in self.program.inputs if name != "presence")
            raise InputError(f"The engine was made for the inputs {known}, not {', '.join(inputs)}.")
        outputs = self.program({**inputs, "presence": presence})
        return outputs[0].copy() if self.step is None else _written(self.step, outputs, self.sampler)

    def executed(self, batch: int = 1) -> list[Executed]:
        """What the program runs, constants left out: the proof of which products are integer ones."""
        operations = []
        for node in self.program[batch].compiled.get_runtime_model().get_ordered_ops():
            info = {
                key: str(value.astype(str)) for key, value in node.get_rt_info().items() if hasattr(value, "astype")
            }
            if info.get("layerType") not in ("Const", "Input", "Output"):
                operations.append(
                    Executed(
                        info.get("originalLayersNames", node.get_friendly_name()),
                        info.get("layerType", node.get_type_name()),
                        info.get("runtimePrecision", ""),
                        info.get("primitiveType", ""),
                    )
                )
        return operations


def _written(run: Programs, state: list[np.ndarray], sampler: search.Sampler | None) -> Int[np.ndarray, "batch length"]:
    """The texts that follow from the state in which samples were read, a run of the program for each token."""

    def step(ids: Tensor, place: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        said, *after = run({"ids": ids, "place": place, **{f"state_{n}": one for n, one in enumerate(state)}})
        return torch.from_numpy(said), tuple(map(torch.from_numpy, after))

    length, beams = (int(run.graph.get_rt_info(name).value) for name in ("length", "beams"))
    return search.write(step, tuple(map(torch.from_numpy, state)), length, beams=beams, sampler=sampler).numpy()
