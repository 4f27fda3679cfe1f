"""A model as OpenVINO's own files, with our codes: `openvino_model.xml` and `.bin`.

A model that writes has a second graph, `openvino_step.xml`, which says the next token: see `engines.openvino`.

Codes stay as narrow on disk as they are in the graph: four bits or eight, with two-byte scales. The processor's files, which turn
images, sound and text into the model's inputs, are the caller's to put beside them.
"""

from collections.abc import Mapping
from pathlib import Path

import openvino as ov
from torch import nn

from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines import Example
from triptych.engines.openvino import STEP, OpenVINOEngine
from triptych.errors import InputError

NAME = "openvino_model.xml"


def export(model: nn.Module, example: Example, quantized: Mapping[str, QuantizedWeight] | None, folder: Path) -> Path:
    """Writes the graph; `OpenVINOEngine.read` or any OpenVINO program runs it.

    Its inputs carry the names of the modalities, and `presence`. It is for one sample at a time; `reshape` makes it take
    more, best of a fixed number (see `engines.openvino` for why). Weights that are not rounded are float32.

    Args:
        model: called as model(inputs, presence).
        example: a batch to trace with.
        quantized: rounded weights.
        folder: made if missing.

    Returns:
        Path of the .xml file.

    Raises:
        InputError: the folder holds an export already, or the graph lacks a rounded weight.
    """
    path = Path(folder) / NAME
    if path.exists():
        raise InputError(f"{path} exists already.", "Name another folder, or remove it first.")
    engine = OpenVINOEngine(model, example, quantized)
    path.parent.mkdir(parents=True, exist_ok=True)
    for programs, name in ((engine.program, NAME), (engine.step, STEP)):
        if programs is not None:
            graph = programs.graph
            graph.reshape({port: ov.PartialShape([1, *list(port.get_partial_shape())[1:]]) for port in graph.inputs})
            ov.save_model(graph, path.with_name(name), compress_to_fp16=False)
    return path
