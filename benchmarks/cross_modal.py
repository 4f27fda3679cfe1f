"""What one modality learns from another, each with the same model without it: handwritten and spoken digits.

    python -m benchmarks.cross_modal [shared] [missing] [distilled]

shared     two towers learn which picture goes with which clip, and no label; then one of them learns digits from few labels
missing    a fused model is tested with one modality missing: its learned token, or a guess from the other one
distilled  a model that hears learns from one that hears and sees, or from labels alone

Pictures and clips are paired by digit, so a pair says that two things are the same digit, though not which.
"""

import sys
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.tasks import run as tasks
from benchmarks.tasks.tables import WORK
from triptych import console
from triptych.compress.passes import distillation_loss
from triptych.compress.plan import Distil
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import Splits, read_splits
from triptych.engines.torch import TorchEngine
from triptych.evaluate.quality import measure
from triptych.models.fusion_model import FusionModel
from triptych.models.make import make_model
from triptych.recipe import Recipe
from triptych.train.loop import train
from triptych.train.run import train_recipe
from triptych.train.settings import TrainSettings

FOLDER = WORK / "cross_modal"
SEEDS = (0, 1, 2)
FIELDS = ("picture", "voice")
FEW = (20, 100)  # labelled rows
LABELLED = 100  # of the student and its teacher
SHORT = TrainSettings(
    steps=150, batch_size=50, evaluate_every=150, modality_dropout=0.0
)  # the last weights: no row is chosen by
STUDENT = {"name": "cnn", "stem": 16, "stem_stride": 2, "widths": [24, 48], "blocks": [1, 1]}
DISTIL = Distil(steps=300, losses={"logits": 1.0}, modality_dropout=0.0)


def other(field: str) -> str:
    return FIELDS[1 - FIELDS.index(field)]


def with_model(recipe: Recipe, **parts: Any) -> Recipe:
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=parts)})


def few(splits: Splits, count: int, seed: int) -> list[int]:
    """Rows of the training table, as many of each digit."""
    digits = np.array(splits.table("train").column("digit"))
    rng = np.random.default_rng(seed)
    each = [rng.choice(np.flatnonzero(digits == digit), count // 10, replace=False) for digit in np.unique(digits)]
    return sorted(np.concatenate(each).tolist())


def accuracy(model: FusionModel, rows: Samples, *conditions: str) -> list[float]:
    """On test rows, under each condition."""
    found = measure(TorchEngine(model), model.task, rows, only=list(conditions or ("all",)))
    return [found.mean(condition) for condition in conditions or ("all",)]


def one_alone(recipe: Recipe, field: str) -> tuple[Recipe, Splits, Processor]:
    """The recipe, tables and processor of a model that reads one field."""
    settings = recipe.model.model_copy(update={"inputs": {field: recipe.model.inputs[field]}})
    splits = read_splits(tasks.tables("digits"), target="digit", overrides={other(field): "ignore"})
    processor = Processor.fit(splits.table("train"), splits.schema, {field: settings.inputs[field].features})
    return recipe.model_copy(update={"model": settings}), splits, processor


def shared() -> list[dict[str, Any]]:
    """Test accuracy from few labels, from fresh weights and from those that learned pairs."""
    recipe = tasks.recipe("digits", {})
    columns = {"digit": "ignore", "clip_id": "identity:target"}
    pairs = recipe.model_copy(update={"data": recipe.data.model_copy(update={"target": "clip_id", "columns": columns})})
    pairs = with_model(pairs, fusion={"name": "separate", "width": 64}, task={"name": "retrieve"})
    learned = train_recipe(pairs, FOLDER / "pairs").loaded.model.state_dict()
    rows = []
    for field in FIELDS:
        alone, splits, processor = one_alone(recipe, field)
        valid, test = (Samples(splits.table(split), processor, splits.schema) for split in ("valid", "test"))
        for count in FEW:
            found: dict[str, list[float]] = {"fresh": [], "pairs": []}
            for seed, start in product(SEEDS, found):
                some = splits.table("train").take(few(splits, count, seed))
                labelled = Samples(some, processor, splits.schema)
                model = make_model(alone.model, processor, labelled.labels, seed)
                if start == "pairs":
                    own = (f"encoders.{field}.", f"projectors.{field}.")
                    tower = {name: value for name, value in learned.items() if name.startswith(own)}
                    model.load_state_dict(tower, strict=False)
                train(model, labelled, valid, SHORT.model_copy(update={"seed": seed}), label=f"{field} {start}")
                found[start] += accuracy(model, test)
            rows.append({"field": field, "labels": count, "before": found["fresh"], "after": found["pairs"]})
    return rows


def missing() -> list[dict[str, Any]]:
    """Test accuracy with all, without the picture and without the voice, by the learned token and by a guess."""
    recipe = tasks.recipe("digits", {})
    rows = []
    for dropout in (0.0, 0.1):
        found = {}
        for name, weight in (("before", 0.0), ("after", 1.0)):
            asked = with_model(recipe, fusion={**recipe.model.fusion, "reconstruct": weight})
            asked = asked.model_copy(update={"train": asked.train.model_copy(update={"modality_dropout": dropout})})
            made = train_recipe(asked, FOLDER / f"{name}-{dropout}")
            test = Samples(made.splits.table("test"), made.loaded.processor, made.splits.schema)
            conditions = ("all", *(f"without:{field}" for field in FIELDS))
            found[name] = dict(zip(conditions, accuracy(made.loaded.model, test, *conditions), strict=True))
        rows.append({"modality_dropout": dropout, **found})
    return rows


def distilled() -> list[dict[str, Any]]:
    """Test accuracy of a small model that hears: taught by the labels of some rows, or by a teacher with the same labels."""
    recipe = tasks.recipe("digits", {})
    listener, splits, processor = one_alone(recipe, "voice")
    hears = {"voice": listener.model.inputs["voice"].model_copy(update={"encoder": STUDENT})}
    settings = listener.model.model_copy(update={"inputs": hears})
    valid, test = (Samples(splits.table(split), processor, splits.schema) for split in ("valid", "test"))
    both = read_splits(tasks.tables("digits"), target="digit")
    features = {name: told.features for name, told in recipe.model.inputs.items()}
    sees = Processor.fit(both.table("train"), both.schema, features)
    pairs = {split: Samples(table, sees, both.schema) for split, table in both.tables.items()}
    rows = []
    for count in (LABELLED, len(splits.table("train"))):
        found: dict[str, list[float]] = {"teacher": [], "before": [], "after": []}
        for seed in SEEDS:
            chosen = few(splits, count, seed) if count == LABELLED else list(range(count))
            teacher = _teacher(recipe, pairs["train"], pairs["valid"], chosen, seed)
            found["teacher"] += accuracy(teacher, pairs["test"])
            labelled = Samples(splits.table("train").take(chosen), processor, splits.schema)
            lesson = DISTIL.training(seed).model_copy(update={"evaluate_every": DISTIL.steps})
            alone = make_model(settings, processor, labelled.labels, seed)
            train(alone, labelled, valid, lesson, label="labels alone")
            found["before"] += accuracy(alone, test)
            student = make_model(settings, processor, labelled.labels, seed)
            objective = distillation_loss(teacher, DISTIL)
            train(student, pairs["train"], valid, lesson, objective=objective, label="from the teacher")
            found["after"] += accuracy(student, test)
        rows.append({"labels": count, **found})
    return rows


def _teacher(recipe: Recipe, rows: Samples, valid: Samples, chosen: list[int], seed: int) -> FusionModel:
    """A model that hears and sees, trained on the labels of some rows."""
    labelled = Samples(rows.table.take(chosen), rows.processor, rows.schema)
    model = make_model(recipe.model, rows.processor, labelled.labels, seed)
    settings = recipe.train.model_copy(update={"seed": seed, "evaluate_every": recipe.train.steps})
    train(model, labelled, valid, settings, label="teacher")
    return model


def show(parts: dict[str, Any]) -> None:
    """One table for all parts."""
    rows: list[list[object]] = []
    for row in parts.get("shared", []):
        what = f"{row['field']}, {row['labels']} labels, towers that learned pairs"
        rows.append([what, _mean(row["before"]), _mean(row["after"])])
    for row in parts.get("missing", []):
        for condition, before in row["before"].items():
            what = f"{condition.replace(':', ' ')}, modality dropout {row['modality_dropout']}, guessed"
            rows.append([what, _mean([before]), _mean([row["after"][condition]])])
    for row in parts.get("distilled", []):
        what = f"voice, {row['labels']} labels, taught by one who sees too ({_mean(row['teacher'])})"
        rows.append([what, _mean(row["before"]), _mean(row["after"])])
    console.table("test accuracy", ["", "before", "after"], rows)


def _mean(scores: list[float]) -> str:
    spread = f" ({min(scores):.1%} to {max(scores):.1%})" if len(scores) > 1 else ""
    return f"{np.mean(scores):.1%}{spread}"


def main() -> None:
    """The parts that were named, or all."""
    torch.set_num_threads(1)  # so that another machine with more cores finds the same
    parts = record.read("cross_modal").get("parts", {})
    for name in sys.argv[1:] or ("shared", "missing", "distilled"):
        parts[name] = {"shared": shared, "missing": missing, "distilled": distilled}[name]()
        record.write("cross_modal", {"seeds": list(SEEDS), "parts": parts})
    show(parts)


if __name__ == "__main__":
    main()
