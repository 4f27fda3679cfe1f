"""The bundled task, trained with changes to its recipe; what the other benchmarks share."""

import time
from pathlib import Path
from typing import Any

from triptych.data.samples import Samples
from triptych.demo import bundled, bundled_generator, make_data
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.evaluate.quality import measure
from triptych.evaluate.speed import side_by_side
from triptych.models.fusion_model import FusionModel
from triptych.recipe import Recipe, read_recipe
from triptych.train.run import TrainedModel, train_recipe

WORK = Path("runs/bench")


def data(leave_out_speaker: str | None = None) -> Path:
    """The tables, made once."""
    folder = WORK / "data" / (leave_out_speaker or "all")
    if leave_out_speaker is None:
        make_data(folder)
    elif not (folder / "left_out.csv").exists():
        bundled_generator().make(folder, leave_out_speaker=leave_out_speaker)
    return folder


def recipe(source: Path, **train: Any) -> Recipe:
    """The demo's recipe on this data, with changed training settings."""
    found = read_recipe(bundled("recipes") / "odd_one_out.yaml")
    return found.model_copy(
        update={
            "data": found.data.model_copy(update={"path": str(source)}),
            "train": found.train.model_copy(update=train),
        }
    )


def trained(name: str, wanted: Recipe) -> tuple[TrainedModel, float]:
    """A model trained by a recipe (or found, where an earlier run finished it), and the minutes it took."""
    began = time.monotonic()
    model = train_recipe(wanted, WORK / name)
    minutes = (time.monotonic() - began) / 60
    note = WORK / f"{name}.minutes"
    if not note.exists():
        note.write_text(str(minutes))
    return model, float(note.read_text())


def held_out(model: TrainedModel, split: str = "test") -> Samples:
    """The held-out rows, as the model reads them."""
    return Samples(model.splits.table(split), model.loaded.processor, model.splits.schema)


def measured(model: FusionModel, rows: Samples) -> dict[str, Any]:
    """Accuracy with all modalities, parameters, and latency of one sample in both engines, each with its best threads."""
    one = rows.batch([0])
    example = (one.inputs, one.presence)
    quality = measure(OpenVINOEngine(model, example), model.task, rows, only=["all"])
    makers = {
        "torch": lambda threads: TorchEngine(model, threads=threads),
        "openvino": lambda threads: OpenVINOEngine(model, example, None, threads),
    }
    speed, _ = side_by_side(makers, one)
    return {
        "accuracy": quality.mean(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "latency_ms": {name: item.p50_ms for name, item in speed.items()},
    }
