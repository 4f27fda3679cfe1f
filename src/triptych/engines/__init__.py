"""Engines run a model: PyTorch, where models are made, and OpenVINO, the default on embedded CPUs, behind one interface.

Engine classes are found with `registry.find("engine", name)` once their module is imported, and share one constructor:
`(model, example, quantized=None, threads=None)`.
"""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Example = tuple[dict[str, Tensor], Tensor]  # inputs by modality, and presence [batch, modalities]


@runtime_checkable
class Engine(Protocol):
    """Something that turns a batch into outputs."""

    name: str
    threads: int | None  # as asked for; None is the engine's own choice

    def __call__(
        self, inputs: dict[str, Tensor], presence: Bool[Tensor, "batch modalities"]
    ) -> Float[np.ndarray, "batch ..."] | Int[np.ndarray, "batch length"]:
        """The model's outputs for a batch of any size: logits, for a classifier; token ids, for a model that writes."""
        ...
