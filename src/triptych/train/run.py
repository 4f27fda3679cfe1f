"""From a recipe and a table to a published model folder."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triptych import artifact, console
from triptych.data.check import check
from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.show import show
from triptych.data.splits import Splits, read_splits
from triptych.data.table import Table
from triptych.errors import InputError
from triptych.models.make import make_model
from triptych.models.store import Loaded, read_model, write_model
from triptych.models.summary import summarize
from triptych.recipe import DataSettings, Recipe, read_recipe, write_recipe
from triptych.train.automatic import Allowance, choose
from triptych.train.draft import Reason
from triptych.train.log import read_log
from triptych.train.loop import train

RECIPE = ".recipe.yaml"  # what is chosen without a recipe, beside the model


@dataclass
class TrainedModel:
    """A published model, the data it was trained on, and its log."""

    loaded: Loaded
    splits: Splits
    log: list[dict[str, float]]


def train_recipe(recipe: Recipe, out: Path, *, strict: bool = False) -> TrainedModel:
    """Check the data, train, and publish the model in `out`.

    The same call continues a run that was stopped, and returns at once where the run is complete. Checkpoints and the log stand
    beside `out` in a folder of the same name that ends in `.work`.

    Raises:
        InputError: bad data or a recipe that does not fit it.
        ArtifactError: `out` holds something else.
        Stopped: interrupted; the same call continues.
    """
    splits = _read(recipe.data, recipe.train.seed)
    return _train(recipe, splits, out, strict=strict)


def train_data(
    data: DataSettings, out: Path, *, minutes: float, memory: int | None = None, strict: bool = False
) -> TrainedModel:
    """Train without a recipe: one is chosen for the data, the minutes and the bytes of memory (see `automatic`), and kept beside `out`.

    The same call continues a run that was stopped, with the recipe that it chose.

    Raises:
        InputError, ArtifactError, Stopped: as `train_recipe`; or a recipe of another choice stands beside `out`.
    """
    began = time.monotonic()
    allowance = Allowance.of(minutes, memory)
    splits = _read(data, seed=0)
    kept = out.with_name(out.name + RECIPE)
    amount = f" and {console.human_bytes(memory)}" if memory else ""
    heading = f"# Chosen for {minutes:g} minutes{amount}, data {splits.sha256[:16]}.\n"
    usable = None
    if not kept.exists():
        usable = _usable(splits, strict=strict)
        chosen = choose(data, Splits(usable, splits.schema), allowance, began)
        console.table("the recipe that was chosen", Reason._fields, chosen.reasons)
        artifact.write_file(kept, heading + write_recipe(chosen.recipe))
    elif not kept.read_text(encoding="utf-8").startswith(heading):
        raise InputError(
            f"{kept} was chosen for other data, minutes or memory.",
            f"Train it as it is (`triptych train {kept}`), remove it, or give another --out.",
        )
    console.say(f"the recipe is in {kept}; change what you like and give it to `triptych train`")
    return _train(read_recipe(kept), splits, out, usable, strict=strict)


def _read(data: DataSettings, seed: int) -> Splits:
    """The tables, with a target.

    Raises:
        InputError: no data, or no target in it.
    """
    if data.path is None:
        raise InputError("The recipe names no data.", "Set data.path, or give the data on the command line.")
    splits = read_splits(Path(data.path), target=data.target, overrides=data.columns, seed=seed)
    if splits.schema.target is None:
        raise InputError(
            f"No column of {data.path} is known to be the target.",
            f"Name it with --target; the columns are: {', '.join(f.name for f in splits.schema.fields)}.",
        )
    return splits


def _usable(splits: Splits, *, strict: bool) -> dict[str, Table]:
    """Check the data; the rows that a model can learn from.

    Raises:
        InputError: nothing usable; or anything is wrong and `strict` is set.
    """
    report = check(splits.tables, splits.schema)
    show(report, splits.schema)
    report.raise_errors(strict=strict)
    return {name: table.take(report.usable(name)) for name, table in splits.tables.items()}


def _train(
    recipe: Recipe, splits: Splits, out: Path, usable: dict[str, Table] | None = None, *, strict: bool
) -> TrainedModel:
    """Train on the usable rows (default: those that a check finds) and publish."""
    identity: dict[str, Any] = {
        "kind": "model",
        "data": splits.sha256,
        "recipe": recipe.model_dump(mode="json", exclude={"data": {"path"}, "train": {"cache_bytes"}}),
    }
    work = out.with_name(out.name + ".work")
    if artifact.existing(out, identity):
        console.say(f"{out} is complete; nothing to do")
        return TrainedModel(read_model(out), splits, _log(work))
    artifact.claim(work, identity)
    tables = usable or _usable(splits, strict=strict)
    features = {name: settings.features for name, settings in recipe.model.inputs.items()}
    processor = Processor.fit(tables["train"], splits.schema, features, recipe.model.target)
    rows = Samples(tables["train"], processor, splits.schema, recipe.train.cache_bytes)
    valid = Samples(tables["valid"], processor, splits.schema, recipe.train.cache_bytes)
    assert rows.labels is not None  # the schema has a target
    model = make_model(recipe.model, processor, rows.labels, recipe.train.seed)
    layers = summarize(model)
    parameters = sum(p.numel() for p in model.parameters())
    macs = sum(row.macs for row in layers)
    console.say(f"{parameters:,} parameters, {macs:,} multiply-adds a sample; `triptych inspect` lists the layers")
    train(model, rows, valid, recipe.train, folder=work)
    finish = getattr(model.task, "finish", None)
    if finish is not None:
        model.config.task = {**model.config.task, **finish()}
    with artifact.publish(out, identity) as staging:
        write_model(staging, model, processor)
        (staging / "recipe.yaml").write_text(write_recipe(recipe), encoding="utf-8")
    return TrainedModel(read_model(out), splits, _log(work))


def _log(work: Path) -> list[dict[str, float]]:
    path = work / "log.jsonl"
    return read_log(path) if path.exists() else []
