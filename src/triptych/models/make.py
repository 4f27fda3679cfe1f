"""From the `model` part of a recipe and the data's shapes to a model with fresh weights; what the recipe leaves open is filled in."""

from typing import Any

import torch

from triptych.data.processor import Processor
from triptych.data.target import Labels
from triptych.errors import InputError
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.recipe import ModelSettings
from triptych.registry import find

TASKS = {
    "category": "classify",
    "number": "regress",
    "text": "write",
    "audio": "speak",
    "image": "draw",
    "mask": "segment",
    "boxes": "detect",
    "identity": "retrieve",
}
FUSIONS = {"vector": "bilinear", "tokens": "sequence", "modalities": "separate"}  # by what the task reads
ENCODERS = {
    "image": "cnn",
    "audio": "cnn",
    "video": "frames",
    "series": "rnn",
    "text": "cnn",
    "category": "mlp",
    "number": "mlp",
}


def make_model(
    settings: ModelSettings,
    processor: Processor,
    targets: Labels,
    seed: int,
) -> FusionModel:
    """A model with freshly drawn weights; the same seed draws the same.

    Args:
        settings: of the recipe.
        processor: fitted on the training rows: says what each encoder reads and what the target is.
        targets: of the training rows, from which the task takes class weights or the target's mean and deviation.
        seed: of the weights.

    Raises:
        InputError: an input that the data lacks, an unknown component, a setting that does not fit.
    """
    shapes, target = processor.shapes, processor.target
    if target is None:
        raise InputError("The data has no target, which a model learns.", "Name its column with data.target.")
    for name in settings.inputs:
        if name not in shapes:
            raise InputError(
                f"The recipe describes the input {name!r}, which the data does not have.",
                f"The inputs are: {', '.join(shapes)}.",
            )
    inputs = {}
    below = target.overlay.picture if target.overlay is not None else None
    for name, features in shapes.items():
        encoder = dict(settings.inputs[name].encoder) if name in settings.inputs else {}
        encoder.setdefault("name", "unet" if name == below else ENCODERS[features.kind])
        inputs[name] = {"features": features.model_dump(mode="json"), "encoder": encoder}
    task: dict[str, Any] = {"name": TASKS[target.kind], **settings.task}
    task = find("task", task["name"]).fit(task, target, targets)
    usual: dict[str, Any] = {"name": FUSIONS[getattr(find("task", task["name"]), "reads", "vector")]}
    if below is not None:
        usual = {"name": "context", "onto": list(shapes).index(below)}
    chosen = settings.fusion.get("name", usual["name"])
    fusion = {"width": 128, **(usual if chosen == usual["name"] else {}), **settings.fusion}
    torch.manual_seed(seed)
    return FusionModel(FusionConfig(inputs=inputs, fusion=fusion, task=task))
