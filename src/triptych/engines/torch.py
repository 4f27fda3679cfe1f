"""PyTorch as an engine: the reference that the others are compared with.

With rounded weights it runs a fake-quantised copy: float products of the values that the codes stand for.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from triptych.compress.quantize import layers
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines import Example
from triptych.registry import register


def logits(output: Any) -> Float[Tensor, "batch ..."] | Int[Tensor, "batch length"]:
    """The output tensor of a model that returns it or an object with `.logits`."""
    return output if isinstance(output, Tensor) else output.logits


@register("engine", "torch")
class TorchEngine:
    """Runs a model in PyTorch.

    Args:
        model: called as model(inputs, presence); put into evaluation mode.
        example: not needed here; engines share one constructor.
        quantized: rounded weights, applied to a copy.
        threads: PyTorch's threads within a product while this engine runs; None leaves them as they are.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        example: Example | None = None,  # noqa: ARG002 - engines share one constructor
        quantized: Mapping[str, QuantizedWeight] | None = None,
        threads: int | None = None,
    ) -> None:
        if quantized:
            model = copy.deepcopy(model)
            layers.apply(model, quantized)
        self.model, self.threads = model.eval(), threads

    def __call__(
        self, inputs: dict[str, Tensor], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[np.ndarray, "batch ..."] | Int[np.ndarray, "batch length"]:
        """The model's outputs for a batch."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with torch.inference_mode():
                outputs = logits(self.model(inputs, presence))
                return (outputs.float() if outputs.is_floating_point() else outputs).numpy()
        finally:
            torch.set_num_threads(before)
