"""A model as OpenVINO's own files, with our codes: `openvino_model.xml` and `.bin`, or the encoder alone beside a decoder.

Codes stay as narrow on disk as they are in the graph: four bits or eight, with two-byte scales. The processor's files, which turn
images, sound and text into the model's inputs, are the caller's to put beside them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from triptych.compress.quantize import layers
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines import Example
from triptych.engines.graph import to_graph
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.pictures import NAME as ENCODER
from triptych.engines.pictures import TOKEN, PictureEncoder, picture_token
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError, NumericsError

NAME = "openvino_model.xml"
AGREE = 0.02  # of the spread of a picture's vectors; integer kernels round in another order


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
    path = _free(Path(folder) / NAME)
    _save(to_graph(model, example, quantized), path)
    return path


def export_encoder(
    model: PreTrainedModel,
    pictures: Mapping[str, Tensor],
    quantized: Mapping[str, QuantizedWeight] | None,
    folder: Path,
) -> Path:
    """Writes what turns pictures into vectors among the words; `engines.generate` runs it before the decoder in the folder.

    Args:
        model: a vision-language model of transformers, left as it was.
        pictures: what its processor makes of one picture or prompt, by name; others have to be of the same shape.
        quantized: rounded weights; those of the encoder and the connector are used.
        folder: made if missing.

    Returns:
        Path of the .xml file.

    Raises:
        InputError: the folder holds an encoder already, or the model takes no pictures in such a shape.
        NumericsError: the graph does not make the vectors that the model makes. Nothing is written.
    """
    path, token, encoder = _free(Path(folder) / ENCODER), picture_token(model), PictureEncoder(model)
    if any(len(tensor) != 1 for tensor in pictures.values()):
        sizes = {name: tuple(tensor.shape) for name, tensor in pictures.items()}
        raise InputError(f"Pictures are to be tensors of one row each, not {sizes}.", "Give one picture or one prompt.")
    example = dict(pictures), torch.ones(1, len(pictures), dtype=torch.bool)
    own = _used(encoder, example, quantized) if quantized else {}
    expected = TorchEngine(encoder, quantized=own)(*example)
    try:
        graph = to_graph(encoder, example, own)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"OpenVINO cannot trace how {type(model).__name__} reads pictures: {error}") from error
    graph.set_rt_info(str(token), TOKEN)
    _save(graph, path)
    made = OpenVINOEngine.read(path)(*example)
    difference = float(np.abs(made - expected).max() / max(expected.std(), 1e-12))
    if not difference <= AGREE:
        path.unlink()
        path.with_suffix(".bin").unlink()
        raise NumericsError(
            f"The exported encoder's vectors are {difference:.1%} of their spread apart from those of {type(model).__name__}.",
            "Nothing was written; encode pictures with PyTorch, and report the architecture.",
        )
    return path


def _used(
    encoder: PictureEncoder, example: Example, quantized: Mapping[str, QuantizedWeight]
) -> dict[str, QuantizedWeight]:
    """The rounded weights that the vectors depend on, by their names in the encoder; layers may run for nothing."""
    names = {f"model.{name}": item for name, item in quantized.items()}
    parameters = {name: view.parameter for name, view in layers.weights(encoder).items() if name in names}
    frozen = [parameter for parameter in parameters.values() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    with torch.enable_grad():
        gradients = torch.autograd.grad(encoder(*example).sum(), [*parameters.values()], allow_unused=True)
    for parameter in frozen:
        parameter.requires_grad_(False)
    return {name: names[name] for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _free(path: Path) -> Path:
    if path.exists():
        raise InputError(f"{path} exists already.", "Name another folder, or remove it first.")
    return path


def _save(graph: ov.Model, path: Path) -> None:
    graph.reshape({port: ov.PartialShape([1, *list(port.get_partial_shape())[1:]]) for port in graph.inputs})
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(graph, path, compress_to_fp16=False)
