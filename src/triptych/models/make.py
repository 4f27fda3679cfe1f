"""From the `model` part of a recipe and the data's shapes to a model with fresh weights; what the recipe leaves open is filled in."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from triptych.errors import InputError
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.recipe import ModelSettings
from triptych.registry import find
from triptych.structure import Features

ENCODERS = {"image": "cnn", "audio": "cnn", "video": "frames", "text": "cnn", "category": "mlp", "number": "mlp"}


def make_model(
    settings: ModelSettings,
    shapes: Mapping[str, Features],
    labels: Sequence[str] | None,
    targets: Float[np.ndarray, " rows"] | Int[np.ndarray, " rows"],
    seed: int,
) -> FusionModel:
    """A model with freshly drawn weights; the same seed draws the same.

    Args:
        settings: of the recipe.
        shapes: of the processor, by input column.
        labels: the class names, or None where the target is a number.
        targets: of the training rows, from which the task takes class weights or the target's mean and deviation.
        seed: of the weights.

    Raises:
        InputError: an input that the data lacks, an unknown component, a setting that does not fit.
    """
    for name in settings.inputs:
        if name not in shapes:
            raise InputError(
                f"The recipe describes the input {name!r}, which the data does not have.",
                f"The inputs are: {', '.join(shapes)}.",
            )
    inputs = {}
    for name, features in shapes.items():
        encoder = dict(settings.inputs[name].encoder) if name in settings.inputs else {}
        encoder.setdefault("name", ENCODERS[features.kind])
        inputs[name] = {"features": features.model_dump(mode="json"), "encoder": encoder}
    task: dict[str, Any] = {"name": "classify" if labels else "regress", **settings.task}
    task = find("task", task["name"]).fit(task, labels, targets)
    torch.manual_seed(seed)
    return FusionModel(FusionConfig(inputs=inputs, fusion=dict(settings.fusion), task=task))
