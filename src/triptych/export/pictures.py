"""The encoder and connector of a vision-language model as an OpenVINO graph with our codes, beside the decoder of its words.

What `engines.generate` runs in such a folder is compared with the model as a whole before it counts: a model whose words look at
pictures in a way of their own (both ways, or at positions in two dimensions) is no decoder of ours with vectors in between.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openvino as ov
import torch
from torch import Tensor
from transformers import PreTrainedModel

from triptych.compress.quantize import layers
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines import Example
from triptych.engines.graph import to_graph
from triptych.engines.onnxruntime import OnnxDecoder
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.pictures import NAME, TOKEN, PictureEncoder, open_encoder, picture_token, placed
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError, NumericsError
from triptych.export.onnx import NAME as DECODER

AGREE = 0.02  # of the spread of what is compared, as the root of the mean square
WORDS = 6  # before and after the pictures of the prompt that is compared


def export(
    model: PreTrainedModel,
    pictures: Mapping[str, Tensor],
    quantized: Mapping[str, QuantizedWeight] | None,
    folder: Path,
) -> Path:
    """Writes the encoder into a folder that `export.onnx` wrote the decoder into.

    Args:
        model: a vision-language model of transformers whose weights are what the codes stand for; left as it was.
        pictures: what its processor makes of the pictures of one prompt, by name; others have to be of the same shape.
        quantized: rounded weights; those that the encoder uses are taken.
        folder: of the decoder.

    Returns:
        Path of the .xml file.

    Raises:
        InputError: the folder holds an encoder already, or the model does not read pictures of such a shape.
        NumericsError: the folder would not answer as the model does. Nothing is written.
    """
    path, token, encoder = Path(folder) / NAME, picture_token(model), PictureEncoder(model)
    if path.exists():
        raise InputError(f"{path} exists already.", "Name another folder, or remove it first.")
    taken = inspect.signature(model.get_image_features).parameters
    pictures = {name: tensor for name, tensor in pictures.items() if name in taken}
    if {len(tensor) for tensor in pictures.values()} != {1}:
        sizes = {name: tuple(tensor.shape) for name, tensor in pictures.items()}
        raise InputError(f"Pictures are to be tensors of one row each, not {sizes}.", "Encode them with PyTorch.")
    example = pictures, torch.ones(1, len(pictures), dtype=torch.bool)
    try:
        own = _used(encoder, example, quantized) if quantized else {}
        expected = TorchEngine(encoder)(*example)
        graph = to_graph(encoder, example, own)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"How {type(model).__name__} reads pictures cannot be traced: {error}") from error
    graph.set_rt_info(str(token), TOKEN)
    graph.reshape({port: ov.PartialShape([1, *list(port.get_partial_shape())[1:]]) for port in graph.inputs})
    ov.save_model(graph, path, compress_to_fp16=False)
    try:
        _agree("vectors", OpenVINOEngine.read(path)(*example), expected, AGREE)
        _compare_answers(model, pictures, folder)
    except BaseException:
        path.unlink()
        path.with_suffix(".bin").unlink()
        raise
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


def _compare_answers(model: PreTrainedModel, pictures: Mapping[str, Tensor], folder: Path) -> None:
    """The logits after words, pictures and words, of the model and of the folder."""
    encoder, token = open_encoder(folder)
    width = model.get_input_embeddings().embedding_dim
    count = encoder(dict(pictures), torch.ones(1, len(pictures), dtype=torch.bool)).size // width
    words = torch.randint(token, (2, WORDS), generator=torch.Generator().manual_seed(0))  # none of them the token
    ids = torch.cat([words[0], torch.full((count,), token), words[1]])[None]
    try:
        with torch.no_grad():
            expected = model(input_ids=ids, **pictures).logits[0, -1].float().numpy()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{type(model).__name__} does not read a prompt of words and pictures: {error}") from error
    decoder = OnnxDecoder(Path(folder) / DECODER)
    decoder.reset(ids.shape[1])
    left, vectors = placed(encoder, token, ids, pictures)
    rounding = float(decoder.metadata.get("input_rounding", 0))
    _agree("answers", decoder(left[0].numpy(), vectors[0].numpy()), expected, AGREE + 3 * rounding)


def _agree(what: str, made: np.ndarray, expected: np.ndarray, limit: float) -> None:
    difference = float(np.sqrt(((made - expected) ** 2).mean()) / max(float(expected.std()), 1e-12))
    if not difference <= limit:
        raise NumericsError(
            f"With pictures, the exported {what} are {difference:.1%} of their spread apart from the model's.",
            "No encoder was written; run the whole model with PyTorch.",
        )
