"""Every task: trained by its recipe, made a quarter of its bytes, exported and asked; what parts of its input can do stands beside it.

    python -m benchmarks.tasks.run [--anew] [NAME ...]

Each finished task is kept in results/tasks/NAME.json. Without names all that have no row yet are done, and what an earlier run finished
is used; `--anew` throws that away first.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.packs import backbone
from benchmarks.tasks.tables import WORK, table
from triptych import console
from triptych.compress.verb import Request, carry_out
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.demo import bundled
from triptych.engines.torch import TorchEngine
from triptych.errors import ContractBroken
from triptych.evaluate.predict import predict_fields
from triptych.evaluate.quality import measure
from triptych.export.verb import export_model
from triptych.recipe import InputSettings, Recipe, read_recipe
from triptych.train.run import TrainedModel, train_recipe

SIZE, KEEP = "25%", "97%"
RECIPES = sorted(file.stem for file in bundled("recipes").glob("*.yaml") if file.stem != "odd_one_out")
Change = Mapping[
    str, dict[str, Any] | None
]  # by input: features that are set otherwise, or None for an input that is hidden

# Models that are trained beside a task's own, in addition to one for each input alone.
BESIDE: dict[str, dict[str, Change]] = {
    "moving": {"one frame": {"film": {"frames": 1}}},
    "order": {"price and customer": {"quantity": None}},
}


def tables(name: str) -> Path:
    """The folder of the tables that a recipe learns from, made once; several recipes may share one."""
    found = read_recipe(bundled("recipes") / f"{name}.yaml")
    return table(Path(str(found.data.path)).parent.name)


def recipe(name: str, change: Change) -> Recipe:
    """The task's recipe on its tables, with backbones from `TRIPTYCH_MODELS`, changed."""
    found = read_recipe(bundled("recipes") / f"{name}.yaml")
    kinds = {field.name: field.kind for field in read_splits(tables(name)).schema.inputs}
    hidden = {field: f"{kinds[field]}:ignore" for field, features in change.items() if features is None}
    inputs = {
        field: _stored(said.model_copy(update={"features": {**said.features, **(change.get(field) or {})}}))
        for field, said in found.model.inputs.items()
        if field not in hidden
    }
    data = found.data.model_copy(update={"path": str(tables(name)), "columns": {**found.data.columns, **hidden}})
    return found.model_copy(update={"data": data, "model": found.model.model_copy(update={"inputs": inputs})})


def _stored(settings: InputSettings) -> InputSettings:
    """The same input with a backbone of the hub read from the folder that holds a copy of it."""
    path = settings.encoder.get("path")
    encoder = {**settings.encoder, "path": str(backbone(path))} if path else settings.encoder
    return settings.model_copy(update={"encoder": encoder})


def scored(trained: TrainedModel) -> dict[str, float]:
    """What a model reaches on the test rows."""
    rows = Samples(trained.splits.table("test"), trained.loaded.processor, trained.splits.schema)
    return measure(TorchEngine(trained.loaded.model), trained.loaded.model.task, rows, only=["all"]).metrics


def beside(name: str) -> dict[str, dict[str, float]]:
    """The same recipe with one input alone, for every input that can answer alone, and with the changes that `BESIDE` names."""
    schema = read_splits(tables(name)).schema
    matched = schema.target is not None and schema.target.kind == "identity"
    fields = [field.name for field in schema.inputs]
    several = len(fields) > 1 and not matched
    alone: dict[str, Change] = {f: {other: None for other in fields if other != f} for f in fields if several}
    changes = alone | BESIDE.get(name, {})
    return {label: scored(train_recipe(recipe(name, change), WORK / name / label)) for label, change in changes.items()}


def timed(name: str) -> tuple[TrainedModel, float]:
    """The task's model, and the minutes that its training took when it was done, perhaps by an earlier run."""
    clock = WORK / name / "minutes.txt"
    began = time.monotonic()
    trained = train_recipe(recipe(name, {}), WORK / name / "model")
    if not clock.exists():
        clock.write_text(str((time.monotonic() - began) / 60))
    return trained, float(clock.read_text())


def measured(name: str) -> dict[str, Any]:
    """Train, compress, export, ask for one row, and look up what the report says."""
    folder = WORK / name
    trained, minutes = timed(name)
    request = Request(model=folder / "model", data=tables(name), out=folder / "compressed", size=SIZE, keep=KEEP)
    command = f"triptych compress {folder / 'model'} --data {tables(name)} --size {SIZE} --keep {KEEP}"
    try:
        carry_out(request, command=command, log=trained.log)
    except ContractBroken as broken:
        print(broken)
    export_model(folder / "compressed", "openvino", folder / "openvino", tables(name))
    report = json.loads((folder / "report.json").read_text())
    models = {"all of it": scored(trained), **beside(name)}
    shown = [[label, *(f"{value:.4g}" for value in metrics.values())] for label, metrics in models.items()]
    console.table(f"{name}, test rows, by what is read", ["", *models["all of it"]], shown)
    return {
        "minutes_to_train": minutes,
        **{key: report[key] for key in ("before", "after", "ratio", "contract")},
        "models": models,
        "asked": asked(trained, name),
    }


def asked(trained: TrainedModel, name: str) -> dict[str, Any]:
    """The compressed model's answer to the first test row, its cells given as a person would type them."""
    rows = trained.splits.table("test")
    files = ("image", "audio", "video", "series")
    media = {field.name for field in trained.splits.schema.inputs if field.kind in files}
    row = rows.row(0)
    given = {field: rows.root / row[field] if field in media else row[field] for field in trained.loaded.model.fields}
    target = trained.splits.schema.target
    assert target is not None
    answer = predict_fields(WORK / name / "compressed", [f"{field}={cell}" for field, cell in given.items()])
    return {"given": {f: str(row[f]) for f in given}, "truth": str(row[target.name]), **answer}


def main() -> None:
    """The tasks that were named, or all that have no row yet."""
    names = [name for name in sys.argv[1:] if name != "--anew"]
    if "--anew" in sys.argv[1:]:
        for made in (made for name in names for made in (WORK / name).glob("*") if made.name != "data"):
            shutil.rmtree(made) if made.is_dir() else made.unlink()
    for name in names or [name for name in RECIPES if not record.read(f"tasks/{name}")]:
        record.write(f"tasks/{name}", measured(name))


if __name__ == "__main__":
    main()
