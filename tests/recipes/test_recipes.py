"""Every recipe, made tiny, from training to an answer: its encoders, fusion, task and features are its own, sizes and rows are not."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn import COLUMNS, ROWS, table
from transformers import MobileNetV1Config, MobileNetV1Model, MobileNetV2Config, MobileNetV2Model

from triptych.artifact import read_manifest
from triptych.compress.gate import Contract
from triptych.compress.passes import Surroundings
from triptych.compress.plan import Distil
from triptych.compress.planner import Budget, make_plan
from triptych.compress.run import compress
from triptych.data.samples import Samples
from triptych.engines.torch import TorchEngine
from triptych.evaluate.predict import predict_fields
from triptych.evaluate.quality import conditions
from triptych.evaluate.verb import evaluate_models
from triptych.export.verb import export_model
from triptych.recipe import Recipe, parse, read_recipe
from triptych.tasks import settled
from triptych.train.run import train_recipe

ROOT = Path(__file__).parents[2]
RECIPES = [*sorted(ROOT.glob("recipes/*.yaml")), *sorted(ROOT.glob("examples/*/*.yaml"))]
MEDIA = ("image", "audio", "video", "series")
WIDE = ("width", "widths", "hidden", "embedding", "attention", "feedforward", "up", "hidden_sizes")
SEVERAL = {"stem": 8, "rank": 64, "layers": 1, "depths": 1, "frames": 4, "size": 48, "seconds": 1.0, "beams": 2}
LENGTHS = {"steps": 2, "batch_size": 8}
LARGEST = dict.fromkeys(WIDE, 24) | SEVERAL | LENGTHS  # of a setting by this name, wherever it stands
NARROW = {"depth_multiplier": 0.1, "min_depth": 8}
BACKBONES = {
    "google/mobilenet_v2_1.0_224": lambda: MobileNetV2Model(MobileNetV2Config(**NARROW)),
    "runs/backbones/yamnet": lambda: MobileNetV1Model(MobileNetV1Config(num_channels=1, tf_padding=True, **NARROW)),
}


def shrunk(said: Any, largest: float | None = None) -> Any:
    """Settings of which none is larger than `LARGEST` allows; lists shrink in proportion."""
    if isinstance(said, dict):
        return {name: shrunk(value, LARGEST.get(name)) for name, value in said.items()}
    if largest is None or isinstance(said, str):
        return said
    if isinstance(said, list | tuple):
        return [max(1, round(value * min(1, largest / max(said)))) for value in said]
    return min(said, largest)


def tiny(recipe: Recipe, data: Path, backbones: Path) -> Recipe:
    """The recipe in tiny form, on other data, with tiny copies of its backbones."""
    said = shrunk(recipe.model_dump(mode="json", exclude_unset=True))
    said["data"]["path"] = str(data)
    said["train"]["evaluate_every"] = 1
    for name, settings in said["model"]["inputs"].items():
        path = settings["encoder"].get("path")
        if path:
            assert path in BACKBONES, f"{name} is read by {path}, of which there is no tiny form: add one to BACKBONES."
            BACKBONES[path]().save_pretrained(backbones / path)
            settings["encoder"]["path"] = str(backbones / path)
    return parse(Recipe, said, "the tiny form")


def columns(file: Path, recipe: Recipe) -> dict[str, str]:
    """The columns of the table that a recipe names: an example says itself which it makes."""
    name = Path(recipe.data.path).parent.name if recipe.data.path else file.stem
    if name == file.parent.name:
        return import_module(f"examples.{name}.make").COLUMNS
    assert name in COLUMNS, f"{file.name} learns from the table {name!r}: say in drawn.COLUMNS which columns it has."
    return COLUMNS[name]


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_recipe_goes_all_the_way(file, tmp_path):
    recipe = read_recipe(file)
    data = table(tmp_path / "data", columns(file, recipe))
    model, small, openvino = (tmp_path / part for part in ("model", "small", "openvino"))

    trained = train_recipe(tiny(recipe, data, tmp_path), model)
    assert [entry["step"] for entry in trained.log if "loss" in entry] == [0, 1]

    fields = trained.loaded.model.fields
    measured = evaluate_models(model, data, engine="torch")["model"]
    assert {"all", "without", "shuffled"} <= measured["quality"].keys()
    assert np.isfinite(list(measured["metrics"].values())).all()

    rows, valid, test = (
        Samples(trained.splits.table(s), trained.loaded.processor, trained.splits.schema) for s in ROWS
    )
    budget = Budget(size_bytes=round(0.8 * read_manifest(model).size_bytes))
    around = Surroundings(trained.loaded.model, rows, valid, seed=0)
    (plan,) = make_plan(around, budget, distil=Distil(steps=2), model_sha256=trained.loaded.sha256, count=1)
    nothing = Contract(keep=0.0, keep_modality=0.0)
    outcome = compress(trained.loaded, trained.splits, small, budget=budget, contract=nothing, plan=plan)
    assert read_manifest(small).size_bytes <= budget.size_bytes
    assert set(outcome.after.scores) == set(conditions(fields))

    export_model(small, "openvino", openvino, data)
    assert (openvino / "openvino_model.xml").exists()

    kinds, cells = {field.name: field.kind for field in trained.splits.schema.inputs}, test.table.row(0)
    given = {field: test.table.root / cells[field] if kinds[field] in MEDIA else cells[field] for field in fields}
    one = test.batch([0])
    ours = outcome.loaded.model
    (expected,) = ours.task.answers(settled(ours.task, TorchEngine(ours)(one.inputs, one.presence)))
    answer = predict_fields(small, [f"{field}={cell}" for field, cell in given.items()])
    assert answer["answer"] == expected["answer"]
