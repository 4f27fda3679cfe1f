"""The vision tower of SmolVLM-256M (12 layers of 768, one image of 512 px in patches of 16, random weights) on this CPU.

Engines take turns: PyTorch and OpenVINO in float32, and OpenVINO with our eight-bit weights and inputs.
"""

import time
from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from triptych.compress.quantize import layers, moments
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.rounding import quantize_weight
from triptych.engines import Engine
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine

SIZE = 512
W8A8 = LayerScheme(weight=Grid(bits=8), activation=8, method="rtn")


class Tower(nn.Module):
    """The encoder alone, called as engines call a model."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = Idefics3VisionTransformer(
            Idefics3VisionConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
                image_size=SIZE,
                patch_size=16,
            )
        )

    def forward(self, inputs: dict[str, Tensor], presence: Tensor) -> Float[Tensor, "batch values"]:  # noqa: ARG002
        """Vectors of all patches, side by side."""
        return self.vision(inputs["image"]).last_hidden_state.flatten(1)


def images(count: int) -> tuple[dict[str, Tensor], Tensor]:
    """Noise."""
    pixels = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return {"image": pixels}, torch.ones(count, 1, dtype=torch.bool)


def measure(threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds an image: the median and the quartiles of each engine, and how far its outputs are from PyTorch's."""
    torch.manual_seed(0)
    model = Tower().eval()
    found = moments.collect(model, [images(2)])
    chosen = {
        name: quantize_weight(view, W8A8, found[name])
        for name, view in layers.weights(model).items()
        if view.kind == "linear" and name in found
    }
    engines: dict[str, Engine] = {
        "torch_float": TorchEngine(model, threads=threads),
        "openvino_float": OpenVINOEngine(model, images(2), None, threads),
        "openvino_w8a8": OpenVINOEngine(model, images(2), chosen, threads),
    }
    taken, image = defaultdict(list), images(1)
    expected = engines["torch_float"](*image)
    error = {name: float(np.sqrt(((engine(*image) - expected) ** 2).mean())) for name, engine in engines.items()}
    for turn in range(rounds):
        for name in list(engines) if turn % 2 else reversed(engines):
            start = time.perf_counter()
            engines[name](*image)
            taken[name].append(1000 * (time.perf_counter() - start))
    result = {}
    for name in engines:
        low, median, high = (float(value) for value in np.percentile(taken[name], [25, 50, 75]))
        result[name] = {"median": median, "low": low, "high": high, "error": error[name] / float(expected.std())}
    return result
